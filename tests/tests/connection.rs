//! The connection's state, told truly, through real crashes and freezes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{ConnectStep, ErrorCode, ErrorKind};
use mlx_nats::{Client, ClientOptions, CloseReason, ConnectionState};
use mlx_tests::{LIMIT, TestServer, millis, within};
use mlx_types::config::{NatsConfig, NatsMode, PublishWhileDisconnected};
use mlx_types::messages::InferenceRequest;
use mlx_types::{ClusterConfig, WorkerId, subjects};

fn signal(name: &str, server: &TestServer) {
    let pid = server.embedded().pid().expect("the server runs").to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

#[tokio::test]
async fn c6_after_a_crash_the_client_comes_back_with_its_subscriptions_and_a_new_epoch() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let ConnectionState::Connected { epoch: first } = client.state() else { panic!("{}", client.state()) };
    let mut subscription = client.subscribe::<_, u32>("lab.test").await.unwrap();
    let mut state = client.watch_state();
    signal("-KILL", &server);
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
    let ConnectionState::Connected { epoch: second } = client.state() else { panic!("{}", client.state()) };
    assert!(second > first);
    // `connected` was said, so the subscription is there: no waiting, no asking twice.
    client.publish("lab.test", &7).await.unwrap();
    assert_eq!(within("the message", subscription.next()).await.unwrap().unwrap().payload, 7);
}

#[tokio::test]
async fn c7_giving_up_ends_in_closed_with_its_reason() {
    let server = TestServer::start().await;
    let mut config = server.config();
    config.max_reconnect_attempts = 3;
    config.reconnect_time_wait = millis(10);
    let client = Client::connect(&config).await.unwrap();
    let mut state = client.watch_state();
    server.stop().await;
    let closed = within("the end", state.wait_for(ConnectionState::is_closed)).await.unwrap().clone();
    let ConnectionState::Closed { reason: CloseReason::GaveUp { attempts } } = closed else { panic!("{closed}") };
    assert!((3..=4).contains(&attempts), "{attempts}");
    assert_eq!(client.publish("lab.test", &1).await.unwrap_err().code(), ErrorCode::NatsClosed);
}

#[tokio::test]
async fn c8_a_frozen_server_is_found_within_three_ping_intervals() {
    let server = TestServer::start().await;
    let mut config = server.config();
    config.ping_interval_ms = millis(200);
    let client = Client::connect(&config).await.unwrap();
    let mut state = client.watch_state();
    let frozen = Instant::now();
    signal("-STOP", &server);
    within("the discovery", state.wait_for(|state| !state.is_connected())).await.unwrap();
    let found = frozen.elapsed();
    signal("-CONT", &server);
    // Three intervals are 600 ms; the rest is for a busy machine.
    assert!(found < Duration::from_secs(3), "{found:?}");
}

#[tokio::test]
async fn a_refused_connection_says_which_server_and_which_step() {
    let config = NatsConfig::default()
        .mode(NatsMode::External)
        .server_url("nats://someone:canary-s3cret@127.0.0.1:1".parse().unwrap());
    let error = Client::connect(&config).await.unwrap_err();
    let ErrorKind::Connection { server, step, .. } = error.kind() else { panic!("{error}") };
    assert_eq!((server.as_str(), *step), ("nats://127.0.0.1:1", ConnectStep::Connect));
    let told = format!("{error} {error:?} {:?}", std::error::Error::source(&error).map(ToString::to_string));
    assert!(!told.contains("canary"), "{told}");
}

#[tokio::test]
async fn wrong_credentials_are_an_authentication_error_and_the_right_ones_work() {
    let server = TestServer::start_with(|config| {
        config.user = Some("ann".to_owned());
        config.password = Some("right-canary".to_owned().into());
    })
    .await;
    let client = server.client().await;
    client.flush(Duration::from_secs(5)).await.unwrap();
    let mut wrong = server.config();
    wrong.user = Some("ann".to_owned());
    wrong.password = Some("wrong-canary".to_owned().into());
    let error = Client::connect(&wrong).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsAuthentication);
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

#[tokio::test]
async fn c2_what_is_published_while_disconnected_can_be_kept_and_arrives_in_order() {
    let server = TestServer::start().await;
    let mut config = server.config();
    config.publish_while_disconnected = PublishWhileDisconnected::Buffer;
    config.publish_buffer_bytes = 200;
    let client = Client::connect(&config).await.unwrap();
    let mut subscription = client.subscribe::<_, u32>("lab.test").await.unwrap();
    let mut state = client.watch_state();
    signal("-KILL", &server);
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    let mut kept = 0;
    let full = loop {
        match client.publish("lab.test", &kept).await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.code(), ErrorCode::NatsDisconnected);
    assert!(kept > 10 && client.buffered() == usize::try_from(kept).unwrap(), "{kept}");
    within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
    assert_eq!(client.buffered(), 0);
    client.publish("lab.test", &kept).await.unwrap();
    for number in 0..=kept {
        assert_eq!(within("a message", subscription.next()).await.unwrap().unwrap().payload, number);
    }
}

#[tokio::test]
async fn a_client_can_wait_for_a_server_that_is_not_there_yet() {
    // A port that is free now, for a server that comes later.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config =
        NatsConfig::default().mode(NatsMode::External).server_url(format!("nats://127.0.0.1:{port}").parse().unwrap());
    let early = Client::connect_when_ready(&config, ClientOptions::default(), Duration::from_millis(1)).await;
    assert_eq!(early.unwrap_err().code(), ErrorCode::NatsConnection);
    let boundless = ClientOptions::default().subscription_capacity(usize::MAX);
    let waiting = tokio::spawn(async move { Client::connect_when_ready(&config, boundless, Duration::MAX).await });
    let _server = TestServer::start_with(|config| config.embedded.port = port).await;
    let client = within("the connection", waiting).await.unwrap().unwrap();
    assert!(client.state().is_connected());
}

#[tokio::test]
async fn s3_the_short_way_to_connect_puts_the_whole_configuration_in_force() {
    let server = TestServer::start().await;
    let foreign = server.foreign_client().await;
    let id = WorkerId::new();
    let _silent = foreign.subscribe(subjects::worker_inference(id).to_string()).await.unwrap();
    mlx_tests::arrived(&foreign).await;
    let mut config = ClusterConfig::default();
    config.nats = server.config();
    config.streaming.first_token_timeout_ms = millis(1_000);
    let client = Client::connect(&config).await.unwrap();
    let mut tokens = client.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
    let error = within("the end", tokens.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::StreamFirstTokenTimeout, "{error}");
}

#[tokio::test]
async fn a_client_needs_no_more_than_a_url() {
    let server = TestServer::start().await;
    let url = server.config().server_url.unwrap().to_string();
    let client = Client::builder().url("nats://127.0.0.1:1").url(&url).name("lab").connect().await.unwrap();
    client.flush(LIMIT).await.unwrap();
    let error = Client::builder().url("http://127.0.0.1").url("nats://:x").connect().await.unwrap_err();
    let ErrorKind::ConfigValidation { violations } = error.kind() else { panic!("{error:?}") };
    assert_eq!(violations.len(), 2, "{error}");
    assert_eq!(Client::builder().connect().await.unwrap_err().code(), ErrorCode::NatsConnection);
}
