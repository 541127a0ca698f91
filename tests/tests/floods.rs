//! What a peer can make this process log: a line a second of each kind, however much it sends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mlx_errors::{Error, ErrorKind};
use mlx_nats::{InferenceOptions, Received, Request};
use mlx_tests::{TestServer, captured_log, eventually};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{WorkerId, subjects};
use serde_json::{Value, json};

const FLOOD: usize = 300;

fn broken() -> Error {
    Error::new(ErrorKind::Internal { reason: "broken".to_owned() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_failures_is_a_line_a_second_of_each_kind_with_a_running_count() {
    let log = captured_log();
    let server = TestServer::start().await;
    let client = server.client().await;
    let handled = Arc::new(AtomicUsize::new(0));

    let failed = Arc::clone(&handled);
    let _service = client
        .serve("lab.broken", move |_: Request<u64>| {
            failed.fetch_add(1, Ordering::Relaxed);
            async { Err::<u64, _>(broken()) }
        })
        .await
        .unwrap();
    let panicked = Arc::clone(&handled);
    let _callback = client
        .on_message("lab.panic", move |_: mlx_nats::Result<Received<u64>>| {
            let panicked = Arc::clone(&panicked);
            async move {
                panicked.fetch_add(1, Ordering::Relaxed);
                panic!("a handler")
            }
        })
        .await
        .unwrap();
    let worker = WorkerId::new();
    let ended = Arc::clone(&handled);
    let options = InferenceOptions::default().max_concurrent(FLOOD);
    let _worker = client
        .serve_inference(worker, options, move |_, _| {
            ended.fetch_add(1, Ordering::Relaxed);
            async { Err::<FinishReason, _>(broken()) }
        })
        .await
        .unwrap();
    let workers = client.workers().await.unwrap();

    let began = Instant::now();
    let inference = subjects::worker_inference(worker);
    let bad_figures = json!({
        "workerId": worker, "status": "online", "timestamp": 1, "metrics": { "cpuUsagePercent": "high" }
    });
    for _ in 0..FLOOD {
        client.publish("lab.broken", &1_u64).await.unwrap();
        client.publish("lab.panic", &1_u64).await.unwrap();
        client.publish(&inference, &InferenceRequest::new("m", "p")).await.unwrap();
        client.publish::<_, Value>("worker.heartbeat", &bad_figures).await.unwrap();
    }
    eventually("the flood", || handled.load(Ordering::Relaxed) >= 3 * FLOOD).await;
    eventually("the worker", || workers.get(worker).is_some()).await;

    let kinds = [
        "a request without a reply inbox failed",
        "a message handler panicked",
        "a stream ended with an error",
        "a heartbeat has figures that cannot be",
    ];
    eventually("a line of each", || {
        let text = log.text();
        kinds.iter().all(|kind| text.contains(kind))
    })
    .await;
    let text = log.text();
    // The first, one for each second that has begun since, and one for what was still on its way.
    let most = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    for kind in kinds {
        let lines: Vec<_> = text.lines().filter(|line| line.contains(kind)).collect();
        assert!(lines.len() <= most, "{} lines of `{kind}`, and not {most}", lines.len());
        assert!(lines.iter().all(|line| line.contains("so_far=")), "{lines:?}");
    }
}
