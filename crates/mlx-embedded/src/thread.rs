//! The one thread that forks and supervises every nats-server of this process.

use std::sync::OnceLock;

use mlx_errors::{Error, ErrorKind, Result};
use tokio::runtime::{Builder, Handle};

/// The runtime of the supervising thread.
///
/// The thread is the parent that the kernel watches when it is asked to end a child with its parent (see
/// [`process`](crate::process)), and supervision must go on when the runtime that asked for a server is gone. So it
/// belongs to nobody and ends with the process.
pub(crate) fn handle() -> Result<&'static Handle> {
    static THREAD: OnceLock<Result<Handle, String>> = OnceLock::new();
    THREAD.get_or_init(|| start().map_err(|error| error.to_string())).as_ref().map_err(|error| {
        Error::new(ErrorKind::EmbeddedServer { reason: format!("no thread to supervise it: {error}") })
    })
}

fn start() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().thread_name("mlx-embedded-blocking").build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("mlx-embedded".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}
