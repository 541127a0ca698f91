//! SIGTERM of each role under ten streams, and what their clients see.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_tests::within;
use mlx_types::subjects;

use crate::support::{Home, QUICK, RunningNode, Streams, curl};

const MANY: &str = "worker: { maxConcurrent: 20 }\n";

async fn controller(home: &Home) -> (RunningNode, String) {
    let controller = home.run(&["--listen", "127.0.0.1:0"]);
    let gateway = controller.gateway().await;
    (controller, gateway)
}

fn controller_home() -> Home {
    Home::with(&format!("mode: controller\nnats: {{ embedded: {{ port: 0, httpPort: 0 }} }}\n{QUICK}"))
}

async fn worker(controller: &RunningNode) -> (Home, RunningNode) {
    let url = controller.bus().await;
    let home = Home::with(&format!(
        "mode: worker\nnats: {{ mode: external, serverUrl: \"{url}\", reconnectTimeWait: 50 }}\n{MANY}{QUICK}"
    ));
    let worker = home.run(&["--tokens-per-second", "20"]);
    worker.says(" is ready").await;
    (home, worker)
}

#[tokio::test]
async fn p2_a_worker_that_is_told_to_end_finishes_ten_streams_and_gets_no_more() {
    let home = controller_home();
    let (controller, gateway) = controller(&home).await;
    let (_first_home, first) = worker(&controller).await;
    let streams = Streams::start(&gateway, 10).await;
    let (_second_home, second) = worker(&controller).await;
    first.signal("-TERM");
    first.says("ending: ").await;
    // A request that comes now is the other one's.
    let url = format!("http://{gateway}/v1/chat/completions");
    let (status, answer) = curl(&["--include", "--json", &crate::support::chat(false), &url]).await;
    let other = second.says("worker ").await;
    let other = other.split(' ').next().unwrap();
    assert!(status == 200 && answer.contains(&format!("x-mlx-worker: {other}")), "{other}: {answer}");
    let (whole, broken) = streams.ended().await;
    assert_eq!((whole, broken), (10, Vec::<String>::new()));
    let mut first = first;
    assert_eq!(first.ended().await, Some(0));
}

#[tokio::test]
async fn p2_a_controller_that_is_told_to_end_finishes_ten_streams() {
    let home = controller_home();
    let (controller, gateway) = controller(&home).await;
    let (_worker_home, worker) = worker(&controller).await;
    let streams = Streams::start(&gateway, 10).await;
    controller.signal("-TERM");
    controller.says("ending: ").await;
    let refused = within("a refusal", crate::support::curl_command(&[&format!("http://{gateway}/healthz")]).output());
    assert!(!refused.await.unwrap().status.success(), "no new connections");
    let (whole, broken) = streams.ended().await;
    assert_eq!((whole, broken), (10, Vec::<String>::new()));
    let mut controller = controller;
    assert_eq!(controller.ended().await, Some(0));
    // Its worker waits for the next one.
    worker.says(" is ready").await;
    assert_eq!(worker.end("-TERM").await, Some(0));
}

#[tokio::test]
async fn p2_a_node_of_both_finishes_ten_streams_before_its_worker_and_its_bus_end() {
    let home = Home::with(&format!("nats: {{ embedded: {{ port: 0, httpPort: 0 }} }}\n{MANY}{QUICK}"));
    let mut node = home.run(&["--listen", "127.0.0.1:0", "--tokens-per-second", "20"]);
    let gateway = node.gateway().await;
    node.says(" is ready").await;
    let server: u32 = node.says("nats-server is process ").await.split(',').next().unwrap().parse().unwrap();
    let streams = Streams::start(&gateway, 10).await;
    node.signal("-TERM");
    let (whole, broken) = streams.ended().await;
    assert_eq!((whole, broken), (10, Vec::<String>::new()));
    assert_eq!(node.ended().await, Some(0));
    assert!(!std::path::Path::new(&format!("/proc/{server}/exe")).exists(), "nothing outlives it");
}

#[tokio::test]
async fn p2_a_second_signal_ends_a_node_at_once_with_a_farewell() {
    let home = controller_home();
    let (controller, gateway) = controller(&home).await;
    let (_worker_home, worker) = worker(&controller).await;
    let (client, _workers) = controller.client().await;
    let mut farewells = client.subscribe(&subjects::WORKER_DEREGISTER).await.unwrap();
    // Slower than anybody waits: the answer takes half a minute.
    let slow = Home::with(&format!(
        "mode: worker\nnats: {{ mode: external, serverUrl: \"{}\" }}\n{MANY}{QUICK}",
        controller.bus().await
    ));
    assert_eq!(worker.end("-TERM").await, Some(0));
    within("the farewell of the first", farewells.next()).await.unwrap().unwrap();
    let slow_worker = slow.run(&["--tokens-per-second", "1"]);
    slow_worker.says(" is ready").await;
    let streams = Streams::start(&gateway, 2).await;
    let began = Instant::now();
    slow_worker.signal("-TERM");
    slow_worker.says("ending: ").await;
    assert_eq!(slow_worker.end("-INT").await, Some(0));
    within("its farewell", farewells.next()).await.unwrap().unwrap();
    let (whole, broken) = streams.ended().await;
    assert!(whole == 0 && broken.len() == 2, "{broken:?}");
    assert!(broken.iter().all(|text| text.contains("\"error\"") && !text.contains("[DONE]")), "{broken:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
