//! The promises that name milliseconds: medians of fifty, printed, and held to ten times what is promised. The limits
//! configured are minutes, so that nothing here can pass for having waited one out. The benchmark measures them closely.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{ErrorCode, Result};
use mlx_nats::{Client, ClientOptions, InferenceOptions, RequestOptions, TokenSink};
use mlx_tests::{FaultProxy, LIMIT, TestServer, millis, within};
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest};
use tokio::sync::mpsc;

const ROUNDS: usize = 50;

/// How much slower than promised a busy machine may be.
const MARGIN: u32 = 10;

/// Longer than any test may take.
const NEVER: Duration = Duration::from_mins(10);

/// Prints the median, and holds it to what is promised.
fn hold(what: &str, promised: Duration, mut times: Vec<Duration>) {
    assert_eq!(times.len(), ROUNDS);
    times.sort_unstable();
    let (median, longest) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    println!("{what}: median {median:?}, longest {longest:?}, promised {promised:?}");
    assert!(median < promised * MARGIN, "{what}: {median:?}");
}

/// How long `future` takes to fail with `code`.
async fn failing<T>(code: ErrorCode, future: impl Future<Output = Result<T>>) -> Duration {
    let began = Instant::now();
    let Err(error) = within("a failure", future).await else { panic!("it did not fail") };
    assert_eq!(error.code(), code, "{error}");
    began.elapsed()
}

fn patient() -> RequestOptions {
    RequestOptions::default().timeout(NEVER)
}

/// A server, a proxy, and a client behind it that is soon back after a cut.
async fn behind_proxy() -> (TestServer, FaultProxy, Client) {
    let server = TestServer::start().await;
    let proxy = FaultProxy::start(&server).await;
    let mut config = proxy.in_front(server.config());
    config.max_reconnect_attempts = 100_000;
    config.reconnect_time_wait = millis(5);
    let client = Client::connect(&config).await.unwrap();
    (server, proxy, client)
}

#[tokio::test]
async fn c1_a_request_or_a_stream_to_nobody_fails_within_5_ms() {
    let server = TestServer::start().await;
    let patient_client = ClientOptions::default().first_token_timeout(NEVER).offline_timeout(NEVER);
    let client = server.client_with(patient_client).await;
    client.workers().await.unwrap(); // subscribes once, and not as a part of the first stream
    let (mut requests, mut streams) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let request = client.request_with::<_, _, u64>("lab.nobody", &round, patient());
        requests.push(failing(ErrorCode::NatsNoResponders, request).await);
        let stream = async {
            let mut stream = client.infer(WorkerId::new(), &InferenceRequest::new("m", "p")).await?;
            stream.next().await.expect("an end that says why")
        };
        streams.push(failing(ErrorCode::NatsNoResponders, stream).await);
    }
    hold("C1, requests", Duration::from_millis(5), requests);
    hold("C1, streams", Duration::from_millis(5), streams);
}

#[tokio::test]
async fn c2_a_publish_or_a_request_while_disconnected_fails_within_1_ms() {
    let (_server, proxy, client) = behind_proxy().await;
    proxy.refuse(true);
    proxy.cut();
    let mut state = client.watch_state();
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    let (mut publishes, mut requests) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        publishes.push(failing(ErrorCode::NatsDisconnected, client.publish("lab.test", &round)).await);
        let request = client.request_with::<_, _, u64>("lab.test", &round, patient());
        requests.push(failing(ErrorCode::NatsDisconnected, request).await);
    }
    hold("C2, publishes", Duration::from_millis(1), publishes);
    hold("C2, requests", Duration::from_millis(1), requests);
}

#[tokio::test]
async fn c3_a_request_in_flight_fails_within_50_ms_of_the_drop() {
    let (server, proxy, client) = behind_proxy().await;
    let mut silent = server.client().await.subscribe::<_, usize>("lab.silent").await.unwrap();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        client.wait_connected(LIMIT).await.unwrap();
        let asking = client.clone();
        let asked = tokio::spawn(async move {
            let answer = asking.request_with::<_, _, u64>("lab.silent", &round, patient()).await;
            (answer.map_err(|error| error.code()), Instant::now())
        });
        within("the request", silent.next()).await.unwrap().unwrap();
        let cut = Instant::now();
        proxy.cut();
        let (answer, ended) = within("the failure", asked).await.unwrap();
        assert_eq!(answer, Err(ErrorCode::NatsDisconnected));
        times.push(ended - cut);
    }
    hold("C3", Duration::from_millis(50), times);
}

/// Tells when it is dropped, and its handler with it.
struct Ending(mpsc::UnboundedSender<Instant>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send(Instant::now()).unwrap();
    }
}

#[tokio::test]
async fn s2_a_dropped_stream_is_cancelled_at_its_worker_within_100_ms() {
    let server = TestServer::start().await;
    let (worker, id) = (server.client().await, WorkerId::new());
    let (ends, mut ended) = mpsc::unbounded_channel();
    let (beginnings, mut begun) = mpsc::unbounded_channel();
    let handler = move |request: InferenceRequest, mut tokens: TokenSink| {
        let (ending, beginnings) = (Ending(ends.clone()), beginnings.clone());
        async move {
            let _ending = ending;
            if request.prompt == "speak" {
                tokens.send("word").await?;
            } else {
                beginnings.send(()).unwrap();
            }
            std::future::pending::<()>().await;
            Ok(FinishReason::Stop)
        }
    };
    let _service = worker.serve_inference(id, InferenceOptions::default(), handler).await.unwrap();
    let client = server.client().await;
    let mut times = [Vec::new(), Vec::new()];
    for (prompt, times) in ["silence", "speak"].into_iter().zip(&mut times) {
        for _ in 0..ROUNDS {
            let mut stream = client.infer(id, &InferenceRequest::new("m", prompt)).await.unwrap();
            if prompt == "speak" {
                within("a token", stream.next()).await.unwrap().unwrap();
            } else {
                within("the handler", begun.recv()).await.unwrap();
            }
            let dropped = Instant::now();
            drop(stream);
            times.push(within("the end of the handler", ended.recv()).await.unwrap() - dropped);
        }
    }
    let [before, after] = times;
    hold("S2, before the first token", Duration::from_millis(100), before);
    hold("S2, after it", Duration::from_millis(100), after);
}
