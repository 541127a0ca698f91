//! What one writes around async-nats: the same messages through serde, and no more.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// As everybody does it.
pub(super) fn encode(payload: &impl Serialize) -> Result<Bytes> {
    Ok(serde_json::to_vec(payload)?.into())
}

/// As everybody does it.
pub(super) fn decode<M: DeserializeOwned>(message: &async_nats::Message) -> Result<M> {
    serde_json::from_slice(&message.payload).with_context(|| format!("a message on {}", message.subject))
}
