//! The connection: its state, its patience, and the task that keeps the one honest with the other.

mod backoff;
mod connect;
mod events;
mod link;
mod manager;
mod reconnect;
mod refusal;
mod refusals;
mod report;
mod roster;
mod state;

pub(crate) use backoff::Backoff;
pub(crate) use connect::{connect, transport_capacity};
pub(crate) use events::Events;
pub use events::{ConnectionEvent, ConnectionEvents, DisconnectReason};
pub(crate) use link::Link;
pub(crate) use manager::{Managed, Signal, end, manage, received_bytes, transports};
pub(crate) use reconnect::Dispatcher;
pub(crate) use refusals::{Refusals, Refused, Watch};
pub use state::{CloseReason, ConnectionState};
