//! What a log is told of a connection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;

use futures_util::StreamExt;
use mlx_errors::ErrorKind;
use mlx_nats::{
    Client, ClientOptions, CloseReason, ConnectionEvent, ConnectionEvents, ConnectionState, DisconnectReason,
};
use mlx_tests::{FaultProxy, LIMIT, TestServer, millis, within};

async fn next(events: &mut ConnectionEvents) -> ConnectionEvent {
    within("an event", events.next()).await.expect("more events")
}

#[tokio::test]
async fn c6_each_step_from_a_drop_to_the_next_connection_is_told() {
    let server = TestServer::start().await;
    let proxy = FaultProxy::start(&server).await;
    let mut config = proxy.in_front(server.config());
    config.max_reconnect_attempts = 1000;
    let url = config.server_url.clone().unwrap().to_string();
    let client = Client::connect(&config).await.unwrap();
    let mut events = client.events();
    let first = ConnectionEvent::Connected { server: url.clone(), epoch: 1, attempt: 0 };
    assert_eq!(next(&mut events).await, first);

    proxy.refuse(true);
    proxy.cut();
    assert_eq!(next(&mut events).await, ConnectionEvent::Disconnected { reason: DisconnectReason::Lost });
    for expected in 1..=3 {
        let ConnectionEvent::AttemptFailed { server, attempt, error, retry_in } = next(&mut events).await else {
            panic!("not a failed attempt")
        };
        assert_eq!((server, attempt), (url.clone(), expected));
        assert!(!error.is_empty());
        // ±50 % around 20 ms, doubled for each attempt made.
        let step = millis(20).as_duration() * (1 << expected);
        assert!((step / 2..=step * 3 / 2).contains(&retry_in.unwrap()), "{retry_in:?} instead of {step:?}");
    }
    proxy.refuse(false);
    let attempts = loop {
        match next(&mut events).await {
            ConnectionEvent::AttemptFailed { attempt, .. } => assert!(attempt > 3),
            ConnectionEvent::Connected { server, epoch: 2, attempt } => {
                assert_eq!(server, url);
                break attempt;
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(attempts > 3, "{attempts}");

    client.shutdown(LIMIT).await.unwrap();
    assert_eq!(next(&mut events).await, ConnectionEvent::Closed { reason: CloseReason::ShutDown });
    assert_eq!(within("the end", events.next()).await, None);
    // One who comes late learns that, and no more.
    let late: Vec<_> = within("the end", client.events().collect()).await;
    assert_eq!(late, [ConnectionEvent::Closed { reason: CloseReason::ShutDown }]);
}

#[tokio::test]
async fn a_server_that_says_goodbye_is_the_reason_of_the_drop() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut events = client.events();
    let ConnectionEvent::Connected { server: url, .. } = next(&mut events).await else { panic!("not connected") };
    let pid = server.embedded().pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-USR2", &pid]).status().unwrap().success());
    assert_eq!(next(&mut events).await, ConnectionEvent::LameDuckMode { server: url });
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    let dropped = loop {
        match next(&mut events).await {
            ConnectionEvent::LameDuckMode { .. } => {} // it may say so more than once
            other => break other,
        }
    };
    assert_eq!(dropped, ConnectionEvent::Disconnected { reason: DisconnectReason::LameDuckMode });
}

#[tokio::test]
async fn c6_the_last_handle_that_is_dropped_closes_and_says_so() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let (state, mut events) = (client.watch_state(), client.events());
    let subscription = client.subscribe::<_, u32>("lab.test").await.unwrap();
    assert!(matches!(next(&mut events).await, ConnectionEvent::Connected { .. }));
    drop(client);
    assert!(state.borrow().is_connected(), "the subscription is a handle too");
    drop(subscription);
    let told: Vec<_> = within("the end", events.collect()).await;
    assert_eq!(told, [ConnectionEvent::Closed { reason: CloseReason::ShutDown }]);
    assert_eq!(*state.borrow(), ConnectionState::Closed { reason: CloseReason::ShutDown });
}

#[tokio::test]
async fn c7_giving_up_is_told_with_the_attempts_made() {
    let server = TestServer::start().await;
    let mut config = server.config();
    config.max_reconnect_attempts = 3;
    config.reconnect_time_wait = millis(5);
    let client = Client::connect(&config).await.unwrap();
    let events = client.events();
    server.stop().await;
    let told: Vec<_> = within("the end", events.collect()).await;
    let failed: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            ConnectionEvent::AttemptFailed { attempt, retry_in, .. } => Some((*attempt, retry_in.is_some())),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [(1, true), (2, true), (3, false)]);
    let reason = CloseReason::GaveUp { attempts: 3 };
    assert_eq!(told.last(), Some(&ConnectionEvent::Closed { reason: reason.clone() }));
    assert_eq!(client.state(), ConnectionState::Closed { reason });
}

#[tokio::test]
async fn c12_a_reader_that_is_too_slow_is_told_of_and_its_losses_are_exact() {
    const MESSAGES: u64 = 5000;
    let server = TestServer::start().await;
    let other = server.client().await;
    // A capacity of the whole client, which must not become one of the transport, whose drops nobody counts.
    let client = server.client_with(ClientOptions::default().subscription_capacity(8)).await;
    let mut events = client.events();
    let mut subscription = client.subscribe::<_, u64>("lab.flood").await.unwrap();
    for number in 0..MESSAGES {
        other.publish("lab.flood", &number).await.unwrap();
    }
    other.flush(LIMIT).await.unwrap();
    client.flush(LIMIT).await.unwrap();
    subscription.drain().await.unwrap();
    let (mut received, mut dropped) = (0, 0);
    while let Some(item) = within("an item", subscription.next()).await {
        match item.map_err(|error| error.kind().clone()) {
            Ok(_) => received += 1,
            Err(ErrorKind::SlowConsumer { dropped: now, .. }) => dropped = now,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(dropped > 0, "5000 messages fit into 8 places");
    assert_eq!(received + dropped, MESSAGES);
    loop {
        match next(&mut events).await {
            ConnectionEvent::Connected { .. } => {}
            ConnectionEvent::SlowConsumer { subject, dropped: told } => {
                assert_eq!(subject, "lab.flood");
                assert!((1..=dropped).contains(&told));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn x1_no_event_shows_a_credential() {
    let server = TestServer::start_with(|config| {
        config.user = Some("ann".to_owned());
        config.password = Some("canary-s3cret".to_owned().into());
    })
    .await;
    let mut config = server.config();
    let port = server.embedded().client_addr().port();
    config.user = None;
    config.password = None;
    config.server_url = Some(format!("nats://ann:canary-s3cret@127.0.0.1:{port}").parse().unwrap());
    config.max_reconnect_attempts = 2;
    let client = Client::connect(&config).await.unwrap();
    let events = client.events();
    server.stop().await;
    let told: Vec<_> = within("the end", events.collect()).await;
    assert!(told.len() >= 4, "{told:?}");
    assert!(!format!("{told:?}").contains("canary"), "{told:?}");
}
