//! Token streams: one request, many frames, exactly one end.

mod assembly;
mod backlog;
mod gather;
mod requester;
mod responder;
mod sink;

/// In [`headers::ACCEPT`](crate::headers::ACCEPT): frames of several tokens.
const TOKENS: &str = "tokens";

pub use requester::{StreamSummary, TokenFrame, TokenStream};
pub use responder::{InferenceOptions, InferenceService};
pub use sink::TokenSink;
