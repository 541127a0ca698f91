//! What the formats have in common: how values, keys and whole lines are written.

use std::fmt;

use tracing::Level;

use crate::clock::Timestamp;
use crate::fault::Fault;
use crate::value::Value;

/// One format. Values are rendered when they are recorded, lines put together from rendered parts.
pub(crate) trait Syntax: Send + Sync + 'static {
    /// Appends a value as it stands in the context.
    fn value(&self, out: &mut Vec<u8>, value: &Value<'_>);

    /// Appends a key and what separates it from its value and from the field before it.
    fn key(&self, out: &mut Vec<u8>, key: &str);

    /// Appends a message, safe to stand in a line.
    fn message(&self, out: &mut Vec<u8>, message: &dyn fmt::Display);

    /// Appends a whole line, its end included.
    fn line(&self, out: &mut Vec<u8>, line: &Line<'_>);
}

/// The parts of a line.
pub(crate) struct Line<'a> {
    pub(crate) timestamp: Timestamp,
    pub(crate) level: Level,
    /// As the program wrote it; to be escaped.
    pub(crate) component: &'a str,
    /// Rendered by [`Syntax::message`].
    pub(crate) message: &'a [u8],
    /// Rendered by [`Syntax::key`] and [`Syntax::value`].
    pub(crate) fields: &'a [u8],
    pub(crate) error: Option<&'a Fault>,
}

/// The level in lower case, as it is written in configuration.
pub(crate) fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Passes what a `Display` or `Debug` writes through `escape`, piece by piece.
pub(crate) struct Escaped<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) escape: fn(&mut Vec<u8>, &str),
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.escape)(self.out, text);
        Ok(())
    }
}

/// Appends a number. JSON and people write them alike; only what JSON has no number for is left to the caller.
pub(crate) fn number(out: &mut Vec<u8>, value: impl serde::Serialize) {
    // Writing a number to memory cannot fail.
    let _ = serde_json::to_writer(out, &value);
}
