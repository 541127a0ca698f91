//! Errors of an application that is built on this workspace.

use std::fmt;

use serde::Serialize;

use crate::printable::Printable;
use crate::{Error, ErrorCode, ErrorKind, RemoteError, redact};

/// An error of an application's own: its code, its message, and whether asking again may help.
///
/// A handler answers with it, and the requester gets all three unchanged, as a [`RemoteError`]. All of it is public; what is
/// not belongs into a cause, which stays in the log:
///
/// ```
/// use mlx_errors::{ApplicationError, Error, Result};
///
/// fn admit(used: u64) -> Result<()> {
///     if used > 1_000_000 {
///         return Err(ApplicationError::new("QUOTA_USED_UP", "the tokens of this month are used up").into());
///     }
///     Ok(())
/// }
/// assert_eq!(admit(2_000_000).unwrap_err().to_remote().code(), "QUOTA_USED_UP");
///
/// let cause = std::io::Error::other("accounts.db is locked");
/// let busy = ApplicationError::new("ACCOUNTS_BUSY", "the accounts cannot be read now").retryable(true);
/// let error = Error::with_source(busy.into(), cause);
/// assert!(error.is_retryable() && error.to_remote().is_retryable());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApplicationError {
    code: String,
    message: String,
    retryable: bool,
}

impl ApplicationError {
    /// An error that is final: asking again does not help.
    ///
    /// A code is made of ASCII letters, digits, `_`, `-` and `.`, by custom upper case with underscores: whatever else is in it
    /// becomes `_`. An empty one becomes `APPLICATION_ERROR`. One that is in the [table of codes](ErrorCode) is taken for that.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' };
        let code: String = code.into().chars().map(plain).collect();
        let code = if code.is_empty() { ErrorCode::Application.as_str().to_owned() } else { code };
        Self { code, message: message.into(), retryable: false }
    }

    /// Sets whether the same request may succeed if it is made again, here or at another worker.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// The code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same request may succeed if it is made again.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

impl fmt::Display for ApplicationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, Printable(&self.message))
    }
}

impl std::error::Error for ApplicationError {}

impl From<ApplicationError> for ErrorKind {
    fn from(error: ApplicationError) -> Self {
        Self::Application(error)
    }
}

impl From<ApplicationError> for Error {
    fn from(error: ApplicationError) -> Self {
        Self::new(error.into())
    }
}

impl From<&ApplicationError> for RemoteError {
    fn from(error: &ApplicationError) -> Self {
        Self::from_parts(redact(&error.message), Some(error.code.clone())).with_retryable(error.retryable)
    }
}
