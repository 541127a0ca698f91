//! Answers that are errors.

use std::time::Instant;

use mlx_errors::{Error, RemoteError, Result};

use crate::client::Client;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::measure;
use crate::wire::{Headers, headers};

/// Requests that failed, and whose failure nobody can be told.
static UNANSWERABLE: LogLimit = LogLimit::new();

/// Errors that could not be answered.
static UNANSWERED: LogLimit = LogLimit::new();

/// Answers a request with an error, where it can be answered.
pub(super) async fn refuse(client: &Client, message: async_nats::Message, error: &Error) {
    let Some(reply) = message.reply else {
        if let Some(so_far) = UNANSWERABLE.count(Instant::now()) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(subject = %message.subject, error, so_far, "a request without a reply inbox failed");
        }
        return;
    };
    answer_error(client, reply, error).await;
}

/// Answers with an error: our code and the NATS services' headers, and a body that a TypeScript node reads too.
pub(crate) async fn answer_error(client: &Client, reply: async_nats::Subject, error: &Error) {
    measure::refused(error);
    let remote = error.to_remote();
    tracing::debug!(code = remote.code(), error = error as &dyn std::error::Error, "answering with an error");
    let sent = match error_headers(&remote) {
        Ok(headers) => {
            let json = serde_json::to_vec(&remote).unwrap_or_default();
            client.send(reply, None, Some(headers), json.into()).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = sent
        && let Some(so_far) = UNANSWERED.count(Instant::now())
    {
        tracing::warn!(error = &error as &dyn std::error::Error, so_far, "an error could not be answered");
    }
}

fn error_headers(remote: &RemoteError) -> Result<Headers> {
    let mut headers = Headers::new();
    // A header is one line; a message may be more.
    let line = remote.message().split(['\r', '\n']).next().unwrap_or_default().trim();
    headers.set(headers::SERVICE_ERROR, line)?;
    headers.set(headers::SERVICE_ERROR_CODE, remote.known_code().http_status().to_string())?;
    // A code that came from elsewhere and fits in no header is in the body.
    let _ = headers.set(headers::ERROR_CODE, remote.code());
    Ok(headers)
}
