//! The worker that `docs/wire-protocol.md` ends in, in a cluster with workers of ours.

use std::path::PathBuf;
use std::process::Stdio;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode};
use mlx_nats::{Client, ClientOptions, RequestManyOptions, TokenStream, WorkerEvent, WorkerInfo, Workers};
use mlx_tests::{FaultProxy, LIMIT, TEST_MODEL, TestServer, TestWorker, WorkerOptions, within};
use mlx_types::config::ClusterConfig;
use mlx_types::messages::{
    ClusterAnnouncement, ClusterEvent, FinishReason, HealthCheck, HealthReport, InferenceRequest, WorkerStatus,
};
use mlx_types::{NatsUrl, WorkerId, subjects};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::page::{self, Part};

/// The model of the page's worker, and how many requests it answers at once.
const MODEL: &str = "echo";
const AT_ONCE: usize = 4;

/// The script, as a process; killed with the value.
struct PythonWorker {
    id: WorkerId,
    process: Child,
    _folder: TempDir,
}

impl PythonWorker {
    async fn start(url: &NatsUrl) -> Self {
        let python_path = std::env::var("MLX_TEST_PYTHONPATH")
            .expect("MLX_TEST_PYTHONPATH names a folder with nats-py; `cargo xtask test` sees to it");
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new("python3")
            .arg(script(&folder))
            .arg(url.as_str_without_credentials())
            .env("PYTHONPATH", python_path)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 is there");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = within("the script's start", lines.next_line()).await.unwrap().expect("it ended");
        let id = ready.strip_prefix("worker ").and_then(|rest| rest.strip_suffix(" is ready")).expect("its id");
        Self { id: id.parse().unwrap(), process, _folder: folder }
    }

    /// Asks it to end, and waits until it has.
    async fn leave(mut self) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        assert!(within("the script's end", self.process.wait()).await.unwrap().success());
    }
}

/// Takes the script out of the page.
fn script(folder: &TempDir) -> PathBuf {
    let steps = page::steps(&page::read("docs/wire-protocol.md")).unwrap_or_else(|problem| panic!("{problem}"));
    let [step] = &*steps.into_iter().filter(|step| matches!(step.part, Part::Script(_))).collect::<Vec<_>>() else {
        panic!("docs/wire-protocol.md is to hold one script");
    };
    let path = folder.path().join("worker.py");
    std::fs::write(&path, &step.text).unwrap();
    path
}

/// A controller of ours, with workers that it knows.
struct Cluster {
    server: TestServer,
    client: Client,
    workers: Workers,
}

impl Cluster {
    async fn start() -> Self {
        let server = TestServer::start().await;
        let client = server.client_with(ClientOptions::default().name("controller")).await;
        let workers = client.workers().await.unwrap();
        let started = ClusterAnnouncement::new(ClusterEvent::ControllerStarted);
        client.publish(&subjects::CLUSTER_ANNOUNCE, &started).await.unwrap();
        Self { server, client, workers }
    }

    async fn knows(&self, id: WorkerId, what: impl Fn(&WorkerInfo) -> bool) {
        let there = |known: &[WorkerInfo]| known.iter().any(|worker| worker.worker_id == id && what(worker));
        self.workers.wait_until(LIMIT, there).await.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn ask(&self, worker: WorkerId, model: &str, prompt: &str) -> TokenStream {
        let request = InferenceRequest::new(model, prompt).max_tokens(100_000);
        within("an acceptance", self.client.infer(worker, &request)).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

async fn drain(stream: &mut TokenStream) -> Result<String, Error> {
    let mut text = String::new();
    while let Some(frame) = within("the end of the stream", stream.next()).await {
        text.push_str(&frame?.text);
    }
    Ok(text)
}

/// More words than can be said within a test.
fn endless() -> String {
    vec!["word"; 100_000].join(" ")
}

#[tokio::test]
async fn nats_py_worker_of_the_page_serves_beside_ours() {
    let cluster = Cluster::start().await;
    let python = PythonWorker::start(&cluster.server.embedded().client_url()).await;
    let options = WorkerOptions::new(WorkerId::new(), &ClusterConfig::default());
    let rust = TestWorker::start(&cluster.server.client().await, options).await.unwrap();
    cluster.knows(python.id, |worker| worker.registration.is_some() && worker.metrics.is_some()).await;
    cluster.knows(rust.id(), |worker| worker.registration.is_some()).await;
    let models = cluster.workers.get(python.id).unwrap().registration.unwrap().skills.available_models;
    assert_eq!(models, [MODEL]);

    // Both at once, whole, and each with the end that it should have.
    let (mut ours, mut theirs) = tokio::join!(
        cluster.ask(rust.id(), TEST_MODEL, "count"),
        cluster.ask(python.id, MODEL, "one two three \u{e9}\u{1f980}")
    );
    assert_eq!(drain(&mut theirs).await.unwrap(), "one two three \u{e9}\u{1f980} ");
    let summary = theirs.summary().unwrap();
    assert_eq!((summary.tokens, summary.finish_reason.clone()), (4, Some(FinishReason::Stop)));
    assert_eq!(theirs.worker_id(), Some(python.id));
    within("a token", ours.next()).await.unwrap().unwrap();
    drop(ours);

    let short = InferenceRequest::new(MODEL, "a b c d").max_tokens(2);
    let mut short = cluster.client.infer(python.id, &short).await.unwrap();
    assert_eq!(drain(&mut short).await.unwrap(), "a b ");
    assert_eq!(short.summary().unwrap().finish_reason, Some(FinishReason::Length));

    let from_all = mlx_tests::ask_all(
        &cluster.client,
        &subjects::HEALTH_CHECK,
        &HealthCheck::new(),
        RequestManyOptions::default(),
    )
    .await;
    let reports: Vec<HealthReport> = from_all.unwrap().into_iter().filter_map(Result::ok).collect();
    assert!(reports.iter().any(|it| it.worker_id == python.id && it.status == WorkerStatus::Online), "{reports:?}");

    let mut events = cluster.workers.events();
    let id = python.id;
    python.leave().await;
    let left = async { while !matches!(events.next().await, Some(WorkerEvent::Left(left)) if left == id) {} };
    within("its farewell", left).await;
    let error = refused(&cluster, id, &InferenceRequest::new(MODEL, "gone")).await;
    assert_eq!(error.code(), ErrorCode::NatsNoResponders);
    rust.leave(LIMIT).await.unwrap();
}

#[tokio::test]
async fn nats_py_worker_of_the_page_obeys_cancellations_limits_and_deadlines() {
    let cluster = Cluster::start().await;
    let python = PythonWorker::start(&cluster.server.embedded().client_url()).await;
    cluster.knows(python.id, |worker| worker.registration.is_some()).await;

    let mut stopped = cluster.ask(python.id, MODEL, &endless()).await;
    within("a token", stopped.next()).await.unwrap().unwrap();
    stopped.stop().await.unwrap();
    assert!(drain(&mut stopped).await.unwrap().len() < 5 * 1000, "it went on");
    assert_eq!(stopped.summary().unwrap().finish_reason, Some(FinishReason::Cancelled));

    let mut running = Vec::new();
    for _ in 0..AT_ONCE {
        let mut stream = cluster.ask(python.id, MODEL, &endless()).await;
        within("a token", stream.next()).await.unwrap().unwrap();
        running.push(stream);
    }
    cluster.knows(python.id, |worker| active(worker) == Some(AT_ONCE as u64)).await;
    let refusal = refused(&cluster, python.id, &InferenceRequest::new(MODEL, "one too many")).await;
    assert_eq!(refusal.code(), ErrorCode::Overloaded);
    // Dropping them is a `kill`: nobody reads any more, and the worker has room again.
    drop(running);
    cluster.knows(python.id, |worker| active(worker) == Some(0)).await;
    assert_eq!(drain(&mut cluster.ask(python.id, MODEL, "hello").await).await.unwrap(), "hello ");

    // What only a client that is not ours would send.
    let foreign = cluster.server.foreign_client().await;
    let subject = subjects::worker_inference(python.id).to_string();
    let mut late = async_nats::HeaderMap::new();
    late.insert("Mlx-Deadline", "1");
    let request = serde_json::to_vec(&InferenceRequest::new(MODEL, "too late")).unwrap();
    let reply = within("a refusal", foreign.request_with_headers(subject.clone(), late, request.into())).await.unwrap();
    assert_eq!(code_of(&reply), "DEADLINE_EXCEEDED");
    for malformed in ["", "[]", "{}", r#"{"requestId": "a.b", "prompt": "x"}"#, r#"{"requestId": 7, "prompt": "x"}"#] {
        let reply = within("a refusal", foreign.request(subject.clone(), malformed.into())).await.unwrap();
        assert_eq!(code_of(&reply), "MESSAGE_DECODE_ERROR", "{malformed}");
    }
    assert_eq!(drain(&mut cluster.ask(python.id, MODEL, "still there").await).await.unwrap(), "still there ");
    python.leave().await;
}

fn active(worker: &WorkerInfo) -> Option<u64> {
    worker.metrics.as_ref().map(|metrics| metrics.active_requests)
}

/// The code of a refusal: the header and the body are to agree.
fn code_of(reply: &async_nats::Message) -> String {
    let body: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
    let header = reply.headers.as_ref().and_then(|headers| headers.get("Mlx-Error-Code")).expect("a code");
    assert_eq!(body["code"], header.as_str());
    header.to_string()
}

/// The error with which a request ends, whether it is refused at once or by its stream.
async fn refused(cluster: &Cluster, worker: WorkerId, request: &InferenceRequest) -> Error {
    match within("an answer", cluster.client.infer(worker, request)).await {
        Ok(mut stream) => drain(&mut stream).await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn nats_py_worker_of_the_page_comes_back_after_a_cut_and_ends_what_it_interrupted() {
    let cluster = Cluster::start().await;
    let proxy = FaultProxy::start(&cluster.server).await;
    let python = PythonWorker::start(&proxy.url()).await;
    cluster.knows(python.id, |worker| worker.registration.is_some()).await;
    let first = cluster.workers.get(python.id).unwrap();

    let mut cut = cluster.ask(python.id, MODEL, &endless()).await;
    within("a token", cut.next()).await.unwrap().unwrap();
    proxy.cut();
    let error = drain(&mut cut).await.unwrap_err();
    assert!(matches!(error.code(), ErrorCode::StreamDisconnected | ErrorCode::StreamGap), "{error:?}");

    let registered_at = |worker: &WorkerInfo| worker.registration.as_ref().map(|known| known.timestamp);
    let since = registered_at(&first);
    cluster.knows(python.id, |worker| registered_at(worker) > since && worker.epoch == first.epoch).await;
    assert_eq!(drain(&mut cluster.ask(python.id, MODEL, "back again").await).await.unwrap(), "back again ");
    assert!(proxy.accepted() >= 2, "it was never cut off");
    python.leave().await;
}
