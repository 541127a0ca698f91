//! A controller and a worker of your own, in one file: what to copy for a program that is not `mlx-node`.
//!
//! ```console
//! $ cargo run -p mlx-embedded --example cluster -- "Tell me about NATS"
//! $ cargo run -p mlx-embedded --example cluster -- worker nats://127.0.0.1:4222
//! ```
//!
//! The first line starts a nats-server, a worker and a controller that asks it, in one process; the second one a worker more, for a
//! bus that runs already. The worker's "model" turns the prompt around: put yours into `answer`.

use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::Result;
use mlx_nats::{Client, TokenSink, Worker, WorkerProfile};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{ClusterConfig, WorkerId};

/// What the worker can be asked for.
const MODEL: &str = "backwards";

/// How long what is under way may take to its end.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["worker", url] => work(url).await,
        [prompt] => ask(prompt).await,
        _ => {
            eprintln!("usage: cluster PROMPT, or: cluster worker nats://HOST:PORT");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", mlx_errors::report(&error));
            ExitCode::FAILURE
        }
    }
}

/// A worker alone, until Ctrl-C: it registers, sends heartbeats, and says farewell when it ends.
async fn work(url: &str) -> Result<()> {
    let client = Client::builder().url(url).connect().await?;
    let worker = start_worker(&client).await?;
    println!("worker {} is ready; Ctrl-C ends it", worker.id());
    worker.run_until(tokio::signal::ctrl_c(), GRACE).await?;
    client.shutdown(GRACE).await
}

/// A bus, a worker and a controller: asks one prompt, and prints the answer as it comes.
async fn ask(prompt: &str) -> Result<()> {
    // What `mlx_config::load` reads from a file; here everything at its default, but for the ports.
    let mut config = ClusterConfig::default();
    config.nats.embedded.port = 0;
    config.nats.embedded.http_port = 0;
    let node = mlx_embedded::connect(&config).await?; // starts a nats-server, as `nats.mode: embedded` says
    let worker = start_worker(node.client()).await?;

    // Whom to ask is decided here, by `loadBalancing` and `requestRouting` of the configuration.
    let dispatcher = node.client().dispatcher(&config).await?;
    let mut tokens = dispatcher.infer(&InferenceRequest::new(MODEL, prompt)).await?; // dropping it cancels the work
    while let Some(token) = tokens.next().await {
        print!("{}", token?.text); // an error is typed, and the last item
    }
    if let Some(summary) = tokens.summary() {
        println!("\n{} tokens in {:?}", summary.tokens, summary.duration);
    }

    worker.drain(GRACE).await?; // no more requests, then a farewell
    node.shutdown(GRACE).await
}

async fn start_worker(client: &Client) -> Result<Worker> {
    let profile = WorkerProfile::new(WorkerId::new()).models([MODEL]).max_concurrent(4);
    client.worker(profile).serve(answer).await
}

/// Answers one request. Returning an error tells the requester; when the requester goes away, `send` fails.
async fn answer(request: InferenceRequest, mut tokens: TokenSink) -> Result<FinishReason> {
    for word in request.prompt.split_whitespace().rev() {
        tokens.send(format!("{word} ")).await?;
    }
    Ok(FinishReason::Stop)
}
