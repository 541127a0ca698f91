//! The wire form of an error: what one node tells another.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::printable::Printable;
use crate::{Error, ErrorCode, ErrorKind};

/// An error as it crosses the wire: `{"error": "<message>", "code": "<CODE>"}`, and `"retryable": true` or `false` where the peer
/// says whether asking again may help.
///
/// A TypeScript node sends `{"error": "<message>"}` alone; its code then reads `REMOTE_ERROR`. A code that is `null` or
/// empty is none, and members that this version does not know are ignored.
/// There is no place in it for a source, a path or an internal.
///
/// ```
/// use mlx_errors::{Error, ErrorCode, RemoteError};
///
/// let received: RemoteError = serde_json::from_str(r#"{"error": "no such model"}"#)?;
/// assert_eq!(received.code(), "REMOTE_ERROR");
///
/// let error = Error::from(RemoteError::new("queue is full", ErrorCode::Overloaded));
/// assert_eq!(error.code(), ErrorCode::Overloaded);
/// assert!(error.is_retryable());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Received")]
pub struct RemoteError {
    #[serde(rename = "error")]
    message: String,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    /// Part of the answer had come before it. Not on the wire, and no part of what the peer said.
    #[serde(skip)]
    begun: bool,
}

impl PartialEq for RemoteError {
    fn eq(&self, other: &Self) -> bool {
        (&self.message, &self.code, self.retryable) == (&other.message, &other.code, other.retryable)
    }
}

impl Eq for RemoteError {}

impl Hash for RemoteError {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.message, &self.code, self.retryable).hash(state);
    }
}

/// What may arrive.
#[derive(Deserialize)]
struct Received {
    error: String,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    retryable: Option<bool>,
}

impl RemoteError {
    /// An error of ours, to be sent.
    pub fn new(message: impl Into<String>, code: ErrorCode) -> Self {
        Self { message: message.into(), code: code.as_str().to_owned(), retryable: None, begun: false }
    }

    /// An error as received; the code may be one that this version does not know.
    pub fn from_parts(message: impl Into<String>, code: Option<String>) -> Self {
        let code = code.filter(|code| !code.is_empty());
        let code = code.unwrap_or_else(|| ErrorCode::Remote.as_str().to_owned());
        Self { message: message.into(), code, retryable: None, begun: false }
    }

    /// The public message, as the peer sent it.
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

    /// The same, from a peer that says whether asking again may help; with `None` the code decides.
    #[must_use]
    pub fn with_retryable(mut self, retryable: impl Into<Option<bool>>) -> Self {
        self.retryable = retryable.into();
        self
    }

    /// Whether asking again may help, where the peer says so itself.
    pub fn said_retryable(&self) -> Option<bool> {
        self.retryable
    }

    /// The same, of an answer of which a part had come already: asking again would show that part twice.
    ///
    /// ```
    /// use mlx_errors::{ErrorCode, RemoteError};
    ///
    /// let error = RemoteError::new("queue is full", ErrorCode::Overloaded);
    /// assert!(error.is_retryable() && !error.after_begin().is_retryable());
    /// ```
    #[must_use]
    pub fn after_begin(mut self) -> Self {
        self.begun = true;
        self
    }

    /// Whether asking again, here or at another worker, may succeed.
    pub fn is_retryable(&self) -> bool {
        if self.begun {
            return false;
        }
        if let Some(retryable) = self.retryable {
            return retryable;
        }
        match self.code.as_str() {
            // The codes of the TypeScript nodes that mean "not this worker, not now".
            "WORKER_TIMEOUT" | "WORKER_UNAVAILABLE" | "WORKER_OVERLOADED" => true,
            _ => self.known_code().is_retryable(),
        }
    }
}

impl From<Received> for RemoteError {
    fn from(received: Received) -> Self {
        Self::from_parts(received.error, received.code).with_retryable(received.retryable)
    }
}

impl From<&Error> for RemoteError {
    fn from(error: &Error) -> Self {
        error.to_remote()
    }
}

impl From<RemoteError> for ErrorKind {
    fn from(remote: RemoteError) -> Self {
        Self::Remote(remote)
    }
}

impl From<RemoteError> for Error {
    fn from(remote: RemoteError) -> Self {
        Self::new(remote.into())
    }
}

/// For people: a peer decides what it sends, not what that does to a terminal nor how long an error is.
impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer answered {}: {}", Printable(&self.code), Printable(&self.message))
    }
}
