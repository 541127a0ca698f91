//! What comes out of nats-server's log, and what never does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/events.rs"]
mod events;
mod support;

use std::time::Duration;

use events::Events;
use mlx_embedded::{EmbeddedServer, ServerState};
use mlx_types::Secret;
use mlx_types::config::{EmbeddedLogLevel, NatsConfig};
use support::{any_port, sigkill, until_state, with_jetstream};
use tracing::Level;

const CANARY: &str = "canary-7Qx9-do-not-print";

#[tokio::test]
async fn m7_lines_are_events_at_their_level_with_their_fields() {
    let (events, _guard) = Events::record();
    let server = EmbeddedServer::start(&with_password(any_port())).await.unwrap();
    let pid = server.pid().unwrap();
    assert!(connect(&server, "wrong").await.is_err());
    until("the refusal is logged", || events.of_the_server().iter().any(|event| event.level == Level::ERROR)).await;

    let seen = events.of_the_server();
    let ready = seen.iter().find(|event| event.message == "Server is ready").expect("it says that it is ready");
    assert_eq!((ready.level, ready.fields.trim()), (Level::INFO, format!("pid={pid}").as_str()));
    let refusal = seen.iter().find(|event| event.level == Level::ERROR).unwrap();
    assert!(refusal.message.contains("authentication error"), "{refusal:?}");
    assert!(refusal.fields.contains("connection=cid:") && refusal.fields.contains("peer=127.0.0.1:"), "{refusal:?}");
    assert!(seen.iter().all(|event| event.level <= Level::INFO), "nothing finer at the default level");
    assert!(server.last_lines().iter().any(|line| line.ends_with("Server is ready")));
}

#[tokio::test]
async fn m7_the_level_is_the_one_set() {
    for (level, least) in [(EmbeddedLogLevel::Debug, Level::DEBUG), (EmbeddedLogLevel::Error, Level::ERROR)] {
        let (events, _guard) = Events::record();
        let mut config = with_password(any_port());
        config.embedded.log_level = level;
        let server = EmbeddedServer::start(&config).await.unwrap();
        assert!(connect(&server, "wrong").await.is_err());
        let reached = || events.of_the_server().iter().map(|event| event.level).max() == Some(least);
        until("the finest level is reached", reached).await;
    }
}

#[tokio::test]
async fn m7_prompts_are_in_no_line_not_even_at_debug() {
    for level in [EmbeddedLogLevel::Info, EmbeddedLogLevel::Debug] {
        let (events, _guard) = Events::record();
        let mut config = any_port();
        config.embedded.log_level = level;
        let server = EmbeddedServer::start(&config).await.unwrap();
        let client = async_nats::connect(server.client_addr().to_string()).await.unwrap();
        let mut prompts = client.subscribe("worker.*.inference").await.unwrap();
        client.publish("worker.1.inference", CANARY.into()).await.unwrap();
        let received = futures_util::StreamExt::next(&mut prompts).await.unwrap();
        assert_eq!(received.payload, CANARY.as_bytes());
        server.stop(Duration::from_secs(5)).await.unwrap();
        assert!(events.of_the_server().len() > 5);
        // Those of the test's own client are its own affair.
        let ours = events.all().into_iter().filter(|event| !event.target.starts_with("async_nats"));
        ours.for_each(|event| assert!(!format!("{event:?}").contains(CANARY), "{event:?}"));
    }
}

#[tokio::test]
async fn x1_a_password_is_in_no_event_error_debug_output_or_command_line() {
    let (events, _guard) = Events::record();
    let folder = tempfile::tempdir().unwrap();
    let mut config = with_password(with_jetstream(folder.path()));
    config.embedded.log_level = EmbeddedLogLevel::Debug;
    let mut shown = Vec::new();

    let mut server = EmbeddedServer::start(&config).await.unwrap();
    connect(&server, CANARY).await.unwrap().flush().await.unwrap();
    let wrong = format!("{CANARY}-but-wrong");
    assert!(connect(&server, &wrong).await.is_err());
    shown.push(format!("{server:?} {:?} {}", server.client_config(), server.client_url()));
    let processes = std::process::Command::new("ps").args(["-A", "-ww", "-o", "args="]).output().unwrap();
    shown.push(String::from_utf8_lossy(&processes.stdout).into_owned());

    // A second one on the same folder, and one whose port is taken.
    shown.push(format!("{:?}", EmbeddedServer::start(&config).await.unwrap_err()));
    let mut taken = with_password(any_port());
    taken.embedded.port = server.client_addr().port();
    shown.push(format!("{:?}", EmbeddedServer::start(&taken).await.unwrap_err()));

    sigkill(server.pid().unwrap());
    until_state(&server, |state| matches!(state, ServerState::Restarting { .. })).await;
    shown.push(format!("{:?}", until_state(&server, |state| matches!(state, ServerState::Ready)).await));
    config.token = Some(Secret::from(CANARY));
    shown.push(format!("{:?}", server.reload(&config).await.unwrap_err()));
    config.user = None;
    config.password = None;
    server.reload(&config).await.unwrap();
    shown.extend(server.last_lines());
    server.stop(Duration::from_secs(5)).await.unwrap();

    shown.extend(events.all().iter().map(|event| format!("{event:?}")));
    assert!(events.all().iter().any(|event| event.level == Level::DEBUG));
    for text in shown {
        assert!(!text.contains(CANARY), "{text}");
    }
}

fn with_password(mut config: NatsConfig) -> NatsConfig {
    config.user = Some("worker".to_owned());
    config.password = Some(Secret::from(CANARY));
    config
}

async fn connect(server: &EmbeddedServer, password: &str) -> Result<async_nats::Client, async_nats::ConnectError> {
    async_nats::ConnectOptions::with_user_and_password("worker".to_owned(), password.to_owned())
        .connect(server.client_addr().to_string())
        .await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at the captured lines
        }
    };
    tokio::time::timeout(Duration::from_secs(10), met).await.expect(what);
}
