//! Nothing piles up: requests that time out and streams that are dropped leave neither memory nor subscriptions behind.
//!
//! A tenth of what the promise says, unless `MLX_TEST_FULL=1` asks for all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use mlx_errors::ErrorCode;
use mlx_nats::{Client, ClientOptions, InferenceOptions, RequestOptions};
use mlx_tests::{LIMIT, TestServer, eventually, number_from_env, within};
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// How much more memory may be resident afterwards. One forgotten entry a request would be several times that.
const TOLERANCE: u64 = 5 << 20;

/// Under way at once.
const CONCURRENT: usize = 256;

/// One test and not two: each would see the other's memory where they run in one process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_timed_out_requests_and_dropped_streams_leave_nothing_behind() {
    let count = if number_from_env("MLX_TEST_FULL", || 0) == 0 { 10_000 } else { 100_000 };
    let server = TestServer::start().await;
    // The worker of this test does not beat.
    let patient = ClientOptions::default().offline_timeout(Duration::MAX);
    let (client, peer) = (server.client_with(patient).await, server.client().await);

    let mut silent = peer.subscribe::<_, usize>("lab.silent").await.unwrap();
    let silent = tokio::spawn(async move { while silent.next().await.is_some() {} });
    flat(&server, "timed-out requests", count, |number| time_out(&client, number)).await;
    silent.abort();
    within("the end of the reader", silent).await.unwrap_err();
    peer.flush(LIMIT).await.unwrap(); // behind its unsubscription

    let id = WorkerId::new();
    let everyone = InferenceOptions::default().max_concurrent(usize::MAX);
    let handlers = Arc::new(());
    let counted = Arc::clone(&handlers);
    let _service = peer
        .serve_inference(id, everyone, move |_request, mut tokens| {
            let handler = Arc::clone(&counted);
            async move {
                tokens.send("a").await?;
                let cancelled = tokens.cancelled().await;
                drop(handler); // at the latest; one that is killed is dropped where it waits
                Err::<FinishReason, _>(cancelled)
            }
        })
        .await
        .unwrap();
    client.workers().await.unwrap(); // which stays subscribed
    flat(&server, "dropped streams", count, |number| drop_stream(&client, id, number)).await;
    eventually("the end of all handlers", || Arc::strong_count(&handlers) == 2).await;
}

async fn time_out(client: &Client, number: usize) {
    let options = RequestOptions::default().timeout(Duration::from_millis(1));
    let error = client.request_with::<_, _, usize>("lab.silent", &number, options).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsTimeout, "{error}");
}

/// Drops one stream before its first token and the next one after it.
async fn drop_stream(client: &Client, id: WorkerId, number: usize) {
    let mut stream = client.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
    if number.is_multiple_of(2) {
        assert_eq!(within("the first token", stream.next()).await.unwrap().unwrap().text, "a");
    }
}

/// Rounds that are measured. Whatever piles up does so in every one of them; the allocator keeps more in one of them, where
/// the machine's other work lets more wait at once than before.
const ROUNDS: usize = 3;

/// Does `one` thing `count` times, and holds when memory and subscriptions are what they were when that began.
async fn flat<F: Future<Output = ()>>(server: &TestServer, what: &str, count: usize, one: impl Fn(usize) -> F) {
    let some = async |count| stream::iter(0..count).map(&one).buffer_unordered(CONCURRENT).collect::<()>().await;
    let subscriptions = subscriptions(server).await;
    // What is set up by the first of them, and what the allocator keeps for as many at once, is not theirs.
    some(10_000).await;
    subscriptions_return_to(server, subscriptions).await;
    let mut grown = Vec::new();
    for _ in 0..ROUNDS {
        let (before, began) = (resident(), Instant::now());
        some(count).await;
        let took = began.elapsed();
        subscriptions_return_to(server, subscriptions).await;
        let after = resident();
        println!("{count} {what}: {before} bytes resident before, {after} after, {took:?}");
        if after < before + TOLERANCE {
            return;
        }
        grown.push(after - before);
    }
    panic!("{what}: {count} each time, and each time more bytes resident than before: {grown:?}");
}

/// Waits until the server has `expected` subscriptions.
async fn subscriptions_return_to(server: &TestServer, expected: u64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = subscriptions(server).await;
        if now == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{now} subscriptions instead of {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks at the server
    }
}

async fn subscriptions(server: &TestServer) -> u64 {
    server.embedded().subsz().await.unwrap().num_subscriptions
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let own = sysinfo::get_current_pid().unwrap();
    let mut system = System::new().unwrap();
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[own]),
        false,
        ProcessRefreshKind::nothing().with_memory(),
    );
    system.process(own).unwrap().memory()
}
