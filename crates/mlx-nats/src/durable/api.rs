//! JetStream's API: JSON requests, through our own inbox, so that they end with the connection and leave nothing behind.

use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::ErrorCode as ApiCode;
use async_nats::jetstream::response::Response;
use bytes::Bytes;
use mlx_errors::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::wire::{Headers, codec};

/// Between two attempts while JetStream is on its way up.
const PAUSE: Duration = Duration::from_millis(100);

/// What JetStream said, where it was no error.
pub(super) enum ApiResponse<R> {
    Done(R),
    /// It refused, for a reason that the caller may know how to deal with.
    Refused(async_nats::jetstream::Error),
}

impl<R> ApiResponse<R> {
    /// A refusal as the error of `action`.
    pub(super) fn done(self, action: impl FnOnce() -> String) -> Result<R> {
        match self {
            Self::Done(value) => Ok(value),
            Self::Refused(error) => Err(refused(action(), &error)),
        }
    }
}

/// Asks the API for something, for example `STREAM.INFO.X`.
pub(super) async fn call<Q, R>(client: &Client, call: &str, payload: &Q) -> Result<ApiResponse<R>>
where
    Q: Serialize + ?Sized,
    R: DeserializeOwned,
{
    let subject = format!("$JS.API.{call}");
    let json = codec::encode(&subject, payload, |_| Ok(()))?;
    ask(client, &subject.into(), Headers::new(), json, &format!("answer `{call}`")).await
}

/// Sends something that JetStream answers, and waits while JetStream itself is only on its way up.
pub(super) async fn ask<R: DeserializeOwned>(
    client: &Client,
    subject: &Subject,
    headers: Headers,
    json: Bytes,
    action: &str,
) -> Result<ApiResponse<R>> {
    let limit = client.request_timeout();
    let deadline = Instant::now() + limit;
    loop {
        let message = client.one_answer(subject, headers.clone(), json.clone(), limit).await?;
        if message.status != Some(async_nats::StatusCode::NO_RESPONDERS) {
            return match codec::decode(subject, &message.payload, |_: &Response<R>| Ok(()))? {
                Response::Ok(value) => Ok(ApiResponse::Done(value)),
                Response::Err { error } => Ok(ApiResponse::Refused(error)),
            };
        }
        // A server with JetStream does not answer for it while it recovers, or while a cluster has no leader.
        if !client.nats().server_info().jetstream || Instant::now() + PAUSE > deadline {
            return Err(unavailable(action));
        }
        sleep(PAUSE).await; // nothing tells when it is there
    }
}

fn unavailable(action: &str) -> Error {
    let hint = "set `nats.embedded.jetstream.enabled: true`, or `jetstream` in the external server's own configuration";
    Error::new(ErrorKind::JetStream {
        action: action.to_owned(),
        reason: "it does not answer, as where it is not enabled".to_owned(),
        hint: hint.to_owned(),
    })
}

fn refused(action: String, error: &async_nats::jetstream::Error) -> Error {
    let hint = match error.error_code() {
        ApiCode::JETSTREAM_NOT_ENABLED | ApiCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
            "set `nats.embedded.jetstream.enabled: true`, or give the account JetStream"
        }
        ApiCode::STORAGE_RESOURCES_EXCEEDED => {
            "its disk is smaller than what the queue may grow to: see `requestRouting.durable.maxBytes`"
        }
        ApiCode::INSUFFICIENT_RESOURCES => "its disk is full, or what it may use of it: see `nats.embedded.jetstream`",
        ApiCode::STREAM_STORE_FAILED => "it is full, or its disk is: see `requestRouting.durable.maxBytes`",
        ApiCode::STREAM_SUBJECT_OVERLAP => "another stream holds these subjects: take them out of it",
        _ => "",
    };
    Error::new(ErrorKind::JetStream { action, reason: error.to_string(), hint: hint.to_owned() })
}
