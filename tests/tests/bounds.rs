//! What a peer can fill is bounded in bytes, and what a peer can have logged in lines a second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::ErrorCode;
use mlx_nats::SubscribeOptions;
use mlx_tests::{ConfiguredServer, TestServer, number_from_env, resident, within};
use mlx_types::WorkerId;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_heartbeats_of_four_megabytes_fill_no_memory_and_delay_no_end() {
    // `MLX_TEST_FULL=1`: 20 s.
    let full = number_from_env("MLX_TEST_FULL", || 0) == 1;
    let flood = Duration::from_secs(if full { 20 } else { 4 });
    let server = ConfiguredServer::start("max_payload: 8MB\nmax_pending: 256MB").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.yaml");
    std::fs::write(
        &file,
        format!(
            "nats: {{ mode: external, serverUrl: \"nats://{}\" }}\nlogging: {{ level: error }}\n",
            server.address()
        ),
    )
    .unwrap();
    let mut watcher =
        Command::new(env!("CARGO_BIN_EXE_test-watcher")).arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watcher.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "watching");

    let nats = async_nats::connect(server.address().to_string()).await.unwrap();
    let models: Vec<String> = (0..40_000).map(|index| format!("{index:0>100}")).collect();
    let metrics = json!({ "cpuUsagePercent": 1, "memoryUsedGB": 1, "gpuUtilizationPercent": 1, "activeRequests": 1,
        "totalRequestsHandled": 1, "avgLatencyMs": 1, "modelsLoaded": models });
    let beat = json!({ "workerId": WorkerId::new(), "status": "online", "metrics": metrics, "timestamp": 1_700_000_000_000_u64 });
    let beat = beat.to_string();
    assert!(beat.len() > 4_000_000, "{}", beat.len());
    let (began, mut most) = (Instant::now(), 0);
    let mut tick = tokio::time::interval(Duration::from_millis(16));
    while began.elapsed() < flood {
        tick.tick().await;
        nats.publish("worker.heartbeat", beat.clone().into()).await.unwrap();
        most = most.max(resident(watcher.id()).unwrap_or_default());
    }
    assert!(Command::new("kill").arg(watcher.id().to_string()).status().unwrap().success());
    let told = Instant::now();
    let ended = tokio::task::spawn_blocking(move || watcher.wait().unwrap());
    let status = within("the end", ended).await.unwrap();
    println!("resident at the most {} MB, ended after {} ms", most >> 20, told.elapsed().as_millis());
    assert!(status.success());
    assert!(most < 300 << 20, "{} MB", most >> 20);
    assert!(told.elapsed() < Duration::from_secs(if full { 2 } else { 5 }), "{:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_a_subscription_drops_what_exceeds_its_bytes_and_says_how_much() {
    let server = TestServer::start().await;
    let (client, other) = (server.client().await, server.client().await);
    let options = SubscribeOptions::default().max_bytes(100_000);
    let mut messages = client.subscribe_with::<_, String>("lab.a", options).await.unwrap();
    for _ in 0..20 {
        other.publish("lab.a", &"x".repeat(10_000)).await.unwrap();
    }
    other.flush(mlx_tests::LIMIT).await.unwrap();
    client.flush(mlx_tests::LIMIT).await.unwrap();
    mlx_tests::eventually("the drops", || messages.dropped() > 0).await;
    let mut read = 0;
    let error = loop {
        match within("a message", messages.next()).await.unwrap() {
            Ok(_) => read += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), ErrorCode::SlowConsumer);
    assert!((8..=10).contains(&read), "{read}");
}
