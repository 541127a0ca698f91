//! `mlx_lm.server` with a model that was made a moment ago: what a test of ours cannot be mistaken about.

use std::ffi::OsString;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::eventually_async;

/// Names the folder with mlx-lm and what it needs, for `PYTHONPATH`; `cargo xtask test` sees to it.
const VARIABLE: &str = "MLX_TEST_MODEL_SERVER_PYTHONPATH";

/// How long Python may take to load everything, on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A model server that is not ours, as a process. Its model says letters at random, each a token, the same ones
/// each time, and never comes to an end by itself. Tests that use one have `real_model_server` in their names.
#[derive(Debug)]
pub struct RealModelServer {
    address: SocketAddr,
    model: String,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    _folder: TempDir,
}

impl RealModelServer {
    /// Makes the model, starts the server, and returns once it lists the model.
    pub async fn start() -> Self {
        let python_path = std::env::var_os(VARIABLE).unwrap_or_else(|| panic!("{VARIABLE} names a folder with mlx-lm"));
        let folder = tempfile::tempdir().unwrap();
        make_model(&python_path, folder.path());
        let model = folder.path().canonicalize().unwrap().to_str().unwrap().to_owned();
        let deadline = Instant::now() + START_LIMIT;
        // Nothing keeps others from a port that was free a moment ago; then the process ends, and the next one is tried.
        let mut folder = Some(folder);
        loop {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut child = spawn(&python_path, &model, address);
            let log = collect(&mut child);
            while child.try_wait().unwrap().is_none() {
                if lists(address, &model).await {
                    let folder = folder.take().expect("returned with");
                    return Self { address, model, child, log, _folder: folder };
                }
                if Instant::now() > deadline {
                    let _ = child.kill();
                    panic!("mlx_lm.server did not start:\n{}", text(&log));
                }
                tokio::time::sleep(Duration::from_millis(50)).await; // between two looks at what cannot wake us
            }
            assert!(Instant::now() < deadline, "mlx_lm.server ended:\n{}", text(&log));
        }
    }

    /// What to give to `--engine openai=`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The id of its model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        text(&self.log)
    }

    /// Processor time that it has had so far. Linux only.
    pub fn processor_time(&self) -> Duration {
        const PER_TICK: u64 = 10; // ms: the kernel's unit towards processes is 1/100 s everywhere
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // After the name in brackets, which may hold anything: state is the first field, utime and stime the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * PER_TICK)
    }

    /// Waits until it does nothing: one that generates has the processor to itself, and one that was told that nobody
    /// listens has nothing to do. Linux only.
    pub async fn comes_to_rest(&self) {
        eventually_async("a server at rest", async || {
            const WINDOW: Duration = Duration::from_millis(400);
            let before = self.processor_time();
            tokio::time::sleep(WINDOW).await; // what is measured
            (self.processor_time() < before + WINDOW / 8).then_some(())
        })
        .await;
    }
}

impl Drop for RealModelServer {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn make_model(python_path: &OsString, folder: &Path) {
    let mut script = Command::new("python3");
    script.args(["-c", include_str!("tiny_model.py")]).arg(folder).env("PYTHONPATH", python_path);
    let output = script.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn spawn(python_path: &OsString, model: &str, address: SocketAddr) -> Child {
    let cache = Path::new(model).join("cache"); // it looks for models there, and fails where there is no such folder
    std::fs::create_dir_all(&cache).unwrap();
    Command::new("python3")
        .args(["-m", "mlx_lm", "server", "--model", model, "--host", "127.0.0.1", "--port"])
        .arg(address.port().to_string())
        .env("PYTHONPATH", python_path)
        .env("PYTHONUNBUFFERED", "1")
        .env("HF_HUB_CACHE", cache)
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn collect(child: &mut Child) -> Arc<Mutex<Vec<u8>>> {
    let mut stderr = child.stderr.take().unwrap();
    let log = Arc::<Mutex<Vec<u8>>>::default();
    let collected = Arc::clone(&log);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            collected.lock().unwrap().extend_from_slice(&buffer[..read]);
        }
    });
    log
}

fn text(log: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&log.lock().unwrap()).into_owned()
}

/// Whether this very model is listed there. Plain HTTP/1.0, so that the answer ends with the connection.
async fn lists(address: SocketAddr, model: &str) -> bool {
    let Ok(mut connection) = TcpStream::connect(address).await else { return false };
    let mut answer = Vec::new();
    let asked = async {
        connection.write_all(b"GET /v1/models HTTP/1.0\r\n\r\n").await?;
        connection.read_to_end(&mut answer).await
    };
    asked.await.is_ok() && String::from_utf8_lossy(&answer).contains(model)
}
