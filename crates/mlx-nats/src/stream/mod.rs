//! Token streams: one request, many frames, exactly one end.

mod assembly;
mod backlog;
mod gather;
mod incarnation;
mod recall;
mod requester;
mod responder;
mod route;
mod run;
mod running;
mod silence;
mod sink;

/// In [`headers::ACCEPT`](crate::headers::ACCEPT): frames of several tokens.
pub(crate) const TOKENS: &str = "tokens";

/// In the same place: plain frames that say which incarnation sends them. Whoever reads any other kind reads these too.
const EPOCH: &str = "epoch";

pub use requester::{StreamSummary, TokenFrame, TokenStream};
pub use responder::{InferenceOptions, InferenceService};
pub use sink::TokenSink;

#[cfg(feature = "durable")]
pub(crate) use requester::Opening;
#[cfg(feature = "durable")]
pub(crate) use responder::{finish, is_disconnection, offers_tokens, pass_on, send_end};
#[cfg(feature = "durable")]
pub(crate) use route::Route;
#[cfg(feature = "durable")]
pub(crate) use running::{Entry, Running};
#[cfg(feature = "durable")]
pub(crate) use sink::{Marks, OutgoingStream};
