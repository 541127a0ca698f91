//! The error of a line: name, code, message and sources.

use std::error::Error as StdError;
use std::io;

use mlx_errors::ErrorKind;

/// What a line says of an error.
#[derive(Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) message: String,
    /// The code of the first error in the chain that has one.
    pub(crate) code: Option<String>,
    /// The causes, outermost first, each told once.
    pub(crate) sources: Vec<String>,
}

impl Fault {
    pub(crate) fn from_error(error: &(dyn StdError + 'static)) -> Self {
        let mut causes = mlx_errors::causes(error);
        let message = causes.next().unwrap_or_default();
        let code = std::iter::successors(Some(error), |&error| error.source()).find_map(code);
        Self { name: name(error), message, code, sources: causes.collect() }
    }

    /// An error that reached us as text only, for example by `error = %error`.
    pub(crate) fn from_text(message: String) -> Self {
        Self { name: UNNAMED, message, code: None, sources: Vec::new() }
    }
}

const UNNAMED: &str = "Error";

/// A `dyn Error` does not know its type's name; the ones that matter here are asked for by type.
fn name(error: &(dyn StdError + 'static)) -> &'static str {
    if let Some(error) = error.downcast_ref::<mlx_errors::Error>() {
        error.kind().name()
    } else if error.is::<io::Error>() {
        "IoError"
    } else if error.is::<crate::panic::Panic>() {
        "Panic"
    } else {
        UNNAMED
    }
}

fn code(error: &(dyn StdError + 'static)) -> Option<String> {
    error.downcast_ref::<mlx_errors::Error>().map(|error| match error.kind() {
        // The peer's own words, which may be newer than the codes known here.
        ErrorKind::Remote(remote) => remote.code().to_owned(),
        _ => error.code().to_string(),
    })
}
