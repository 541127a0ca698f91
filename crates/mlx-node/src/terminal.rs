//! What people are told on the terminal, beside what a command prints.

use std::io::Write;

use mlx_errors::{Error, ErrorKind};

/// Tells who watches standard error; nobody has to.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What cannot be written to standard output, as an error.
pub(crate) fn unprintable(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Internal { reason: "cannot write to standard output".to_owned() }, error)
}
