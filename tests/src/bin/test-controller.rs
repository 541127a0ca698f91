//! A controller as a process of its own, for tests that stop and continue it: `test-controller CONFIG STREAMS TOKENS`.
//!
//! Waits for a worker, asks it for so many streams of so many tokens at once, and says on standard output what became of each,
//! a line a stream. `lost` is a line of its own, for each worker that it took for lost.

use std::process::ExitCode;

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use mlx_errors::Result;
use mlx_nats::{Client, TokenStream, WorkerEvent};
use mlx_tests::{LIMIT, TEST_MODEL};
use mlx_types::messages::InferenceRequest;

#[tokio::main]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test-controller: {}", mlx_errors::report(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let config = mlx_config::load(arguments.next().unwrap_or_default())?;
    let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    let (streams, tokens) = (number(), number());
    let client = Client::connect(&config).await?;
    let workers = client.workers().await?;
    let mut events = workers.events();
    let known = workers.wait_until(LIMIT, |workers| !workers.is_empty()).await?;
    let Some(worker) = known.first() else { return Ok(()) };

    let ask = (0..streams).map(|_| {
        let max_tokens = Some(u32::try_from(tokens).unwrap_or(u32::MAX).into());
        let request = InferenceRequest::new(TEST_MODEL, "count").max_tokens(max_tokens);
        let (client, worker) = (client.clone(), worker.worker_id);
        async move { client.infer(worker, &request).await }
    });
    let asked = join_all(ask).await.into_iter().collect::<Result<Vec<_>>>()?;
    println!("asked");
    for line in join_all(asked.into_iter().map(read)).await {
        println!("{line}");
    }
    while let Some(event) = events.next().now_or_never().flatten() {
        if matches!(event, WorkerEvent::Lost(_)) {
            println!("lost");
        }
    }
    client.shutdown(LIMIT).await
}

/// What became of a stream whose tokens are their own indexes.
async fn read(mut stream: TokenStream) -> String {
    let mut expected = 0;
    while let Some(frame) = stream.next().await {
        match frame {
            Ok(frame) if frame.index == expected && frame.text == expected.to_string() => expected += 1,
            Ok(frame) => return format!("token {} instead of {expected}", frame.index),
            Err(error) => return format!("{error} after {expected} tokens"),
        }
    }
    format!("whole {expected}")
}
