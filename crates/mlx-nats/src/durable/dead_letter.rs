//! Requests that are given up: kept with the reason, on a subject of their own.

use async_nats::Message;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::RequestId;
use mlx_types::subjects::{ANY_INFERENCE_DEAD, ANY_INFERENCE_QUEUE};

use super::api;
use super::delivery::Delivery;
use crate::client::Client;
use crate::wire::{Headers, headers};

/// Keeps a request as a dead letter, the same one once however often this is tried. Returns the error that its requester
/// has to be told.
pub(super) async fn keep(
    client: &Client,
    message: &Message,
    delivery: Delivery,
    request_id: Option<RequestId>,
    cause: Error,
) -> Result<Error> {
    let family = |pattern: &'static str| pattern.trim_end_matches('*');
    let model = message.subject.strip_prefix(family(ANY_INFERENCE_QUEUE.as_str())).unwrap_or_default();
    let subject = format!("{}{model}", family(ANY_INFERENCE_DEAD.as_str()));
    let deliveries = delivery.count.saturating_sub(1); // this one found out, and ran nothing
    let reason = cause.to_remote().message().to_owned();

    let mut kept_headers = message.headers.clone().map(Headers::from_transport).unwrap_or_default();
    let id = request_id.map_or_else(|| delivery.sequence.to_string(), |id| id.to_string());
    kept_headers.set(headers::MESSAGE_ID, format!("dead-{id}"))?;
    kept_headers.set(headers::DEAD_REASON, reason.replace(['\r', '\n'], " "))?;
    kept_headers.set(headers::DEAD_CODE, cause.code().as_str())?;
    kept_headers.set(headers::DEAD_DELIVERIES, deliveries.to_string())?;
    let to = async_nats::Subject::from(subject.as_str());
    let keep = |headers, payload| api::ask::<PublishAck>(client, &to, headers, payload, "keep a dead letter");
    let mut omitted_bytes = None;
    let kept = match keep(kept_headers.clone(), message.payload.clone()).await {
        // It came just small enough, and is not with these headers. Kept in part, it comes round no more.
        Err(error) if matches!(error.kind(), ErrorKind::PayloadTooLarge { .. }) => {
            omitted_bytes = Some(message.payload.len());
            kept_headers.set(headers::DEAD_OMITTED_BYTES, message.payload.len().to_string())?;
            keep(kept_headers, Bytes::new()).await?
        }
        kept => kept?,
    };
    kept.done(|| format!("keep a dead letter on `{subject}`"))?;
    tracing::error!(
        request = id,
        subject,
        deliveries,
        reason,
        omitted_bytes,
        "gave a request up; it is kept as a dead letter"
    );
    Ok(match cause.kind() {
        ErrorKind::Decode { .. } | ErrorKind::Validation { .. } => cause,
        _ => Error::new(ErrorKind::RequestDead { subject, deliveries, reason }),
    })
}
