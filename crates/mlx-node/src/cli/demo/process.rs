//! Worker processes: `mlx-node run --mode worker`, each with an id of its own.

use std::process::Stdio;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::{NatsUrl, WorkerId};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::super::{DemoArguments, Settings};

/// What processes are started with.
pub(super) struct Starting<'a> {
    pub(super) settings: &'a Settings,
    pub(super) arguments: &'a DemoArguments,
    pub(super) verbose: bool,
}

/// A worker process of ours. It ends when its standard input does, and so with this process, however that ends.
pub(super) struct WorkerProcess {
    /// The id that it was given.
    pub(super) id: WorkerId,
    /// Its process id.
    pub(super) pid: u32,
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl WorkerProcess {
    /// Starts a worker that connects to `server`, or to whatever the configuration says.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn start(starting: &Starting<'_>, server: Option<&NatsUrl>) -> Result<Self> {
        let id = WorkerId::new();
        let failed = |error: std::io::Error| {
            Error::with_source(ErrorKind::Internal { reason: "cannot start a worker process".to_owned() }, error)
        };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        let engine = &starting.arguments.engine;
        command
            .args(["run", "--mode", "worker", "--exit-with-stdin"])
            .args(engine.engine.iter().flat_map(|choice| ["--engine".to_owned(), choice.to_string()]))
            .args(engine.engine_api.iter().flat_map(|api| ["--engine-api", api.as_str()]))
            .arg("--tokens-per-second")
            .arg(engine.tokens_per_second.to_string())
            .env("MLX_WORKER__WORKER_ID", id.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A group of its own: Ctrl-C in the terminal reaches the controller alone, which then decides.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(file) = &starting.settings.file {
            command.arg("--config").arg(file);
        }
        if !starting.verbose {
            // The terminal belongs to the tokens unless asked otherwise.
            command.env("MLX_LOGGING__LEVEL", "warn").env("MLX_LOGGING__FORMAT", "text");
        }
        if let Some(server) = server {
            // Wins over the file, in which the workers find everything else, credentials included.
            command.env("MLX_NATS__MODE", "external").env("MLX_NATS__SERVER_URL", server.as_str_without_credentials());
        }
        let mut child = command.spawn().map_err(failed)?;
        let lifeline = child.stdin.take();
        Ok(Self { id, pid: child.id().unwrap_or_default(), child, lifeline })
    }

    /// Kills it (SIGKILL).
    pub(super) fn kill(&mut self) {
        // An error means that it is dead already.
        let _ = self.child.start_kill();
    }

    /// Resolves when the process has ended, with how.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Tells it to end, and kills it should it not have by `deadline`.
    pub(super) async fn stop(mut self, deadline: Duration) {
        self.lifeline = None;
        if timeout(deadline, self.child.wait()).await.is_err() {
            tracing::warn!(worker = %self.id, pid = self.pid, "a worker did not end in time and is killed");
            let _ = self.child.kill().await;
        }
    }
}
