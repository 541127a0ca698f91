//! Token streams: one request, many frames, exactly one end.

mod assembly;
mod requester;
mod responder;
mod sink;

pub use requester::{StreamSummary, TokenFrame, TokenStream};
pub use responder::{InferenceOptions, InferenceService};
pub use sink::TokenSink;
