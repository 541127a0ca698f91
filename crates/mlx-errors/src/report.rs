//! Telling a person of an error and its causes, each of them once.

use std::error::Error as StdError;
use std::fmt;

use crate::{BoxError, Error, redact};

/// An error for a person: its message and every cause below it, each told once.
///
/// `{}` gives one line, joined by `: `. `{:#}` gives a line for each cause and the stable code where there is one:
///
/// ```
/// # use mlx_errors::{Error, ErrorKind};
/// let io = std::io::Error::other("disk full");
/// let error = Error::with_source(ErrorKind::Log { reason: "cannot open /var/log/mlx.log".into() }, io);
///
/// let report = mlx_errors::report(&error);
/// assert_eq!(report.to_string(), "cannot set up logging: cannot open /var/log/mlx.log: disk full");
/// assert_eq!(
///     format!("{report:#}"),
///     "cannot set up logging: cannot open /var/log/mlx.log [LOG_ERROR]\n  caused by: disk full"
/// );
/// ```
pub fn report<'a>(error: &'a (dyn StdError + 'static)) -> Report<'a> {
    Report(error)
}

/// The messages of an error and of the causes below it, outermost first.
///
/// Errors of other crates often repeat their cause in their own message; a cause that the message before it already
/// ends with is left out. Credentials in URLs are hidden, see [`redact`](crate::redact()).
pub fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = String> + use<'a> {
    /// More than any real chain; an error that is its own source would otherwise never end.
    const LONGEST_CHAIN: usize = 64;
    let mut told = None;
    std::iter::successors(Some(error), |&error| error.source()).take(LONGEST_CHAIN).filter_map(move |error| {
        let mut message = String::new();
        // Not `to_string`, which panics where a `Display` fails; what was written before stays.
        let _ = fmt::write(&mut message, format_args!("{error}"));
        let message = redact(&message).into_owned();
        let told_already = told.as_ref().is_some_and(|told: &String| told.ends_with(&message));
        told = Some(message.clone());
        Some(message).filter(|_| !told_already)
    })
}

/// What [`report`] returns.
#[derive(Clone, Copy)]
pub struct Report<'a>(&'a (dyn StdError + 'static));

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if f.alternate() { "\n  caused by: " } else { ": " };
        for (index, cause) in causes(self.0).enumerate() {
            if index > 0 {
                f.write_str(separator)?;
            }
            match self.0.downcast_ref::<Error>() {
                Some(error) if index == 0 && f.alternate() => headline(f, error, &cause)?,
                Some(_) | None => f.write_str(&cause)?,
            }
        }
        Ok(())
    }
}

/// The message and the code, and broken rules a line each.
fn headline(f: &mut fmt::Formatter<'_>, error: &Error, message: &str) -> fmt::Result {
    let violations = error.kind().violations();
    let listed = violations.map(ToString::to_string).unwrap_or_default();
    let message = message.strip_suffix(&*redact(&listed)).map_or(message, |head| head.trim_end_matches(": "));
    write!(f, "{message} [{}]", error.code())?;
    for violation in violations.into_iter().flatten() {
        write!(f, "\n  {}", redact(&violation.to_string()))?;
    }
    Ok(())
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")
    }
}

/// The error type of a `main` function: ends the process with status 1 and a [`report`] on standard error.
///
/// `main` prints its error by `Debug`, which of most errors is a dump for programmers.
///
/// ```no_run
/// fn main() -> Result<(), mlx_errors::Failure> {
///     let text = std::fs::read_to_string("cluster.yaml")?; // any error, ours or another crate's
///     # let _ = text;
///     Ok(())
/// }
/// ```
pub struct Failure(BoxError);

impl<E: StdError + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", report(&*self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", report(&*self.0))
    }
}
