//! The connection: its state, its patience, and the task that keeps the one honest with the other.

mod backoff;
mod connect;
mod link;
mod manager;
mod refusal;
mod state;

pub(crate) use backoff::Backoff;
pub(crate) use connect::connect;
pub(crate) use link::Link;
pub(crate) use manager::manage;
pub(crate) use state::Input;
pub use state::{CloseReason, ConnectionState};
