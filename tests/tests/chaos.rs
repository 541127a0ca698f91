//! Many token streams through a storm of cuts.
//!
//! `MLX_TEST_CHAOS_SECONDS` sets how long the storm lasts (4 s unless set), `MLX_TEST_SEED` repeats one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use mlx_errors::ErrorCode;
use mlx_nats::{Client, ClientOptions, InferenceOptions, InferenceService};
use mlx_tests::{FaultProxy, LIMIT, TestServer, eventually, number_from_env};
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest};

const REQUESTERS: usize = 64;
const TOKENS: u64 = 1000;

/// Far more than a token takes, and far less than [`LIMIT`]: what a stream waits whose request was lost.
const SILENCE: Duration = Duration::from_secs(3);

/// How often each end happened; `None` is a worker's own end after all its tokens.
type Endings = BTreeMap<Option<&'static str>, u64>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_every_stream_ends_in_exactly_one_way_through_a_storm_of_cuts() {
    let storm = Duration::from_secs(number_from_env("MLX_TEST_CHAOS_SECONDS", || 4));
    let seed = number_from_env("MLX_TEST_SEED", || fastrand::u64(..));
    println!("MLX_TEST_SEED={seed} MLX_TEST_CHAOS_SECONDS={}", storm.as_secs());

    let server = TestServer::start().await;
    let (before_requesters, before_worker) = (FaultProxy::start(&server).await, FaultProxy::start(&server).await);
    let options =
        ClientOptions::default().first_token_timeout(SILENCE).inter_token_timeout(SILENCE).offline_timeout(LIMIT * 10);
    let connect = async |proxy: &FaultProxy| {
        let config = proxy.in_front(server.config()).max_reconnect_attempts(100_000);
        Client::connect_with(&config, options.clone()).await.unwrap()
    };
    let (requester, worker) = (connect(&before_requesters).await, connect(&before_worker).await);
    let id = WorkerId::new();
    let running = Arc::new(AtomicUsize::new(0));
    let _service = serve(&worker, id, Arc::clone(&running)).await;
    requester.workers().await.unwrap(); // subscribes once, and not as a part of the first stream
    let subscriptions = server.embedded().subsz().await.unwrap().num_subscriptions;

    let over = Arc::new(AtomicBool::new(false));
    let requesters = (0..REQUESTERS).map(|_| tokio::spawn(ask_until(Arc::clone(&over), requester.clone(), id)));
    let requesters: Vec<_> = requesters.collect();
    let cuts = cut(&before_requesters, &before_worker, storm, seed).await;
    over.store(true, Ordering::Relaxed);

    let (mut opened, mut endings) = (0, Endings::new());
    for (streams, ends) in join_all(requesters).await.into_iter().map(Result::unwrap) {
        opened += streams;
        for (end, count) in ends {
            *endings.entry(end).or_default() += count;
        }
    }
    println!("{cuts} cuts, {opened} streams opened, {endings:?}");
    assert_eq!(endings.values().sum::<u64>(), opened);
    let possible = [
        ErrorCode::StreamDisconnected, // our connection was cut, or the worker says that its own was
        ErrorCode::NatsNoResponders,   // the worker's was, and the request found nobody
        ErrorCode::StreamFirstTokenTimeout, // likewise, with the request on its way
        ErrorCode::StreamGap,          // likewise, with some frames on their way
    ];
    for end in endings.keys().flatten() {
        assert!(possible.iter().any(|code| code.as_str() == *end), "no stream should end as {end}");
    }
    assert!(endings.contains_key(&Some(ErrorCode::StreamDisconnected.as_str())), "no cut ever hit a stream");

    // When it is over, everything works again and nothing is left of what was interrupted.
    requester.wait_connected(LIMIT).await.unwrap();
    worker.wait_connected(LIMIT).await.unwrap();
    let calm = (0..REQUESTERS).map(|_| one_stream(&requester, id));
    for end in join_all(calm).await {
        assert_eq!(end, Some(None), "a stream failed on an undisturbed connection");
    }
    eventually("the end of all handlers", || running.load(Ordering::Relaxed) == 0).await;
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = server.embedded().subsz().await.unwrap().num_subscriptions;
        if now == subscriptions {
            break;
        }
        assert!(Instant::now() < deadline, "{now} subscriptions instead of {subscriptions}");
    }
}

/// A worker that counts to [`TOKENS`], about as fast as a small model speaks.
async fn serve(worker: &Client, id: WorkerId, running: Arc<AtomicUsize>) -> InferenceService {
    let options = InferenceOptions::default().max_concurrent(100_000);
    worker
        .serve_inference(id, options, move |_request, mut tokens| {
            let handler = Handler::enter(&running);
            async move {
                let _handler = handler;
                for index in 0..TOKENS {
                    tokens.send(index.to_string()).await?;
                    if index % 10 == 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await; // the model's own time
                    }
                }
                Ok(FinishReason::Length)
            }
        })
        .await
        .unwrap()
}

/// One running handler, counted.
struct Handler(Arc<AtomicUsize>);

impl Handler {
    fn enter(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(running))
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Cuts one connection or the other, about once a second; says how often.
async fn cut(before_requesters: &FaultProxy, before_worker: &FaultProxy, storm: Duration, seed: u64) -> u32 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (began, mut cuts) = (Instant::now(), 0);
    while began.elapsed() < storm {
        tokio::time::sleep(Duration::from_millis(random.u64(400..1400))).await; // the storm's own pace
        // The worker's less often, because its streams then wait out the silence, and never at first, so that even the
        // shortest storm hits streams under way.
        let worker = random.u8(..4) == 0 && cuts > 0;
        let proxy = if worker { before_worker } else { before_requesters };
        proxy.cut();
        cuts += 1;
    }
    cuts
}

/// Opens one stream after another until it is over; how many were opened, and how they ended.
async fn ask_until(over: Arc<AtomicBool>, client: Client, id: WorkerId) -> (u64, Endings) {
    let (mut opened, mut endings) = (0, Endings::new());
    while !over.load(Ordering::Relaxed) {
        client.wait_connected(LIMIT).await.unwrap();
        if let Some(end) = one_stream(&client, id).await {
            opened += 1;
            *endings.entry(end).or_default() += 1;
        }
        tokio::task::yield_now().await;
    }
    (opened, endings)
}

/// How one stream ended, after a look at everything it brought; `None` if it could not be opened.
async fn one_stream(client: &Client, id: WorkerId) -> Option<Option<&'static str>> {
    let mut stream = match client.infer(id, &InferenceRequest::new("m", "p")).await {
        Ok(stream) => stream,
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::NatsDisconnected, "{error}");
            return None;
        }
    };
    let (mut received, mut end) = (0, None);
    let read = async {
        while let Some(frame) = stream.next().await {
            assert!(end.is_none(), "something came after the end: {frame:?}");
            match frame {
                Ok(frame) => {
                    assert_eq!((frame.index, frame.text), (received, received.to_string()));
                    received += 1;
                }
                Err(error) => end = Some(error.code().as_str()),
            }
        }
    };
    tokio::time::timeout(LIMIT * 3, read).await.expect("a stream hangs");
    assert!(stream.next().await.is_none(), "an ended stream goes on");
    assert_eq!(stream.summary().expect("an ended stream has a summary").tokens, received);
    assert!(end.is_some() || received == TOKENS, "a stream ended cleanly after {received} tokens");
    Some(end)
}
