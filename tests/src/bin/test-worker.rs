//! A worker as a process of its own, for tests that kill it: `test-worker CONFIG [--pause-ms N] [--preparation-ms N]
//! [--max-concurrent N]`.
//!
//! `CONFIG` is a `cluster.yaml`; the `MLX_…` variables win over it, `MLX_WORKER__WORKER_ID` among them. It answers with
//! the indexes of the tokens, until its standard input ends.

use std::process::ExitCode;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::{Client, ClientOptions};
use mlx_tests::{TestWorker, WorkerOptions};
use mlx_types::WorkerId;
use tokio::sync::oneshot;

const OPTIONS: &str = "[--pause-ms N] [--preparation-ms N] [--max-concurrent N]";

/// How long it may take over its streams when it is told to end, and again over its connection.
const FAREWELL: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test-worker: {}", mlx_errors::report(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let file = arguments.next().ok_or_else(|| usage("the configuration is missing"))?;
    let config = mlx_config::load(file)?;
    let _flushed_at_exit = mlx_log::init(&config.logging)?;
    let mut options = WorkerOptions::new(config.worker.worker_id.unwrap_or_else(WorkerId::new), &config);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match (argument.as_str(), value.parse()) {
            ("--pause-ms", Ok(millis)) => options.pause = Duration::from_millis(millis),
            ("--preparation-ms", Ok(millis)) => options.preparation = Duration::from_millis(millis),
            ("--max-concurrent", Ok(requests)) => {
                options.max_concurrent = usize::try_from(requests).unwrap_or(usize::MAX);
            }
            _ => return Err(usage(&format!("`{argument} {value}` is not understood"))),
        }
    }

    let client_options = ClientOptions::from(&config).name(format!("worker-{}", options.id));
    let client = Client::connect_with(&config.nats, client_options).await?;
    let mut worker = TestWorker::start(&client, options).await?;
    tokio::select! {
        error = worker.ended() => return Err(error),
        () = stdin_ended() => {}
    }
    worker.leave(FAREWELL).await?;
    client.shutdown(FAREWELL).await
}

fn usage(problem: &str) -> Error {
    Error::new(ErrorKind::Internal { reason: format!("{problem}; usage: test-worker CONFIG {OPTIONS}") })
}

async fn stdin_ended() {
    let (sender, ended) = oneshot::channel();
    // A thread of its own, because a read of standard input cannot be given up, and the runtime would wait for it.
    std::thread::spawn(move || {
        let copied = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.send(copied);
    });
    let _ = ended.await;
}
