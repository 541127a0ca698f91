//! Worker processes, and the ways in which a process is told to end.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::{NatsUrl, WorkerId};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::cli::Arguments;

/// A worker process of ours. It ends when its standard input does, and so with this process, however that ends.
pub struct WorkerProcess {
    /// The id that it was given.
    pub id: WorkerId,
    /// Its process id.
    pub pid: u32,
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl WorkerProcess {
    /// Starts a worker that connects to `server`, or to whatever the configuration says.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(arguments: &Arguments, server: Option<&NatsUrl>) -> Result<Self> {
        let id = WorkerId::new();
        let failed = |error: std::io::Error| {
            Error::with_source(ErrorKind::Internal { reason: "cannot start a worker process".to_owned() }, error)
        };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .arg("--worker")
            .arg("--exit-with-stdin")
            .arg("--config")
            .arg(&arguments.config)
            .args(["--engine", &arguments.engine.to_string()])
            .args(["--engine-api", arguments.engine_api.as_str()])
            .arg("--tokens-per-second")
            .arg(arguments.tokens_per_second.to_string())
            .args(arguments.verbose.then_some("--verbose"))
            .env("MLX_WORKER__WORKER_ID", id.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A group of its own: Ctrl-C in the terminal reaches the controller alone, which then decides.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(server) = server {
            // Wins over the file, in which the workers find everything else, credentials included.
            command.env("MLX_NATS__MODE", "external").env("MLX_NATS__SERVER_URL", server.as_str_without_credentials());
        }
        let mut child = command.spawn().map_err(failed)?;
        let lifeline = child.stdin.take();
        Ok(Self { id, pid: child.id().unwrap_or_default(), child, lifeline })
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        // An error means that it is dead already.
        let _ = self.child.start_kill();
    }

    /// Resolves when the process has ended, with how.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Tells it to end, and kills it should it not have by `deadline`.
    pub async fn stop(mut self, deadline: Duration) {
        self.lifeline = None;
        if timeout(deadline, self.child.wait()).await.is_err() {
            tracing::warn!(worker = %self.id, pid = self.pid, "a worker did not end in time and is killed");
            let _ = self.child.kill().await;
        }
    }
}

/// Resolves at Ctrl-C or SIGTERM.
pub async fn interrupted() {
    let term = async {
        match signal(SignalKind::terminate()) {
            Ok(mut term) => drop(term.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => {
            if let Err(error) = result {
                tracing::warn!(%error, "Ctrl-C cannot be caught");
                std::future::pending::<()>().await;
            }
        }
        () = term => {}
    }
}

/// Resolves at the end of standard input.
pub async fn stdin_ended() {
    let (sender, ended) = tokio::sync::oneshot::channel();
    // A thread of its own, because a read of standard input cannot be given up.
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        let _ = sender.send(());
    });
    let _ = ended.await;
}
