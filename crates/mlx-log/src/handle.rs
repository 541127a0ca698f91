//! What a running log can be asked: another level, a flush, its losses.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};

use crate::Level;
use crate::filter::{Directives, Filter};
use crate::writer::{Queue, Unwritten};

/// How long a guard waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Keeps the log going. Hold it in `main`: dropping it writes what is queued, waiting for up to 5 s.
///
/// Lines logged after that are written at once by the thread that logs them, so none is lost, but each of them waits for the
/// output. [`std::process::exit`] drops nothing: call [`LogHandle::flush`] before it.
#[must_use = "the last lines are written when the guard is dropped"]
#[derive(Debug)]
pub struct LogGuard {
    handle: LogHandle,
}

impl LogGuard {
    pub(crate) fn new(handle: LogHandle) -> Self {
        Self { handle }
    }

    /// A handle to change the level with, for any thread; it does not keep the log going.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if let Err(unwritten) = self.handle.queue.close(LAST_LINES) {
            // Where standard error fails too there is nobody left to tell.
            let _ = writeln!(io::stderr(), "mlx-log: {}", describe(&unwritten));
        }
    }
}

/// Changes a running log. Cheap to clone.
///
/// ```no_run
/// # fn example() -> mlx_errors::Result<()> {
/// use mlx_log::{Level, LogConfig};
///
/// let guard = mlx_log::init(&LogConfig::default())?;
/// let log = guard.handle();
/// log.set_level(Level::Debug); // from any thread, at any time
/// log.set_directives("mlx_nats=debug", Level::Info)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LogHandle {
    pub(crate) filter: Arc<Filter>,
    pub(crate) queue: Arc<Queue>,
}

impl LogHandle {
    /// Logs at `level` from now on, on every thread. Directives for single targets (`MLX_LOG=mlx_nats=debug`) stay.
    pub fn set_level(&self, level: Level) {
        self.filter.update(|directives| directives.with_level(level));
    }

    /// Replaces level and directives by `directives`, written as in `MLX_LOG`; `level` is for what they do not name.
    ///
    /// # Errors
    /// `LOG_ERROR` naming the directive that is not one; the ones in force then stay.
    pub fn set_directives(&self, directives: &str, level: Level) -> Result<()> {
        let directives = Directives::parse(directives, level)?;
        self.filter.update(|_| directives);
        Ok(())
    }

    /// The directives in force, in the form that [`set_directives`](Self::set_directives) reads.
    pub fn directives(&self) -> String {
        self.filter.to_text()
    }

    /// Lines lost since the start because the output was too slow. The log itself says so where they are missing.
    pub fn lost(&self) -> u64 {
        self.queue.lost()
    }

    /// Waits until every line logged so far is written. Blocks the thread, for `timeout` at the most.
    ///
    /// # Errors
    /// `LOG_ERROR` when the output is blocked for longer, or fails; the lines then stay queued.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.queue.flush(timeout).map_err(|unwritten| Error::new(ErrorKind::Log { reason: describe(&unwritten) }))
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").field("directives", &self.directives()).field("lost", &self.lost()).finish()
    }
}

fn describe(unwritten: &Unwritten) -> String {
    match unwritten {
        Unwritten::Blocked { lines } => format!("lines not written yet: {lines}; the output is blocked"),
        Unwritten::Failed { lines, failure } => format!("lines not written: {lines}; the output fails: {failure}"),
    }
}
