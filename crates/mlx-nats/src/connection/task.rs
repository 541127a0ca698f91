//! Tasks that end with their owner.

use tokio::task::AbortHandle;

/// Ends a task when it is dropped, on any thread, inside or outside a runtime.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
