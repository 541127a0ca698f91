//! The wire form of an error: what one node tells another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ErrorCode;

/// An error as it crosses the wire: `{"error": "<message>", "code": "<CODE>"}`.
///
/// A TypeScript node sends `{"error": "<message>"}` alone; its code then reads `REMOTE_ERROR`.
/// There is no place in it for a source, a path or an internal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteError {
    #[serde(rename = "error")]
    message: String,
    #[serde(default = "unknown_code")]
    code: String,
}

impl RemoteError {
    /// An error of ours, to be sent.
    pub fn new(message: impl Into<String>, code: ErrorCode) -> Self {
        Self { message: message.into(), code: code.as_str().to_owned() }
    }

    /// An error as received; the code may be one that this version does not know.
    pub fn from_parts(message: impl Into<String>, code: Option<String>) -> Self {
        Self { message: message.into(), code: code.unwrap_or_else(unknown_code) }
    }

    /// The public message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The code as the peer sent it.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The code where this version knows it, `REMOTE_ERROR` otherwise.
    pub fn known_code(&self) -> ErrorCode {
        self.code.parse().unwrap_or(ErrorCode::Remote)
    }

    /// Whether asking again, here or at another worker, may succeed.
    pub fn is_retryable(&self) -> bool {
        match self.code.as_str() {
            // The codes of the TypeScript nodes that mean "not this worker, not now".
            "WORKER_TIMEOUT" | "WORKER_UNAVAILABLE" | "WORKER_OVERLOADED" => true,
            _ => self.known_code().is_retryable(),
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer answered {}: {}", self.code, self.message)
    }
}

fn unknown_code() -> String {
    ErrorCode::Remote.as_str().to_owned()
}
