//! The error type itself: a kind and, where there is one, the cause underneath.

use std::error::Error as StdError;
use std::fmt;

use crate::{ErrorCode, ErrorKind, RemoteError, redact};

/// A boxed cause.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: an [`ErrorKind`] and the chain of causes below it.
///
/// One word wide, so that `Result<T>` stays cheap on paths that succeed. `Display` tells this error alone;
/// what caused it is [`source()`](StdError::source) and is not repeated.
///
/// ```
/// use mlx_errors::{Error, ErrorCode, ErrorKind};
///
/// let cause = std::io::Error::other("connection reset");
/// let error = Error::with_source(ErrorKind::Disconnected { during: "flush".into() }, cause);
/// assert_eq!((error.code(), error.is_retryable()), (ErrorCode::NatsDisconnected, true));
/// // The whole chain, for people:
/// assert!(mlx_errors::report(&error).to_string().contains("connection reset"));
/// ```
pub struct Error(Box<Inner>);

const _: () = {
    const fn usable_anywhere<T: Send + Sync + 'static>() {}
    usable_anywhere::<Error>();
    assert!(size_of::<Error>() == size_of::<usize>());
};

struct Inner {
    kind: ErrorKind,
    source: Option<BoxError>,
}

impl Error {
    /// An error with no cause below it.
    pub fn new(kind: ErrorKind) -> Self {
        Self(Box::new(Inner { kind, source: None }))
    }

    /// An error caused by another.
    pub fn with_source(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        Self(Box::new(Inner { kind, source: Some(source.into()) }))
    }

    /// An internal error caused by another: a peer is told no more than that, and the log tells the cause.
    ///
    /// For the `?` of a handler, in which a failure of another library means no more than that:
    /// ```
    /// fn read(path: &str) -> mlx_errors::Result<String> {
    ///     std::fs::read_to_string(path).map_err(mlx_errors::Error::internal)
    /// }
    /// let error = read("/no/such/file").unwrap_err();
    /// assert_eq!(error.to_remote().message(), "internal error");
    /// assert!(format!("{:#}", mlx_errors::report(&error)).contains("No such file"));
    /// ```
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::with_source(ErrorKind::Internal { reason: "what it needs failed".to_owned() }, source)
    }

    /// What happened, with its fields.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The kind by value; the cause is dropped.
    pub fn into_kind(self) -> ErrorKind {
        self.0.kind
    }

    /// The stable code. For an error that a peer sent, the peer's own code where this version knows it.
    pub fn code(&self) -> ErrorCode {
        self.0.kind.code()
    }

    /// Whether making the same call again may succeed.
    ///
    /// That is the code's own answer (see [`ErrorCode::is_retryable`]) except where the fields know better: an
    /// answer whose tokens have begun to arrive may not be asked for again because its worker was lost or the connection
    /// dropped, and a peer says for itself.
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// What a peer may be told: the public message and code, without causes. See [`RemoteError`].
    pub fn to_remote(&self) -> RemoteError {
        self.0.kind.to_remote()
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0.kind.to_string()))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Causes come from other crates, whose `Debug` may hold what was dialled.
        let kind = format!("{:?}", self.0.kind);
        let source = self.0.source.as_ref().map(|source| format!("{source:?}"));
        f.debug_struct("Error")
            .field("code", &self.code().as_str())
            .field("kind", &format_args!("{}", redact(&kind)))
            .field("source", &source.as_deref().map(redact))
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
