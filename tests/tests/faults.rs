//! Promises that have to hold on a bad network: connections cut, stalled and garbled under the client's hands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use mlx_errors::ErrorCode;
use mlx_nats::{Client, CloseReason, ConnectionState, Received, RequestOptions, SubscribeOptions, Subscription};
use mlx_tests::{FaultProxy, LIMIT, TestServer, eventually, millis, within};
use mlx_types::config::{NatsConfig, PublishWhileDisconnected};

/// What "at once" may take on a machine that has other things to do.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A server, a proxy in front of it, and the settings of a client that never gives up behind it.
async fn behind_proxy() -> (TestServer, FaultProxy, NatsConfig) {
    let server = TestServer::start().await;
    let proxy = FaultProxy::start(&server).await;
    let mut config = proxy.in_front(server.config());
    config.max_reconnect_attempts = 100_000;
    config.connect_timeout_ms = millis(2000);
    (server, proxy, config)
}

fn epoch(client: &Client) -> Option<u64> {
    match client.state() {
        ConnectionState::Connected { epoch } => Some(epoch),
        _ => None,
    }
}

/// Waits for a connection later than that of `epoch`.
async fn connected_after(client: &Client, epoch: u64) -> u64 {
    let later = |state: &ConnectionState| matches!(state, ConnectionState::Connected { epoch: now } if *now > epoch);
    let mut state = client.watch_state();
    within("the return", state.wait_for(later)).await.unwrap();
    self::epoch(client).unwrap_or(epoch + 1)
}

async fn next<M: serde::de::DeserializeOwned>(subscription: &mut Subscription<M>) -> M {
    within("a message", subscription.next()).await.unwrap().unwrap().payload
}

#[tokio::test]
async fn c3_requests_in_flight_fail_as_disconnected_when_the_connection_is_cut() {
    const REQUESTS: u32 = 64;
    let (server, proxy, config) = behind_proxy().await;
    let mut silent = server.client().await.subscribe::<_, u32>("lab.silent").await.unwrap();
    let client = Client::connect(&config).await.unwrap();
    let asked = (0..REQUESTS).map(|number| {
        let client = client.clone();
        let options = RequestOptions::default().timeout(LIMIT * 10);
        tokio::spawn(async move { client.request_with::<_, _, u32>("lab.silent", &number, options).await })
    });
    let asked: Vec<_> = asked.collect();
    for _ in 0..REQUESTS {
        next(&mut silent).await;
    }
    let cut = Instant::now();
    proxy.cut();
    for answer in within("the end of the requests", join_all(asked)).await {
        assert_eq!(answer.unwrap().unwrap_err().code(), ErrorCode::NatsDisconnected);
    }
    assert!(cut.elapsed() < AT_ONCE, "{:?}", cut.elapsed());
}

#[tokio::test]
async fn c8_a_half_open_connection_is_found_within_three_ping_intervals_and_replaced() {
    let (_server, proxy, mut config) = behind_proxy().await;
    config.ping_interval_ms = millis(200);
    config.connect_timeout_ms = millis(500);
    let client = Client::connect(&config).await.unwrap();
    let first = epoch(&client).unwrap();
    let mut state = client.watch_state();
    let stalled = Instant::now();
    proxy.stall();
    within("the discovery", state.wait_for(|state| !state.is_connected())).await.unwrap();
    // Three intervals are 600 ms; the rest is for a busy machine.
    assert!(stalled.elapsed() < AT_ONCE, "{:?}", stalled.elapsed());
    let refused = Instant::now();
    assert_eq!(client.publish("lab.test", &1).await.unwrap_err().code(), ErrorCode::NatsDisconnected);
    assert!(refused.elapsed() < AT_ONCE);
    proxy.resume();
    connected_after(&client, first).await;
    client.flush(LIMIT).await.unwrap();
}

#[tokio::test]
async fn c5_flush_fails_when_the_connection_was_replaced_meanwhile() {
    let (_server, proxy, config) = behind_proxy().await;
    let client = Client::connect(&config).await.unwrap();
    for round in 0..20 {
        let before = epoch(&client).unwrap();
        client.flush(LIMIT).await.unwrap();
        proxy.stall();
        client.publish("lab.test", &round).await.unwrap();
        let mut flush = pin!(client.flush(LIMIT));
        assert!(flush.as_mut().now_or_never().is_none(), "nothing can come back through a stalled connection");
        proxy.cut();
        proxy.resume();
        // Looked at again only when the new connection stands, on which the flush would have succeeded.
        connected_after(&client, before).await;
        let error = within("the end of the flush", flush).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NatsDisconnected);
    }
}

#[tokio::test]
async fn c6_every_cut_brings_all_subscriptions_back_before_connected_is_said() {
    const ROUNDS: u32 = 20;
    let (server, proxy, config) = behind_proxy().await;
    let other = server.client().await;
    let client = Client::connect(&config).await.unwrap();
    let in_group = SubscribeOptions::default().queue_group("g");
    let mut plain = client.subscribe::<_, u32>("lab.test").await.unwrap();
    let mut wildcard = client.subscribe::<_, u32>("lab.*").await.unwrap();
    let mut grouped = client.subscribe_with::<_, u32>("lab.test", in_group).await.unwrap();
    let mut last = epoch(&client).unwrap();
    for round in 0..ROUNDS {
        proxy.cut();
        let now = connected_after(&client, last).await;
        assert!(now > last);
        last = now;
        // From another connection, so that only what the server knows by now can bring it here.
        other.publish("lab.test", &round).await.unwrap();
        for subscription in [&mut plain, &mut wildcard, &mut grouped] {
            assert_eq!(next(subscription).await, round);
        }
    }
    assert_eq!(proxy.accepted(), u64::from(ROUNDS) + 1, "one connection a cut");
}

#[tokio::test]
async fn c4_a_subscription_made_while_connections_are_cut_is_an_error_or_there() {
    const CONFIRMED: u32 = 200;
    let (server, proxy, config) = behind_proxy().await;
    let other = server.client().await;
    let client = Client::connect(&config).await.unwrap();
    let (mut confirmed, mut failed, mut round) = (0, 0, 0);
    while confirmed < CONFIRMED {
        round += 1;
        client.wait_connected(LIMIT).await.unwrap();
        let Some(before) = epoch(&client) else { continue };
        let subject = format!("lab.round.{round}");
        let mut subscribe = pin!(client.subscribe::<_, u32>(&subject));
        let early = subscribe.as_mut().now_or_never();
        if round % 4 == 0 {
            proxy.cut(); // while the server's confirmation is on its way
        }
        let made = match early {
            Some(made) => made,
            None => within("an answer", subscribe).await,
        };
        let mut subscription = match made {
            Ok(subscription) => subscription,
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::NatsDisconnected, "{error}");
                failed += 1;
                continue;
            }
        };
        other.publish(&subject, &round).await.unwrap();
        let mut state = client.watch_state();
        let replaced = state.wait_for(|state| *state != ConnectionState::Connected { epoch: before });
        tokio::select! {
            biased;
            message = within("the message", subscription.next()) => {
                assert_eq!(message.unwrap().unwrap().payload, round);
                confirmed += 1;
            }
            // A cut that came after the confirmation; what was published in between is missed, as promised.
            _ = replaced => {}
        }
    }
    assert!(failed > 0, "no cut ever hit a subscription on its way");
}

#[tokio::test]
async fn c11_shutdown_returns_within_its_deadline_with_the_server_stalled_or_refusing() {
    let deadline = Duration::from_millis(300);
    for stalled in [true, false] {
        let (_server, proxy, config) = behind_proxy().await;
        let client = Client::connect(&config).await.unwrap();
        let _subscription = client.subscribe::<_, u32>("lab.test").await.unwrap();
        if stalled {
            proxy.stall();
        } else {
            proxy.refuse(true);
            proxy.cut();
            let mut state = client.watch_state();
            within("an attempt", state.wait_for(|state| matches!(state, ConnectionState::Reconnecting { .. })))
                .await
                .unwrap();
        }
        let began = Instant::now();
        let ended = within("the shutdown", client.shutdown(deadline)).await;
        assert!(began.elapsed() < deadline + AT_ONCE, "{:?}", began.elapsed());
        // What was under way may not have arrived, and that is said; without a connection nothing was under way.
        assert_eq!(ended.err().map(|error| error.code()), stalled.then_some(ErrorCode::NatsTimeout));
        assert_eq!(client.state(), ConnectionState::Closed { reason: CloseReason::ShutDown });
        assert_eq!(client.publish("lab.test", &1).await.unwrap_err().code(), ErrorCode::NatsClosed);
    }
}

#[tokio::test]
async fn c11_subscriptions_end_with_a_client_that_is_closed_without_a_connection() {
    let numbers: Vec<u32> = (0..5000).collect();
    for attempts in [1000, 1_000_000] {
        let (_server, proxy, mut config) = behind_proxy().await;
        config.max_reconnect_attempts = attempts;
        let client = Client::connect(&config).await.unwrap();
        let mut early = client.subscribe::<_, u32>("lab.test").await.unwrap();
        let called = client.on_message("lab.test", |_: mlx_nats::Result<Received<u32>>| async {}).await.unwrap();
        client.publish_all("lab.test", &numbers).await.unwrap();
        client.flush(LIMIT).await.unwrap();
        let mut state = client.watch_state();
        proxy.refuse(true);
        proxy.cut();
        within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
        client.shutdown(AT_ONCE).await.unwrap();
        for number in &numbers {
            assert_eq!(next(&mut early).await, *number);
        }
        assert!(within("the end", early.next()).await.is_none());
        within("the end of the callback", called).await.unwrap();
    }
}

#[tokio::test]
async fn c2_a_connection_that_drops_again_while_the_buffer_empties_hangs_nobody() {
    const MESSAGES: usize = 8192; // far more than the sockets and the transport's queue hold
    let text = "x".repeat(4096);
    for comes_back in [true, false] {
        let (server, proxy, mut config) = behind_proxy().await;
        config.publish_while_disconnected = PublishWhileDisconnected::Buffer;
        config.publish_buffer_bytes = 1 << 30;
        let mut heard = server.client().await.subscribe::<_, (usize, String)>("lab.test").await.unwrap();
        let client = Client::connect(&config).await.unwrap();
        let mut state = client.watch_state();
        proxy.refuse(true);
        proxy.cut();
        within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
        for number in 0..MESSAGES {
            client.publish("lab.test", &(number, &text)).await.unwrap();
        }
        proxy.throttle(Some(200_000));
        proxy.refuse(false);
        eventually("the first to go", || client.buffered() < MESSAGES).await;
        assert!(client.buffered() > 2048 && !client.state().is_connected(), "{}", client.buffered());
        proxy.throttle(None);
        proxy.refuse(!comes_back);
        proxy.cut();
        if !comes_back {
            within("the shutdown", client.shutdown(AT_ONCE)).await.unwrap();
            assert_eq!(client.state(), ConnectionState::Closed { reason: CloseReason::ShutDown });
            assert_eq!(client.buffered(), 0);
            continue;
        }
        within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
        assert_eq!((epoch(&client), client.buffered()), (Some(proxy.accepted()), 0));
        // What the dropped connection held is lost; the rest comes once and in order, up to the last.
        let mut first_missed = None;
        let mut expected = 0;
        while expected < MESSAGES {
            let (number, _) = next(&mut heard).await;
            if number != expected {
                assert!(number > expected && first_missed.is_none(), "{number} instead of {expected}");
                first_missed = Some(expected);
            }
            expected = number + 1;
        }
    }
}

#[tokio::test]
async fn c6_a_garbled_connection_is_replaced() {
    let (server, proxy, config) = behind_proxy().await;
    let other = server.client().await;
    let client = Client::connect(&config).await.unwrap();
    let mut subscription = client.subscribe::<_, u32>("lab.test").await.unwrap();
    let before = epoch(&client).unwrap();
    proxy.drop_byte();
    other.publish("lab.test", &1).await.unwrap();
    connected_after(&client, before).await;
    other.publish("lab.test", &2).await.unwrap();
    assert_eq!(next(&mut subscription).await, 2);
}

#[tokio::test]
async fn a_slow_network_delays_everything_and_loses_nothing() {
    const MESSAGES: u32 = 200;
    let (server, proxy, config) = behind_proxy().await;
    let other = server.client().await;
    let client = Client::connect(&config).await.unwrap();
    let mut subscription = client.subscribe::<_, u32>("lab.test").await.unwrap();
    let before = epoch(&client);
    proxy.delay(Duration::from_millis(5));
    proxy.throttle(Some(50_000));
    for number in 0..MESSAGES {
        other.publish("lab.test", &number).await.unwrap();
    }
    for number in 0..MESSAGES {
        assert_eq!(next(&mut subscription).await, number);
    }
    client.flush(LIMIT).await.unwrap();
    assert_eq!(epoch(&client), before);
    eventually("one connection", || proxy.accepted() == 1).await;
}
