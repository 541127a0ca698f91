//! One handle, whether the server is ours or somebody else's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/certificate.rs"]
mod certificate;
#[path = "support/events.rs"]
mod events;
mod support;

use std::time::{Duration, Instant};

use events::Events;
use futures_util::StreamExt;
use mlx_embedded::{EmbeddedServer, Node};
use mlx_errors::ErrorCode;
use mlx_nats::ClientOptions;
use mlx_types::Secret;
use support::{any_port, is_running, until};

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn in_embedded_mode_it_brings_a_server_of_its_own_and_takes_it_along() {
    let mut config = any_port();
    config.user = Some("worker".to_owned());
    config.password = Some(Secret::from("secret"));
    let options = ClientOptions::default().name("a node");
    let node = mlx_embedded::connect_with(&config, options).await.unwrap();
    hears_itself(&node).await;
    let server = node.server().expect("its own");
    let pid = server.pid().unwrap();
    assert!(server.connz().await.unwrap().connections.iter().any(|connection| connection.name == "a node"));
    let client = node.client().clone();
    let begun = Instant::now();
    node.shutdown(DEADLINE).await.unwrap();
    assert!(begun.elapsed() < DEADLINE && !is_running(pid));
    assert_eq!(client.publish("lab.test", &1).await.unwrap_err().code(), ErrorCode::NatsClosed);

    let node = mlx_embedded::connect(&config).await.unwrap();
    let pid = node.server().unwrap().pid().unwrap();
    drop(node);
    assert!(!is_running(pid));
}

#[tokio::test]
async fn in_external_mode_the_server_is_nobodys_and_stays() {
    let elsewhere = EmbeddedServer::start(&any_port()).await.unwrap();
    let node = mlx_embedded::connect(&elsewhere.client_config()).await.unwrap();
    assert!(node.server().is_none());
    hears_itself(&node).await;
    node.shutdown(DEADLINE).await.unwrap();
    assert!(is_running(elsewhere.pid().unwrap()));

    // A client outlives a node that is only dropped.
    let node = mlx_embedded::connect(&elsewhere.client_config()).await.unwrap();
    let client = node.client().clone();
    drop(node);
    client.flush(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_may_have_all_the_time_there_is() {
    let node = mlx_embedded::connect(&any_port()).await.unwrap();
    let pid = node.server().unwrap().pid().unwrap();
    tokio::time::timeout(DEADLINE, node.shutdown(Duration::MAX)).await.unwrap().unwrap();
    assert!(!is_running(pid));
}

#[tokio::test]
async fn a_client_that_cannot_connect_leaves_no_server_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = certificate::with_certificate(folder.path());
    config.tls.ca_file = Some(folder.path().join("missing.pem"));
    let (events, _guard) = Events::record();
    let error = mlx_embedded::connect(&config).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsConnection, "{error}");
    let ready =
        events.all().into_iter().find(|event| event.message.contains("is ready")).expect("a server was started");
    let pid = ready.fields.split("pid=").nth(1).and_then(|pid| pid.split(' ').next()?.parse().ok()).expect("its pid");
    until(Duration::from_secs(2), "the server is gone", || !is_running(pid));
}

async fn hears_itself(node: &Node) {
    let mut heard = node.client().subscribe::<_, u32>("lab.test").await.unwrap();
    node.client().publish("lab.test", &7).await.unwrap();
    let message = tokio::time::timeout(DEADLINE, heard.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(message.payload, 7);
}
