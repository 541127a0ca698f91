//! Worker processes, for tests in which a worker has to die.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use mlx_types::{NatsUrl, WorkerId};

use crate::eventually;

/// The program `test-worker` under way. It ends when its standard input does, and so with this process.
#[derive(Debug)]
pub struct WorkerProcess {
    id: WorkerId,
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl WorkerProcess {
    /// Starts `program`, which is `env!("CARGO_BIN_EXE_test-worker")`, as worker `id` of the server at `url`.
    /// It reads `config`, takes `arguments`, and logs to standard error.
    pub fn start(program: &str, config: &Path, url: &NatsUrl, id: WorkerId, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .arg(config)
            .args(arguments)
            .env("MLX_NATS__MODE", "external")
            .env("MLX_NATS__SERVER_URL", url.as_str_without_credentials())
            .env("MLX_WORKER__WORKER_ID", id.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let lifeline = child.stdin.take();
        Self { id, child, lifeline }
    }

    /// The worker's id.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it (SIGKILL), and returns when it is dead.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Has it say goodbye, and returns when it has ended.
    pub async fn stop(mut self) {
        self.lifeline = None;
        let mut status = None;
        eventually("the end of a worker", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(status.is_some_and(|status| status.success()), "worker {} ended with {status:?}", self.id);
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
