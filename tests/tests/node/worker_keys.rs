//! What the keys of `worker` and `logging` do.

use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::ErrorCode;
use mlx_nats::{Client, WorkerInfo, Workers};
use mlx_tests::{Answer, LIMIT, ModelServer, TestServer, eventually, within};
use mlx_types::messages::{InferenceRequest, WorkerStatus};
use serde_json::json;

use crate::support::{Home, QUICK, RunningNode};

/// A worker on a bus of its own, whose section `worker` is this.
struct Scene {
    bus: TestServer,
    node: RunningNode,
    client: Client,
    /// Followed before the worker starts, so that its registration is not missed.
    workers: Workers,
    _home: Home,
}

impl Scene {
    async fn start(worker: &str, more: &str) -> Self {
        let bus = TestServer::start().await;
        let url = bus.embedded().client_url();
        let home = Home::with(&format!(
            "mode: worker\nnats: {{ mode: external, serverUrl: \"{url}\" }}\nworker: {{ {worker} }}\n{more}{QUICK}"
        ));
        let client = bus.client().await;
        let workers = client.workers().await.unwrap();
        let node = home.run(&["--tokens-per-second", "20"]);
        Self { bus, node, client, workers, _home: home }
    }

    async fn until(&self, wanted: impl Fn(&WorkerInfo) -> bool) -> WorkerInfo {
        let is_there =
            |online: &[WorkerInfo]| online.iter().any(|worker| wanted(worker) && worker.registration.is_some());
        let online = self.workers.wait_until(LIMIT, is_there).await;
        online.unwrap_or_else(|error| panic!("{error}: {:?}", self.workers.list())).remove(0)
    }

    async fn end(self) {
        assert_eq!(self.node.end("-TERM").await, Some(0));
        self.bus.stop().await;
    }
}

fn engine(models: &ModelServer) -> String {
    format!("engine: {{ kind: openai, url: \"{}\" }}", models.url())
}

#[tokio::test]
async fn p3_a_worker_tells_what_its_keys_say() {
    let id = "0195e5c0-0000-7000-8000-000000000001";
    let scene = Scene::start(&format!("port: 9001, workerId: {id}, maxConcurrent: 2"), "").await;
    let worker = scene.until(|_| true).await;
    let registration = worker.registration.unwrap();
    assert_eq!((worker.worker_id.to_string().as_str(), registration.port), (id, 9001));
    assert_eq!(registration.capabilities.unwrap().max_concurrent, 2);
    scene.end().await;

    let scene = Scene::start("continuousBatching: { enabled: true, maxBatchSize: 6, batchTimeoutMs: 10 }", "").await;
    let registration = scene.until(|_| true).await.registration.unwrap();
    assert_eq!(registration.capabilities.unwrap().max_concurrent, 6);
    let warned = "`worker.continuousBatching.batchTimeoutMs` changes nothing";
    eventually("a warning", || scene.node.logged().contains(warned)).await;
    scene.end().await;
}

#[tokio::test]
async fn p3_a_key_of_the_configuration_reaches_the_model_server() {
    let models = ModelServer::start();
    models.require_key("canary-key");
    let with_key = format!("engine: {{ kind: openai, url: \"{}\", apiKey: canary-key }}", models.url());
    let scene = Scene::start(&with_key, "").await;
    scene.until(|worker| worker.status == WorkerStatus::Online).await;
    assert!(!scene.node.logged().contains("canary"), "{}", scene.node.logged());
    scene.end().await;
}

#[tokio::test]
async fn p3_models_are_loaded_before_the_first_request() {
    let models = ModelServer::start();
    models.set_models(["tiny", "org/other"]);
    models.answer_next(Answer::stream().pause(Duration::from_millis(700)).chat_token("x").chat_finish("length").done());
    let warming = "preWarming: { enabled: true, registerWhen: complete, models: [{ model: org/other }, { model: tiny, priority: high }] }";
    let scene = Scene::start(&format!("{}, {warming}", engine(&models)), "").await;
    let worker = scene.until(|worker| worker.status == WorkerStatus::Online).await;
    let asked = models.requests();
    let loaded: Vec<_> =
        asked.iter().map(|asked| (asked.body["model"].clone(), asked.body["max_tokens"].clone())).collect();
    assert_eq!(
        loaded,
        [(json!("tiny"), json!(1)), (json!("org/other"), json!(1))],
        "the high one first, before it registers"
    );
    let in_memory =
        |worker: &WorkerInfo| worker.metrics.as_ref().is_some_and(|metrics| metrics.models_loaded == ["org/other"]);
    scene.until(in_memory).await;
    drop(worker);
    scene.end().await;

    // At once it registers, as degraded, and loads all of them at the same time; one that takes too long is left to its request.
    let models = ModelServer::start();
    models.set_models(["tiny", "org/other"]);
    (0..2).for_each(|_| models.answer_next(Answer::stream().silence()));
    let warming = "preWarming: { enabled: true, parallel: true, timeoutPerModelMs: 1500, models: [{ model: tiny }, { model: org/other }] }";
    let scene = Scene::start(&format!("{}, {warming}", engine(&models)), "").await;
    scene.until(|worker| worker.status == WorkerStatus::Degraded).await;
    eventually("both at once", || models.generating() == 2).await;
    scene.until(|worker| worker.status == WorkerStatus::Online).await;
    eventually("two warnings", || scene.node.logged().matches("could not be loaded beforehand").count() == 2).await;
    scene.end().await;
}

#[tokio::test]
async fn p3_a_machine_that_is_short_of_memory_is_degraded_and_then_refuses() {
    let limits = |soft: f64, hard: f64| {
        format!(
            "resourceLimits: {{ enabled: true, checkIntervalMs: 50, softMemoryLimitGB: {soft}, hardMemoryLimitGB: {hard} }}"
        )
    };
    // Every machine that runs this uses more than the first, and less than the second.
    let scene = Scene::start(&limits(0.001, 100_000.0), "").await;
    let worker = scene.until(|worker| worker.status == WorkerStatus::Degraded).await;
    let mut tokens = scene.client.infer(worker.worker_id, &InferenceRequest::new("stand-in", "hi")).await.unwrap();
    assert!(within("a token", tokens.next()).await.unwrap().is_ok(), "it answers while it is only short");
    drop(tokens);
    scene.end().await;

    let scene = Scene::start(&limits(0.001, 0.002), "").await;
    let worker = scene.until(|worker| worker.status == WorkerStatus::Degraded).await;
    let mut tokens = scene.client.infer(worker.worker_id, &InferenceRequest::new("stand-in", "hi")).await.unwrap();
    let refused = within("a refusal", tokens.next()).await.unwrap().unwrap_err();
    assert_eq!((refused.code(), refused.is_retryable()), (ErrorCode::Overloaded, true), "{refused}");
    assert!(refused.to_string().contains("GB of memory in use"), "{refused}");
    scene.end().await;
}

#[tokio::test]
async fn p3_requests_wait_at_a_worker_that_has_a_queue() {
    let scene = Scene::start("maxConcurrent: 1, requestQueue: { enabled: true, maxDepth: 2 }", "").await;
    let worker = scene.until(|_| true).await;
    assert_eq!(worker.registration.unwrap().capabilities.unwrap().max_concurrent, 1, "a queue is no room");
    let request = || InferenceRequest::new("stand-in", "one two three");
    let mut first = scene.client.infer(worker.worker_id, &request()).await.unwrap();
    within("its first token", first.next()).await.unwrap().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(scene.client.infer(worker.worker_id, &request()).await.unwrap());
    }
    let refused = match scene.client.infer(worker.worker_id, &request()).await {
        Err(error) => error,
        Ok(mut tokens) => within("a refusal", tokens.next()).await.unwrap().unwrap_err(),
    };
    assert_eq!(refused.code(), ErrorCode::Overloaded, "the queue is full: {refused}");
    // One that waits can be given up, and costs the others nothing.
    drop(waiting.pop());
    drop(first);
    let mut second = waiting.remove(0);
    assert_eq!(within("its turn", second.next()).await.unwrap().unwrap().text, "You ");
    while let Some(token) = within("the rest", second.next()).await {
        token.unwrap();
    }
    scene.end().await;
}

#[tokio::test]
async fn p3_the_log_of_a_node_is_as_its_keys_say() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.log");
    let logging = format!("logging: {{ level: debug, format: json, file: {} }}\n", file.display());
    let scene = Scene::start("port: 9002", &logging).await;
    scene.until(|_| true).await;
    assert_eq!(scene.node.logged(), "", "it logs into the file");
    scene.end().await;
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{written}");
    assert!(written.contains("\"level\":\"debug\""), "{written}");

    let scene = Scene::start("port: 9002", "logging: { level: info, format: text }\n").await;
    scene.until(|_| true).await;
    eventually("lines for people", || scene.node.logged().contains(" INFO ")).await;
    assert!(
        !scene.node.logged().contains(" DEBUG ") && !scene.node.logged().contains("{\""),
        "{}",
        scene.node.logged()
    );
    scene.end().await;
}
