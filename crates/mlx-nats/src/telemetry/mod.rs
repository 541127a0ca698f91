//! What is told of the client to others: figures, spans, and lines of log that a peer cannot multiply.

pub(crate) mod log_limit;
pub(crate) mod measure;
pub(crate) mod trace;
