//! A client against a server in a container, across a published port: what works on the loopback of one machine works
//! across Docker's network too, and its faults are those of a machine that is not ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{ErrorCode, Result};
use mlx_nats::{Client, ConnectionState, Request};
use mlx_tests::{Authority, ContainerServer, LIMIT, TestServer, TestWorker, WorkerOptions, millis, within};
use mlx_types::config::NatsConfig;
use mlx_types::messages::InferenceRequest;
use mlx_types::{ClusterConfig, WorkerId};

#[tokio::test]
async fn messages_requests_and_token_streams_go_through_a_server_in_a_container() {
    let server = TestServer::in_container().start().await;
    let (one, other) = (server.client().await, server.client().await);

    let mut heard = one.subscribe::<_, u32>("lab.test").await.unwrap();
    other.publish("lab.test", &7).await.unwrap();
    assert_eq!(within("the message", heard.next()).await.unwrap().unwrap().payload, 7);

    let _service = doubles(&one).await;
    assert_eq!(other.request::<_, _, u64>("lab.double", &21).await.unwrap(), 42);
    let nobody = other.request::<_, _, u64>("lab.nobody", &1).await.unwrap_err();
    assert_eq!(nobody.code(), ErrorCode::NatsNoResponders);

    let options = WorkerOptions::new(WorkerId::new(), &ClusterConfig::default());
    let worker = TestWorker::start(&one, options).await.unwrap();
    let request = InferenceRequest::new("m", "p").max_tokens(20);
    let mut stream = other.infer(worker.id(), &request).await.unwrap();
    for index in 0..20 {
        assert_eq!(within("a token", stream.next()).await.unwrap().unwrap().index, index);
    }
    assert!(within("the end", stream.next()).await.is_none());
    worker.leave(LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_user_and_password_are_asked_for() {
    let server = TestServer::in_container().settings("authorization { user: ann, password: right }").start().await;
    let with = |password: &str| server.config("nats").user("ann").password(password);
    connects(&with("right")).await;
    is_refused(&with("wrong")).await;
    is_refused(&server.config("nats")).await;
}

#[tokio::test]
async fn a_token_is_asked_for() {
    let server = TestServer::in_container().settings("authorization { token: right }").start().await;
    let with = |token: &str| server.config("nats").token(token);
    connects(&with("right")).await;
    is_refused(&with("wrong")).await;
}

#[tokio::test]
async fn tls_and_mutual_tls_work() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ours");
    let (ours, theirs) = (authority.certify("localhost"), authority.certify("client"));
    let tls = "cert_file: /settings/ours-localhost.pem, key_file: /settings/ours-localhost-key.pem";
    let server = TestServer::in_container().file(&ours.file).file(&ours.key_file).file(&authority.file);
    let trusting = |server: &ContainerServer| {
        let mut config = server.config("tls");
        config.tls.ca_file = Some(authority.file.clone());
        config
    };

    let one_way = server.clone().settings(&format!("tls {{ {tls} }}")).start().await;
    connects(&trusting(&one_way)).await;
    let unknown = Client::connect(&one_way.config("tls")).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NatsConnection, "{unknown}");

    let verify = format!("tls {{ {tls}, ca_file: /settings/ours.pem, verify: true }}");
    let mutual = server.settings(&verify).start().await;
    let mut config = trusting(&mutual);
    assert!(Client::connect(&config).await.is_err(), "no certificate of the client");
    (config.tls.cert_file, config.tls.key_file) = (Some(theirs.file), Some(theirs.key_file));
    connects(&config).await;
}

#[tokio::test]
async fn c6_after_a_restart_on_the_same_port_the_client_has_its_subscriptions() {
    let server = TestServer::in_container().start().await;
    comes_back_over(&server, async || {
        server.stop().await;
        server.start().await;
    })
    .await;
}

#[tokio::test]
async fn c6_after_a_kill_the_client_has_its_subscriptions() {
    let server = TestServer::in_container().start().await;
    comes_back_over(&server, async || {
        server.kill().await;
        server.start().await;
    })
    .await;
}

#[tokio::test]
async fn c8_a_paused_container_is_found_within_three_ping_intervals() {
    let server = TestServer::in_container().start().await;
    let interval = Duration::from_secs(1);
    let client = Client::connect(&server.config("nats").ping_interval_ms(millis(1000))).await.unwrap();
    let mut state = client.watch_state();
    let paused = Instant::now();
    server.pause().await;
    within("the discovery", state.wait_for(|state| !state.is_connected())).await.unwrap();
    let found = paused.elapsed();
    // All of Docker is in the second one: a command, and a machine that does other things meanwhile.
    assert!(found < 3 * interval + Duration::from_secs(2), "{found:?}");
    let refused = client.publish("lab.test", &1).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NatsDisconnected);
    server.unpause().await;
    within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
    client.flush(LIMIT).await.unwrap();
}

/// A client's subscription outlives `fault`, and during it nothing is taken that would be lost.
async fn comes_back_over(server: &ContainerServer, fault: impl AsyncFnOnce()) {
    let client = server.client().await;
    let mut heard = client.subscribe::<_, u32>("lab.test").await.unwrap();
    let mut state = client.watch_state();
    let ConnectionState::Connected { epoch: first } = client.state() else { panic!("{}", client.state()) };
    fault().await;
    let later = |state: &ConnectionState| matches!(state, ConnectionState::Connected { epoch } if *epoch > first);
    within("the return", state.wait_for(later)).await.unwrap();
    client.publish("lab.test", &7).await.unwrap();
    assert_eq!(within("the message", heard.next()).await.unwrap().unwrap().payload, 7);
}

async fn doubles(client: &Client) -> mlx_nats::Service {
    let double = async |number: Request<u64>| -> Result<u64> { Ok(*number * 2) };
    client.serve("lab.double", double).await.unwrap()
}

async fn connects(config: &NatsConfig) {
    let client = Client::connect(config).await.unwrap_or_else(|error| panic!("{error}"));
    client.flush(LIMIT).await.unwrap();
}

async fn is_refused(config: &NatsConfig) {
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsAuthentication, "{error}");
}
