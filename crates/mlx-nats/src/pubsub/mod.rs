//! Messages from one to all who listen.

mod publish;
mod publish_large;
mod subscribe;

pub(crate) use subscribe::{ChangeKind, RawSubscription};
pub use subscribe::{Received, SubscribeOptions, Subscription};
