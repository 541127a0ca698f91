//! An answer of 32 tokens through the gateway, a bus and a worker, beside the same model server asked directly: `mlx-node` as people
//! run it, a process for the controller and one for the worker, and a model server that makes its tokens at once.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use axum::Router;
use axum::extract::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::arm::{Side, Workload};
use crate::context::Context;
use crate::sample::{Latencies, Metric, Sample};

/// Tokens of an answer.
const TOKENS: usize = 32;
/// Where the program says that it listens.
const LISTENING: &str = "listening on http://";
/// What it says of a worker that is ready, with its id.
const WORKER: &str = "worker ";
/// How long the programs may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    let streamed = context.arm.workload == Workload::GatewayStream;
    // An error means that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let models = model_server().await?;
    let cluster = match context.arm.side {
        Side::Bare => None,
        _ => Some(Cluster::start(context, &models).await?),
    };
    let base = cluster.as_ref().map_or(models, |cluster| cluster.gateway.clone());
    let asker =
        Asker { http: Client::builder().no_proxy().build()?, url: format!("{base}/v1/chat/completions"), streamed };
    asker.until_ready().await?;
    ask(&asker, context.arm.count, context.warm_up()).await?;
    let begun = Instant::now();
    let latencies = ask(&asker, context.arm.count, context.work).await?;
    #[expect(clippy::cast_precision_loss, reason = "a count of answers")]
    let rate = context.work as f64 / begun.elapsed().as_secs_f64();
    Ok(Sample::default().with_latencies(&latencies).with(Metric::Rate, rate))
}

/// So many answers, by so many clients at a time.
async fn ask(asker: &Asker, clients: u64, answers: u64) -> Result<Latencies> {
    let mut asking = JoinSet::new();
    for client in 0..clients {
        let asker = asker.clone();
        let share = answers / clients + u64::from(client < answers % clients);
        asking.spawn(async move {
            let mut took = Vec::new();
            for _ in 0..share {
                took.push(asker.ask().await?);
            }
            anyhow::Ok(took)
        });
    }
    let mut latencies = Latencies::new()?;
    while let Some(took) = asking.join_next().await {
        took??.into_iter().for_each(|latency| latencies.record(latency));
    }
    Ok(latencies)
}

/// A client.
#[derive(Clone)]
struct Asker {
    http: Client,
    url: String,
    streamed: bool,
}

impl Asker {
    /// The time of one whole answer.
    async fn ask(&self) -> Result<Duration> {
        let body =
            json!({ "model": "m", "stream": self.streamed, "messages": [{ "role": "user", "content": "Hello" }] });
        let begun = Instant::now();
        let response = self.http.post(&self.url).json(&body).send().await?.error_for_status()?;
        let text = response.text().await?;
        let took = begun.elapsed();
        let tokens = text.matches("tok ").count();
        ensure!(tokens == TOKENS, "{tokens} tokens of {TOKENS}: {text}");
        Ok(took)
    }

    async fn until_ready(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.ask().await {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > READY_LIMIT => return Err(error).context("no answer"),
                // The worker has registered, and the gateway is about to hear of it.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

/// `mlx-node`, twice. Both end with this process's end of their standard input.
struct Cluster {
    gateway: String,
    _controller: Child,
    _worker: Child,
    _home: TempDir,
}

impl Cluster {
    async fn start(context: &Context, models: &str) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let node = |mode: &str, arguments: &[&str]| -> Result<Child> {
            let folder = home.path().join(mode);
            std::fs::create_dir(&folder)?;
            std::fs::write(folder.join("cluster.yaml"), format!("mode: {mode}\n"))?;
            let mut command = Command::new(program()?);
            command.current_dir(&folder).args(["run", "--exit-with-stdin", "--config", "cluster.yaml"]).args(arguments);
            command.env("MLX_NATS__MODE", "external").env("MLX_NATS__SERVER_URL", &context.url);
            // As many as are ever under way.
            command.env("MLX_WORKER__MAX_CONCURRENT", "64");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
            command.spawn().context("cannot run mlx-node")
        };
        let mut controller = node("controller", &["--listen", "127.0.0.1:0"])?;
        let gateway = format!("http://{}", said_behind(LISTENING, &mut controller).await?);
        let mut worker = node("worker", &["--engine", &format!("openai={models}/v1")])?;
        said_behind(WORKER, &mut worker).await?;
        Ok(Self { gateway, _controller: controller, _worker: worker, _home: home })
    }
}

/// What `mlx-node` says behind these words, as soon as it does.
async fn said_behind(words: &str, node: &mut Child) -> Result<String> {
    let mut said = BufReader::new(node.stdout.take().context("no standard output")?).lines();
    let mut seen = Vec::new();
    let found = async {
        while let Some(line) = said.next_line().await? {
            if let Some((_, rest)) = line.split_once(words) {
                return Ok(rest.trim().to_owned());
            }
            seen.push(line);
        }
        bail!("mlx-node ended at once: {}", seen.join("; "))
    };
    let found = timeout(READY_LIMIT, found).await.with_context(|| format!("mlx-node does not say {words:?}"))??;
    // Read to the end, or what it says would stop it some day.
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    Ok(found)
}

/// The program, which `cargo xtask bench` builds beside this one.
fn program() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folders = here.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("mlx-node")).find(|path: &PathBuf| Path::is_file(path));
    found.with_context(|| format!("there is no mlx-node beside {}; `cargo xtask bench` builds it", here.display()))
}

/// A model server that makes its tokens at once; returns where it is.
async fn model_server() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let models = || async { Json(json!({ "object": "list", "data": [{ "id": "m", "object": "model" }] })) };
    let router = Router::new().route("/v1/models", get(models)).route("/v1/chat/completions", post(complete));
    tokio::spawn(async move {
        axum::serve(axum::serve::ListenerExt::tap_io(listener, |io| drop(io.set_nodelay(true))), router).await
    });
    Ok(format!("http://{address}"))
}

async fn complete(Json(request): Json<Value>) -> Response {
    let usage = json!({ "prompt_tokens": 1, "completion_tokens": TOKENS, "total_tokens": TOKENS + 1 });
    if request.get("stream") != Some(&true.into()) {
        let message = json!({ "role": "assistant", "content": "tok ".repeat(TOKENS) });
        let choices = json!([{ "index": 0, "message": message, "finish_reason": "stop" }]);
        return Json(json!({ "id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage }))
            .into_response();
    }
    let event = |choices: Value, usage: Value| {
        let chunk = json!({ "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, "usage": usage });
        format!("data: {chunk}\n\n")
    };
    let choice = |delta: Value, reason: Value| json!([{ "index": 0, "delta": delta, "finish_reason": reason }]);
    let tokens = (0..TOKENS).map(|_| event(choice(json!({ "content": "tok " }), Value::Null), Value::Null));
    let end =
        [event(choice(json!({}), json!("stop")), Value::Null), event(json!([]), usage), "data: [DONE]\n\n".to_owned()];
    // Each event is a chunk of its own, as servers send them.
    let events =
        futures_util::stream::iter(tokens.chain(end).map(Ok::<_, std::convert::Infallible>).collect::<Vec<_>>());
    ([(header::CONTENT_TYPE, "text/event-stream")], axum::body::Body::from_stream(events)).into_response()
}
