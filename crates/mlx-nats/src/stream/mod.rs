//! Token streams: one request, many frames, exactly one end.

mod assembly;
mod backlog;
mod cancel;
mod coalesce;
mod incarnation;
mod lifeline;
mod meter;
mod requester;
mod responder;
mod route;
mod run;
mod running;
mod silence;
mod sink;
mod summary;

pub(crate) use cancel::asked_again;
pub(crate) use lifeline::{Departure, Lifelines, Suspicion};
pub(crate) use meter::TokenMeter;
pub(crate) use requester::Companion;
pub(crate) use requester::Opening;
pub use requester::{TokenFrame, TokenStream};
pub use responder::{InferenceOptions, InferenceService};
#[cfg(feature = "durable")]
pub(crate) use responder::{finish, is_disconnection, offers_tokens, pass_on, send_end};
pub(crate) use route::Route;
#[cfg(feature = "durable")]
pub(crate) use running::{Entry, Running};
pub use sink::TokenSink;
#[cfg(feature = "durable")]
pub(crate) use sink::{Marks, OutgoingStream};
pub use summary::StreamSummary;
