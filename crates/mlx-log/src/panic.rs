//! A panic as the last line of the log.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error as StdError;
use std::fmt;
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::Duration;

use crate::LogHandle;

/// How long a panic waits for its line to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// The target of a panic's line; no directive silences it, as the hook found is not asked where the log has the line.
pub(crate) const PANIC_TARGET: &str = "panic";

/// Logs every panic at level error and waits for the line to be written, since it may be the process's last.
///
/// With `pass_on`, the hook found runs after it. That is left out where the log goes to standard error: the hook found
/// would write there too, between lines that are to be strict JSON.
pub(crate) fn install_hook(handle: LogHandle, pass_on: bool) {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        log(info);
        let flushed = handle.flush(FLUSH);
        if pass_on || flushed.is_err() {
            previous(info);
        }
    }));
}

fn log(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("a panic whose payload is not text");
    let location = info.location().map(ToString::to_string);
    // Empty unless RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let error = Panic(message.to_owned());
    tracing::error!(
        target: PANIC_TARGET,
        error = &error as &dyn StdError,
        location,
        thread = thread::current().name().unwrap_or("unnamed"),
        backtrace,
        "a thread panicked: {message}"
    );
}

/// A panic, as the error of its line.
#[derive(Debug)]
pub(crate) struct Panic(String);

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Panic {}
