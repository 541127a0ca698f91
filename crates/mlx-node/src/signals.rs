//! The ways in which a process is told to end.

use std::io::Read;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and SIGTERM, which mean the same. One that comes while nobody waits is not lost.
pub(crate) struct Interrupts {
    int: Option<Signal>,
    term: Option<Signal>,
}

impl Interrupts {
    /// Catches them from now on: they no longer end the process by themselves.
    pub(crate) fn catch() -> Self {
        let caught =
            |kind| signal(kind).map_err(|error| tracing::warn!(%error, ?kind, "this signal cannot be caught")).ok();
        Self { int: caught(SignalKind::interrupt()), term: caught(SignalKind::terminate()) }
    }

    /// Resolves at the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            () = next_of(&mut self.int) => {}
            () = next_of(&mut self.term) => {}
        }
    }
}

async fn next_of(signal: &mut Option<Signal>) {
    let caught = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if caught.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Resolves at the end of standard input.
pub(crate) async fn stdin_ended() {
    let (sender, ended) = tokio::sync::oneshot::channel();
    // A thread of its own, because a read of standard input cannot be given up.
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        let _ = sender.send(());
    });
    let _ = ended.await;
}
