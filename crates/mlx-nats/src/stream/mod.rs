//! Token streams: one request, many frames, exactly one end.

mod accepts;
mod assembly;
mod backlog;
mod cancel;
mod coalesce;
mod incarnation;
mod lifeline;
mod meter;
mod outgoing;
mod requester;
mod responder;
mod route;
mod run;
mod running;
mod silence;
mod sink;
mod summary;

pub(crate) use accepts::Accepts;
pub(crate) use cancel::asked_again;
pub(crate) use lifeline::{Departure, Lifelines, Suspicion};
pub(crate) use meter::TokenMeter;
#[cfg(feature = "durable")]
pub(crate) use outgoing::{Marks, OutgoingStream};
pub(crate) use requester::Companion;
pub(crate) use requester::Opening;
pub use requester::{TokenFrame, TokenStream};
pub use responder::{InferenceOptions, InferenceService};
#[cfg(feature = "durable")]
pub(crate) use responder::{finish, is_disconnection, pass_on, send_end};
pub(crate) use route::Route;
#[cfg(feature = "durable")]
pub(crate) use running::{Entry, Running};
pub use sink::TokenSink;
pub use summary::StreamSummary;
