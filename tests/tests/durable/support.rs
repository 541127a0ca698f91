//! A server that keeps messages, workers made for a case, and a look into the queue.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{Error, Result};
use mlx_nats::{Client, ClientOptions, InferenceOptions, InferenceService, TokenSink, TokenStream};
use mlx_tests::{LIMIT, TEST_MODEL, TestServer, WorkerProcess, millis, within};
use mlx_types::config::DurableConfig;
use mlx_types::messages::{FinishReason, InferenceRequest, StreamingResponse};
use mlx_types::{ClusterConfig, WorkerId, subjects};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The model that the workers of these tests have: of a name that needs escaping.
pub(crate) const MODEL: &str = "mlx-community/Llama-3.2-1B";

/// The consumer of [`MODEL`].
pub(crate) const CONSUMER: &str = "mlx-community=2f=4clama-3=2e2-1=42";

/// What workers in processes of their own are told. The durable settings are those of [`settings`].
const WORKER_FILE: &str = "
nats: { reconnectTimeWait: 50, maxReconnectAttempts: 1000 }
discovery: { heartbeatIntervalMs: 100, offlineTimeoutMs: 1500 }
requestRouting: { durable: { enabled: true, ackWaitMs: 500, maxDeliveries: 3 } }
logging: { level: error, format: text }
";

/// A server with JetStream, its files in a folder of its own.
pub(crate) struct Server {
    pub(crate) server: TestServer,
    folder: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("worker.yaml"), WORKER_FILE).unwrap();
        let store = folder.path().join("jetstream");
        let server = TestServer::start_with(|config| {
            config.embedded.jetstream.enabled = true;
            config.embedded.jetstream.store_dir = store;
            config.max_reconnect_attempts = 1000;
        })
        .await;
        Self { server, folder }
    }

    pub(crate) async fn client(&self) -> Client {
        self.server.client_with(options()).await
    }

    pub(crate) async fn client_with(&self, change: impl FnOnce(&mut DurableConfig)) -> Client {
        let mut options = options();
        change(options.durable.as_mut().unwrap());
        self.server.client_with(options).await
    }

    fn worker_file(&self) -> PathBuf {
        self.folder.path().join("worker.yaml")
    }

    /// A worker in a process of its own, with the model [`TEST_MODEL`].
    pub(crate) fn worker(&self, arguments: &[&str]) -> WorkerProcess {
        let file: &Path = &self.worker_file();
        let url = self.server.embedded().client_url();
        WorkerProcess::start(env!("CARGO_BIN_EXE_test-worker"), file, &url, WorkerId::new(), arguments)
    }
}

/// Everything quicker than shipped.
pub(crate) fn options() -> ClientOptions {
    let mut config = ClusterConfig::default();
    config.discovery.offline_timeout_ms = millis(1500);
    config.request_routing.durable = settings();
    ClientOptions::from(&config)
}

pub(crate) fn settings() -> DurableConfig {
    let mut settings = DurableConfig::default();
    settings.enabled = true;
    settings.ack_wait_ms = millis(500);
    settings.max_deliveries = 3;
    settings
}

/// A request for the model of the workers in this process.
pub(crate) fn request(prompt: &str) -> InferenceRequest {
    InferenceRequest::new(MODEL, prompt)
}

/// A request for the model of the workers in processes of their own, whose tokens are their indexes.
pub(crate) fn indexes(tokens: u64) -> InferenceRequest {
    InferenceRequest::new(TEST_MODEL, "p").max_tokens(tokens)
}

/// A worker that says `prompt` word by word, and counts its runs.
pub(crate) async fn echo(client: &Client) -> (InferenceService, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let service = serve(client, move |request, mut tokens| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            for word in request.prompt.split_inclusive(' ') {
                tokens.send(word).await?;
            }
            Ok(FinishReason::Stop)
        }
    });
    (service.await, runs)
}

/// A worker with a handler of its own.
pub(crate) async fn serve<H, F>(client: &Client, handler: H) -> InferenceService
where
    H: Fn(InferenceRequest, TokenSink) -> F + Send + Sync + 'static,
    F: Future<Output = Result<FinishReason>> + Send + 'static,
{
    client.serve_durable(WorkerId::new(), [MODEL], InferenceOptions::default(), handler).await.unwrap()
}

/// Everything that a stream brought.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<String>,
    pub(crate) error: Option<Error>,
}

impl Answer {
    /// The text of an answer that came to its end.
    pub(crate) fn text(self) -> String {
        assert!(self.error.is_none(), "{:?}", self.error);
        self.tokens.concat()
    }
}

pub(crate) async fn drain(mut stream: TokenStream) -> Answer {
    let mut answer = Answer { tokens: Vec::new(), error: None };
    within("the end of the stream", async {
        while let Some(frame) = stream.next().await {
            assert!(answer.error.is_none(), "something came after the end: {frame:?}");
            match frame {
                Ok(frame) => {
                    assert_eq!(frame.index, answer.tokens.len() as u64);
                    answer.tokens.push(frame.text);
                }
                Err(error) => answer.error = Some(error),
            }
        }
    })
    .await;
    assert!(stream.summary().is_some());
    answer
}

/// Messages that a stream of JetStream's holds.
pub(crate) async fn held(client: &Client, stream: &str) -> u64 {
    let info: Value = client.request(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await.unwrap();
    info["state"]["messages"].as_u64().unwrap_or_else(|| panic!("{info}"))
}

/// Waits until the queue holds so many requests: a request leaves it when its answer has begun.
pub(crate) async fn queued(client: &Client, requests: u64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let held = held(client, "MLX_INFERENCE").await;
        if held == requests {
            return;
        }
        assert!(Instant::now() < deadline, "the queue holds {held} requests, and not {requests}");
        tokio::time::sleep(Duration::from_millis(10)).await; // between two looks at something that cannot wake us
    }
}

/// Requests of a consumer that workers took, and whose answers have not begun; none before a worker makes it.
pub(crate) async fn handed_out(client: &Client, consumer: &str) -> u64 {
    let info = format!("$JS.API.CONSUMER.INFO.MLX_INFERENCE.{consumer}");
    let answer: Value = client.request(&info, &json!({})).await.unwrap();
    answer["num_ack_pending"].as_u64().unwrap_or_default()
}

/// How often the requests of a consumer were handed out; 0 before a worker makes it.
pub(crate) async fn deliveries(client: &Client, consumer: &str) -> u64 {
    let info = format!("$JS.API.CONSUMER.INFO.MLX_INFERENCE.{consumer}");
    let answer: Value = client.request(&info, &json!({})).await.unwrap();
    answer["delivered"]["consumer_seq"].as_u64().unwrap_or_default()
}

/// Waits until workers have taken so many requests of a consumer, and not begun their answers.
pub(crate) async fn taken(client: &Client, consumer: &str, requests: u64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let taken = handed_out(client, consumer).await;
        if taken == requests {
            return;
        }
        assert!(Instant::now() < deadline, "{taken} requests were taken, and not {requests}");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at something that cannot wake us
    }
}

/// Every frame that answers any request, from now on.
pub(crate) async fn frames(client: &Client) -> mlx_nats::Subscription<StreamingResponse> {
    client.subscribe(&subjects::ANY_RESPONSE).await.unwrap()
}
