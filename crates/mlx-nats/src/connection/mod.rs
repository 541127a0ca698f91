//! The connection: its state, its patience, and the task that keeps the one honest with the other.

mod backoff;
mod barrier;
pub(crate) mod clock;
mod connect;
mod credentials;
mod events;
mod limit;
mod link;
mod manager;
mod publish_buffer;
mod reconnect;
mod refusal;
mod refusals;
mod report;
mod scout;
mod server_pool;
mod server_says;
mod side;
mod state;
mod task;

pub(crate) use backoff::Backoff;
pub(crate) use connect::{TransportOptions, connect, transport_capacity};
pub(crate) use events::Events;
pub use events::{ConnectionEvent, ConnectionEvents, DisconnectReason};
pub(crate) use limit::PayloadLimit;
pub use limit::refresh_limits;
pub(crate) use link::Link;
pub(crate) use manager::{Managed, Signal, end, manage, received_bytes, transports};
pub(crate) use publish_buffer::{BufferedMessage, PublishBuffer};
pub(crate) use reconnect::Dispatcher;
pub(crate) use refusals::{Refusals, Waits, Watch};
pub(crate) use side::Delivery;
pub use state::{CloseReason, ConnectionState};
pub(crate) use task::AbortOnDrop;
