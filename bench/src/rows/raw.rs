//! What one writes around async-nats: the same messages through serde, and no more.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// As everybody does it.
pub(super) fn encode(payload: &impl Serialize) -> Result<Bytes> {
    Ok(serde_json::to_vec(payload)?.into())
}

/// The same, with the incarnation of the worker that sends it as a last member.
pub(super) fn encode_marked(frame: &impl Serialize, epoch: u64) -> Result<Bytes> {
    let mut json = serde_json::to_vec(frame)?;
    json.pop();
    write!(json, ",\"epoch\":{epoch}}}")?;
    Ok(json.into())
}

/// One header.
pub(super) fn header(name: &'static str, value: &str) -> async_nats::HeaderMap {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(name, value);
    headers
}

/// As everybody does it.
pub(super) fn decode<M: DeserializeOwned>(message: &async_nats::Message) -> Result<M> {
    serde_json::from_slice(&message.payload).with_context(|| format!("a message on {}", message.subject))
}
