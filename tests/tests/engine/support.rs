//! A bus, a worker process of `mlx-node`, and somebody who asks it.

use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, Result};
use mlx_nats::{Client, ClientOptions, TokenStream, WorkerInfo, Workers};
use mlx_tests::{LIMIT, ModelServer, TestServer, WorkerProcess, mlx_node, shipped_config, within};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{NatsUrl, WorkerId};
use tokio::process::Command;

/// The model that a [`ModelServer`] has unless told otherwise.
pub const MODEL: &str = "tiny";

/// A worker with a model server behind it, on a bus of its own.
pub struct Scene {
    pub models: ModelServer,
    pub worker: WorkerProcess,
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
        let worker = start_worker(&bus.embedded().client_url(), url, arguments, env);
        Self { models, worker, client, workers, bus }
    }

    /// What is known of the worker, once it is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&WorkerInfo) -> bool) -> WorkerInfo {
        let id = self.worker.id();
        let is_there = |online: &[WorkerInfo]| online.iter().any(|worker| worker.worker_id == id && wanted(worker));
        let online = self.workers.wait_until(LIMIT, is_there).await;
        let online = online.unwrap_or_else(|error| panic!("{what}: {error}"));
        online.into_iter().find(|worker| worker.worker_id == id).unwrap()
    }

    pub async fn ask(&self, request: &InferenceRequest) -> TokenStream {
        within("an acceptance", self.client.infer(self.worker.id(), request))
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
    let options = ClientOptions::default().offline_timeout(Duration::from_secs(3));
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

/// `cluster --worker`, before the model server at `engine`.
pub fn start_worker(bus: &NatsUrl, engine: &str, arguments: &[&str], env: &[(&str, &str)]) -> WorkerProcess {
    let mut command = mlx_node(&shipped_config());
    command
        .args(["run", "--mode", "worker", "--exit-with-stdin", "--engine", &format!("openai={engine}")])
        .args(arguments)
        .env("MLX_DISCOVERY__HEARTBEAT_INTERVAL_MS", "200")
        .env_remove("OPENAI_API_KEY")
        .envs(env.iter().copied());
    WorkerProcess::spawn(&mut command, bus, WorkerId::new())
}

/// What a whole cluster before the model server at `engine` says to the prompts of its command line, once it has ended.
pub async fn said_to_prompts(engine: &str, arguments: &[&str]) -> String {
    let mut cluster = Command::from(mlx_node(&shipped_config()));
    cluster.args(["demo", "--engine", &format!("openai={engine}")]).args(arguments).kill_on_drop(true);
    let output = within("the end of a cluster", cluster.output()).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
