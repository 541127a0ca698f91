//! Typed errors with stable codes for mlx-serving.
//!
//! Every fallible function of the workspace returns [`Error`]: one word wide, with a stable [`ErrorCode`] for
//! programs, a message for people, the structured fields of what happened ([`ErrorKind`]) and the chain of sources.
//! What may be told to a peer is a [`RemoteError`]: a public message and a code, never a source, a path or an internal.
//!
//! ```
//! use std::time::Duration;
//! use mlx_errors::{Error, ErrorCode, ErrorKind};
//!
//! fn ask() -> mlx_errors::Result<()> {
//!     Err(Error::new(ErrorKind::Timeout { subject: "model.load".into(), timeout: Duration::from_millis(5000) }))
//! }
//!
//! let error = ask().unwrap_err();
//! assert_eq!(error.code(), ErrorCode::NatsTimeout);
//! assert_eq!(error.code().as_str(), "NATS_TIMEOUT_ERROR");
//! assert!(error.is_retryable());
//! assert_eq!(error.to_string(), "no reply on `model.load` within 5000 ms");
//! ```

mod application;
mod code;
mod error;
mod json;
mod kind;
mod printable;
mod redact;
mod remote;
mod report;
mod setters;
mod violation;
mod words;

pub use application::ApplicationError;
pub use code::{ErrorCode, UnknownErrorCode};
pub use error::{BoxError, Error, Result};
pub use kind::{ConnectStep, ErrorKind, TriedPath};
pub use printable::one_line;
pub use redact::{REDACTED, is_secret_name, redact};
pub use remote::RemoteError;
pub use report::{Failure, Report, causes, report};
pub use violation::{Location, Violation, Violations};

/// The README's example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
