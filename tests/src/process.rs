//! Worker processes, for tests in which a worker has to die.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use mlx_types::{NatsUrl, WorkerId};

use crate::eventually;

/// A worker under way. It ends when its standard input does, and so with this process.
#[derive(Debug)]
pub struct WorkerProcess {
    id: WorkerId,
    child: Child,
    lifeline: Option<ChildStdin>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl WorkerProcess {
    /// Starts `program`, which is `env!("CARGO_BIN_EXE_test-worker")`, as worker `id` of the server at `url`.
    /// It reads `config` and takes `arguments`.
    pub fn start(program: &str, config: &Path, url: &NatsUrl, id: WorkerId, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(program).arg(config).args(arguments), url, id)
    }

    /// Starts a command that ends with its standard input, as worker `id` of the server at `url`.
    pub fn spawn(command: &mut Command, url: &NatsUrl, id: WorkerId) -> Self {
        command
            .env("MLX_NATS__MODE", "external")
            .env("MLX_NATS__SERVER_URL", url.as_str_without_credentials())
            .env("MLX_WORKER__WORKER_ID", id.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        let log = Arc::default();
        collect(child.stderr.take().unwrap(), Arc::clone(&log));
        Self { id, lifeline: child.stdin.take(), child, log }
    }

    /// The worker's id.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
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

/// Keeps what a worker logs, and shows it with what the test says.
fn collect(mut stderr: ChildStderr, log: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            let said = &buffer[..read];
            log.lock().unwrap().extend_from_slice(said);
            // Nobody may be left to see it.
            let _ = std::io::stderr().write_all(said);
        }
    });
}
