//! A bus, a worker process of the cluster example, and somebody who asks it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, Result};
use mlx_nats::{Client, ClientOptions, TokenStream, WorkerInfo, Workers};
use mlx_tests::{LIMIT, ModelServer, TestServer, eventually, within};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{NatsUrl, WorkerId};

/// The model that a [`ModelServer`] has unless told otherwise.
pub const MODEL: &str = "tiny";

/// A worker with a model server behind it, on a bus of its own.
pub struct Scene {
    pub models: ModelServer,
    pub worker: Worker,
    pub client: Client,
    pub workers: Workers,
    bus: TestServer,
}

impl Scene {
    pub async fn start() -> Self {
        Self::with(ModelServer::start(), &[], &[]).await
    }

    /// With arguments and variables of the worker's own; it has its models by the time that this returns.
    pub async fn with(models: ModelServer, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let scene = Self::before_models(models, arguments, env).await;
        scene.until("a worker with models", |worker| !available(worker).is_empty()).await;
        scene
    }

    /// The same, of which nothing more is known than that the process has been started.
    pub async fn before_models(models: ModelServer, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let url = models.url();
        Self::at(&url, models, arguments, env).await
    }

    /// The same, with an address of the models' own.
    pub async fn at(url: &str, models: ModelServer, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let bus = TestServer::start().await;
        let client = asker(&bus).await;
        let workers = client.workers().await.unwrap();
        let worker = Worker::start(&bus.embedded().client_url(), url, arguments, env);
        Self { models, worker, client, workers, bus }
    }

    /// What is known of the worker, once it is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&WorkerInfo) -> bool) -> WorkerInfo {
        let id = self.worker.id;
        let is_there = |online: &[WorkerInfo]| online.iter().any(|worker| worker.worker_id == id && wanted(worker));
        let online = self.workers.wait_until(LIMIT, is_there).await;
        let online = online.unwrap_or_else(|error| panic!("{what}: {error}\n{}", self.worker.log()));
        online.into_iter().find(|worker| worker.worker_id == id).unwrap()
    }

    pub async fn ask(&self, request: &InferenceRequest) -> TokenStream {
        within("an acceptance", self.client.infer(self.worker.id, request))
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Asks the model something, and returns the whole answer.
    pub async fn answer(&self) -> Answered {
        read(self.ask(&InferenceRequest::new(MODEL, "hello there")).await).await
    }

    /// Asks the model something, and returns with what error that ended, and after which tokens.
    pub async fn failure(&self) -> (Vec<String>, Error) {
        let answered = self.answer().await;
        let error = answered.ended.expect_err("an error");
        (answered.tokens, error)
    }

    pub async fn end(self) {
        self.worker.stop().await;
        self.bus.stop().await;
    }
}

/// A client that notices within seconds that a worker is gone.
pub async fn asker(bus: &TestServer) -> Client {
    let options = ClientOptions { offline_timeout: Duration::from_secs(3), ..ClientOptions::default() };
    bus.client_with(options).await
}

pub fn available(worker: &WorkerInfo) -> &[String] {
    worker.registration.as_ref().map_or(&[], |registration| &registration.skills.available_models)
}

/// An answer that has come to its end.
pub struct Answered {
    pub tokens: Vec<String>,
    pub ended: Result<Option<FinishReason>>,
}

impl Answered {
    pub fn text(&self) -> String {
        self.tokens.concat()
    }

    pub fn reason(self) -> FinishReason {
        self.ended.unwrap_or_else(|error| panic!("{error}")).expect("a reason")
    }
}

/// Reads an answer to its end.
pub async fn read(mut stream: TokenStream) -> Answered {
    let mut tokens = Vec::new();
    let mut failed = None;
    while let Some(frame) = within("the next token", stream.next()).await {
        match frame {
            Ok(frame) => tokens.push(frame.text),
            Err(error) => failed = Some(error),
        }
    }
    let ended = match failed {
        Some(error) => Err(error),
        None => Ok(stream.summary().expect("an end").finish_reason.clone()),
    };
    Answered { tokens, ended }
}

/// `cluster --worker`, which ends when its standard input does, and so with this process.
pub struct Worker {
    pub id: WorkerId,
    child: Child,
    lifeline: Option<ChildStdin>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Worker {
    pub fn start(bus: &NatsUrl, engine: &str, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let id = WorkerId::new();
        let mut child = Command::new(program())
            .args(["--worker", "--exit-with-stdin", "--engine", &format!("openai={engine}"), "--config"])
            .arg(config())
            .args(arguments)
            .env("MLX_NATS__MODE", "external")
            .env("MLX_NATS__SERVER_URL", bus.as_str_without_credentials())
            .env("MLX_WORKER__WORKER_ID", id.to_string())
            .env("MLX_DISCOVERY__HEARTBEAT_INTERVAL_MS", "200")
            .env_remove("OPENAI_API_KEY")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::default();
        collect(child.stderr.take().unwrap(), Arc::clone(&log));
        Self { id, lifeline: child.stdin.take(), child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Kills it (SIGKILL).
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
        assert!(status.unwrap().success(), "{status:?}\n{}", self.log());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut stderr: ChildStderr, log: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut buffer) {
            log.lock().unwrap().extend_from_slice(&buffer[..read]);
        }
    });
}

/// The example, beside the folder of this test.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/cluster");
    assert!(path.exists(), "build it with `cargo build -p mlx-embedded --example cluster`");
    path
}

/// The shipped configuration.
pub fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/cluster.yaml")
}
