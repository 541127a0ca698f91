//! What crosses the bus: subjects, headers, payloads, and the inbox that answers come back to.

pub(crate) mod address;
pub(crate) mod codec;
pub(crate) mod control_line;
pub(crate) mod error_reply;
pub(crate) mod headers;
pub(crate) mod inbox;
pub(crate) mod refused;
pub(crate) mod surrogates;

pub use address::{PublishTo, RequestTo, ServeTo, SubscribeTo};
pub use headers::Headers;
