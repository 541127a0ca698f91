//! Calls that race the end of their client: none says that it succeeded where what it did is lost, and none waits for a limit
//! that no longer matters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use mlx_errors::{Error, ErrorCode};
use mlx_nats::{Client, Request, RequestManyOptions};
use mlx_tests::{FaultProxy, LIMIT, TestServer, eventually, eventually_async, millis, within};
use mlx_types::WorkerId;
use mlx_types::config::{NatsConfig, PublishWhileDisconnected};
use mlx_types::messages::InferenceRequest;
use serde_json::Value;

const ROUNDS: usize = 60;
const PUBLISHERS: usize = 4;

/// Publishes numbers until it cannot; those that were said to be on their way, and why it ended.
async fn publish_until_closed(client: Client, publisher: usize) -> (Vec<u64>, Error) {
    let mut sent = Vec::new();
    for number in (0..).map(|number| number * PUBLISHERS as u64 + publisher as u64) {
        match client.publish("lab.race", &number).await {
            Ok(()) => sent.push(number),
            Err(error) => return (sent, error),
        }
        tokio::task::yield_now().await;
    }
    unreachable!("the numbers do not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c11_what_is_published_during_a_shutdown_goes_out_or_fails_as_closed() {
    let server = TestServer::start().await;
    let other = server.client().await;
    for round in 0..ROUNDS {
        let mut config = server.config();
        if round % 2 == 0 {
            config.publish_while_disconnected = PublishWhileDisconnected::Buffer;
        }
        let mut heard = other.subscribe::<_, u64>("lab.race").await.unwrap();
        let client = Client::connect(&config).await.unwrap();
        let publishers: Vec<_> =
            (0..PUBLISHERS).map(|publisher| tokio::spawn(publish_until_closed(client.clone(), publisher))).collect();
        let first = within("some to be published", heard.next()).await.unwrap().unwrap().into_payload();
        // Two at once: either may be the faster.
        let (one, two) = tokio::join!(client.shutdown(LIMIT), client.shutdown(LIMIT));
        one.and(two).unwrap();
        let mut expected = HashSet::new();
        for outcome in within("the publishers' end", join_all(publishers)).await {
            let (sent, error) = outcome.unwrap();
            assert_eq!(error.code(), ErrorCode::NatsClosed, "{error}");
            expected.extend(sent);
        }
        assert_eq!(client.buffered(), 0);
        expected.remove(&first);
        while !expected.is_empty() {
            let missing = expected.len();
            let next = tokio::time::timeout(LIMIT, heard.next()).await;
            let Ok(Some(message)) = next else { panic!("round {round}: {missing} messages are lost") };
            expected.remove(&message.unwrap().into_payload());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c2_nothing_is_left_in_the_buffer_of_a_client_that_was_shut_down_while_disconnected() {
    for _ in 0..ROUNDS {
        let (server, proxy, config) = behind_proxy().await;
        let config = config.publish_while_disconnected(PublishWhileDisconnected::Buffer);
        let client = Client::connect(&config).await.unwrap();
        proxy.refuse(true);
        proxy.cut();
        within("the drop", client.watch_state().wait_for(|state| !state.is_connected())).await.unwrap();
        let publishers: Vec<_> =
            (0..PUBLISHERS).map(|publisher| tokio::spawn(publish_until_closed(client.clone(), publisher))).collect();
        eventually("some to be kept", || client.buffered() > 0).await;
        within("the shutdown", client.shutdown(LIMIT)).await.unwrap();
        for outcome in within("the publishers' end", join_all(publishers)).await {
            assert_eq!(outcome.unwrap().1.code(), ErrorCode::NatsClosed);
        }
        eventually("the buffer to be empty", || client.buffered() == 0).await;
        drop(server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c11_no_call_that_races_a_shutdown_waits_for_its_limit() {
    let server = TestServer::start().await;
    let other = server.client().await;
    // Somebody listens, and nobody answers.
    let _silent = other.subscribe::<_, Value>("lab.silent").await.unwrap();
    let config = server.config().request_timeout_ms(millis(600_000));
    let long = Duration::from_mins(10);
    for _ in 0..ROUNDS {
        let client = Client::connect(&config).await.unwrap();
        // Made before, so that what follows differs only in when it comes.
        client.workers().await.unwrap();
        let calls = (0..4).flat_map(|_| {
            let [one, two, three, four, five, six] = std::array::from_fn(|_| client.clone());
            [
                tokio::spawn(async move {
                    loop {
                        one.flush(long).await?;
                    }
                }),
                tokio::spawn(async move { two.request::<_, _, Value>("lab.silent", &1).await.map(drop) }),
                tokio::spawn(async move {
                    mlx_tests::ask_all::<_, _, Value>(&three, "lab.silent", &1, RequestManyOptions::default())
                        .await
                        .map(drop)
                }),
                tokio::spawn(async move {
                    loop {
                        let mut subscription = four.subscribe::<_, Value>("lab.test").await?;
                        tokio::task::yield_now().await;
                        if four.state().is_closed() {
                            assert!(subscription.next().await.is_none(), "a subscription without an end");
                        }
                    }
                }),
                tokio::spawn(async move {
                    loop {
                        drop(five.serve("lab.other", |_: Request<Value>| async { Ok(Value::Null) }).await?);
                    }
                }),
                tokio::spawn(async move {
                    loop {
                        let mut tokens = six.infer(WorkerId::new(), &InferenceRequest::new("m", "p")).await?;
                        let error = tokens.next().await.unwrap().unwrap_err();
                        if error.code() != ErrorCode::NatsNoResponders {
                            return Err(error);
                        }
                    }
                }),
            ]
        });
        let calls: Vec<_> = calls.collect();
        client.flush(LIMIT).await.unwrap();
        within("the shutdown", client.shutdown(LIMIT)).await.unwrap();
        for (index, outcome) in within("the end of all calls", join_all(calls)).await.into_iter().enumerate() {
            let error = outcome.unwrap().unwrap_err();
            let closed = matches!(error.code(), ErrorCode::NatsClosed | ErrorCode::StreamDisconnected);
            assert!(closed, "{index}: {error:?}");
        }
    }
}

#[tokio::test]
async fn what_was_published_before_the_last_handle_is_dropped_goes_out() {
    const MESSAGES: u32 = 200;
    let server = TestServer::start().await;
    let other = server.client().await;
    for _ in 0..20 {
        let mut heard = other.subscribe::<_, u32>("lab.last").await.unwrap();
        let client = server.client().await;
        for number in 0..MESSAGES {
            client.publish("lab.last", &number).await.unwrap();
        }
        // Outside of any runtime, too.
        std::thread::spawn(move || drop(client)).join().unwrap();
        for number in 0..MESSAGES {
            assert_eq!(within("a message", heard.next()).await.unwrap().unwrap().into_payload(), number);
        }
    }
}

#[tokio::test]
async fn c2_a_call_that_waits_for_room_ends_with_its_connection() {
    static FILLED: AtomicUsize = AtomicUsize::new(0);
    for buffer in [false, true] {
        let (server, proxy, mut config) = behind_proxy().await;
        config.request_timeout_ms = millis(600_000);
        if buffer {
            config.publish_while_disconnected = PublishWhileDisconnected::Buffer;
        }
        let client = Client::connect(&config).await.unwrap();
        // Nothing moves any more, and the transport's queue fills.
        proxy.throttle(Some(1));
        let mut fill = tokio::spawn({
            let client = client.clone();
            async move {
                loop {
                    if let Err(error) = client.publish("lab.test", &"x".repeat(4096)).await {
                        return error;
                    }
                    // Every message that goes in is told, so that the silence of a full queue is heard.
                    let _ = FILLED.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut before = usize::MAX;
        eventually_async("a full queue", async || {
            let ended = tokio::time::timeout(Duration::from_millis(200), &mut fill).await;
            assert!(ended.is_err(), "there was no room and no wait");
            let now = FILLED.load(Ordering::Relaxed);
            (std::mem::replace(&mut before, now) == now).then_some(())
        })
        .await;
        let requester = client.clone();
        let request = tokio::spawn(async move { requester.request::<_, _, Value>("lab.test", &1).await });
        let flusher = client.clone();
        let flush = tokio::spawn(async move { flusher.flush(Duration::from_mins(10)).await });
        tokio::task::yield_now().await;
        if buffer {
            // Only the end of the client is the end of what may still go out.
            let _ = client.shutdown(Duration::from_millis(50)).await;
            assert_eq!(within("the publish", fill).await.unwrap().code(), ErrorCode::NatsClosed);
        } else {
            proxy.refuse(true);
            proxy.cut();
            assert_eq!(within("the publish", fill).await.unwrap().code(), ErrorCode::NatsDisconnected);
        }
        for error in [
            within("the request", request).await.unwrap().unwrap_err(),
            within("the flush", flush).await.unwrap().unwrap_err(),
        ] {
            assert!(matches!(error.code(), ErrorCode::NatsDisconnected | ErrorCode::NatsClosed), "{error:?}");
        }
        drop(server);
    }
}

async fn behind_proxy() -> (TestServer, FaultProxy, NatsConfig) {
    let server = TestServer::start().await;
    let proxy = FaultProxy::start(&server).await;
    let config = proxy.in_front(server.config()).max_reconnect_attempts(1_000_000);
    (server, proxy, config)
}
