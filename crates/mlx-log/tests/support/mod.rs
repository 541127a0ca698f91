//! A log whose lines a test can read.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlx_log::{LogGuard, Setup};
use serde_json::Value;
use tracing::Dispatch;

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What was written.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).expect("a log is UTF-8")
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log into memory.
pub(crate) struct TestLog {
    pub(crate) captured: Captured,
    pub(crate) dispatch: Dispatch,
    pub(crate) guard: LogGuard,
}

impl TestLog {
    pub(crate) fn new(setup: Setup) -> Self {
        let captured = Captured::default();
        let (dispatch, guard) = setup.writer(captured.clone()).build().expect("a log");
        Self { captured, dispatch, guard }
    }

    /// Logs what `work` logs.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        tracing::dispatcher::with_default(&self.dispatch, work)
    }

    pub(crate) fn flushed(&self) -> &Captured {
        self.guard.handle().flush(DEADLINE).expect("a flush");
        &self.captured
    }
}
