//! Errors as OpenAI's clients know them: a status, and a body with message, type, parameter and code.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mlx_errors::{Error, ErrorCode, ErrorKind};
use mlx_nats::ENGINE_BROKEN;
use serde_json::{Value, json};

use crate::engine::{REJECTED, UNAVAILABLE};

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    /// The status, where nothing has been sent yet.
    pub(super) status: StatusCode,
    /// What happened, for people.
    pub(super) message: String,
    /// For programs: one of OpenAI's codes, or one of `docs/errors.md`.
    pub(super) code: Cow<'static, str>,
    /// The member of the request that is meant.
    pub(super) param: Option<String>,
}

impl ApiError {
    /// A request that cannot be answered as it is.
    pub(super) fn invalid(param: impl Into<Option<String>>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message).about(param.into())
    }

    /// A refusal of our own.
    pub(super) fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), code: code.into(), param: None }
    }

    /// The gateway closes.
    pub(super) fn shutting_down() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the controller is shutting down")
    }

    fn about(self, param: Option<String>) -> Self {
        Self { param, ..self }
    }

    /// The body, which is also the data of the event that tells of an error in the middle of a stream.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

impl From<&Error> for ApiError {
    fn from(error: &Error) -> Self {
        let public = error.to_remote(); // addresses, paths and causes stay in the log
        let status = match error.code() {
            _ if is_overload(error) => StatusCode::TOO_MANY_REQUESTS,
            // What a worker sends is none of the client's faults.
            ErrorCode::MessageDecode | ErrorCode::MessageValidation | ErrorCode::StreamGap => StatusCode::BAD_GATEWAY,
            _ if public.code() == REJECTED => StatusCode::BAD_REQUEST,
            _ if [UNAVAILABLE, ENGINE_BROKEN].contains(&public.code()) => StatusCode::SERVICE_UNAVAILABLE,
            code => StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::BAD_GATEWAY),
        };
        let message = match error.kind() {
            // Whoever asked can shorten it, and whoever runs the cluster can do something about it.
            ErrorKind::PayloadTooLarge { .. } => format!("{}. {}", public.message(), error.code().remedy()),
            _ => public.message().to_owned(),
        };
        Self::new(status, public.code().to_owned(), message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Whether a worker had no room, in the words of a Rust node or of a TypeScript one.
pub(super) fn is_overload(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Remote(remote) if remote.code() == "WORKER_OVERLOADED" => true,
        kind => kind.code() == ErrorCode::Overloaded,
    }
}
