//! A server that ends by itself: started again on its port, within its budget, with its data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use mlx_embedded::{EmbeddedServer, ServerState};
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_types::Millis;
use rustix::process::Signal;
use serde_json::json;
use support::{any_port, ask, sigkill, signal, until_state, with_jetstream};

#[tokio::test]
async fn m6_ten_kills_under_traffic_are_survived_and_the_eleventh_is_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = with_jetstream(folder.path());
    config.embedded.restart.max_restarts = 10;
    let server = EmbeddedServer::start(&config).await.unwrap();
    let (address, monitoring) = (server.client_addr(), server.monitoring_addr());
    let client = client(&server).await;
    let created = ask(&client, "$JS.API.STREAM.CREATE.KEPT", &json!({ "name": "KEPT", "subjects": ["kept.>"] })).await;
    assert!(created.get("error").is_none(), "{created}");
    let traffic = Traffic::start(&client).await;

    for kill in 1..=10 {
        let stored = ask(&client, &format!("kept.{kill}"), &json!({ "kill": kill })).await;
        assert_eq!(stored["seq"], kill, "{stored}");
        let pid = server.pid().unwrap();
        sigkill(pid);
        let state = until_state(&server, |state| !matches!(state, ServerState::Ready)).await;
        assert!(
            matches!(&state, ServerState::Restarting { attempt, reason } if *attempt == kill && reason.contains("SIGKILL")),
            "{state:?}"
        );
        until_state(&server, |state| matches!(state, ServerState::Ready)).await;
        assert_ne!(server.pid().unwrap(), pid);
        // The client comes back by itself, to the same port, and its subscription with it.
        traffic.flows_again().await;
        let info = ask(&client, "$JS.API.STREAM.INFO.KEPT", &json!({})).await;
        assert_eq!(info["state"]["messages"], kill, "what was acknowledged is still there: {info}");
    }
    assert_eq!((server.client_addr(), server.monitoring_addr()), (address, monitoring));

    sigkill(server.pid().unwrap());
    let ServerState::Failed(error) = until_state(&server, |state| matches!(state, ServerState::Failed(_))).await else {
        unreachable!("that is what was waited for")
    };
    assert_eq!(error.code(), ErrorCode::EmbeddedServerFailed);
    let ErrorKind::ServerFailed { restarts, reason, .. } = error.kind() else { panic!("{error:?}") };
    assert_eq!(*restarts, 10);
    assert!(reason.contains("SIGKILL"), "{reason}");
    assert_eq!(server.pid(), None);
    // Ending what has ended is no error.
    server.stop(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn m6_a_restart_that_fails_counts_and_its_reason_is_told() {
    let machine = Turncoat::new("echo '[1] [FTL] the disk is on fire' >&2; exit 1");
    let mut config = any_port();
    config.embedded.binary = Some(machine.program.clone());
    config.embedded.restart.max_restarts = 2;
    let server = EmbeddedServer::start(&config).await.unwrap();
    machine.turn();
    sigkill(server.pid().unwrap());
    let ServerState::Failed(error) = until_state(&server, |state| matches!(state, ServerState::Failed(_))).await else {
        unreachable!("that is what was waited for")
    };
    let ErrorKind::ServerFailed { restarts: 2, reason, last_lines } = error.kind() else { panic!("{error:?}") };
    assert_eq!(reason, "it ended with exit status 1: the disk is on fire");
    assert_eq!(last_lines.last().unwrap(), "[1] [FTL] the disk is on fire");
}

#[tokio::test]
async fn m6_a_stop_while_it_restarts_is_the_end() {
    let machine = Turncoat::new("exec sleep 600");
    let mut config = any_port();
    config.embedded.binary = Some(machine.program.clone());
    config.embedded.start_timeout_ms = mlx_types::Millis::new(60_000).unwrap();
    let server = EmbeddedServer::start(&config).await.unwrap();
    machine.turn();
    let first = server.pid().unwrap();
    sigkill(first);
    until_state(&server, |state| matches!(state, ServerState::Restarting { attempt: 1, .. })).await;
    support::until(Duration::from_secs(5), "the restart is under way", || server.pid().is_some_and(|pid| pid != first));
    let (second, mut state) = (server.pid().unwrap(), server.watch_state());
    server.stop(Duration::from_secs(5)).await.unwrap();
    assert!(matches!(*state.borrow_and_update(), ServerState::Stopped));
    assert!(!support::is_running(second));
}

/// A nats-server that turns into something else.
struct Turncoat {
    folder: tempfile::TempDir,
    program: std::path::PathBuf,
}

impl Turncoat {
    fn new(other: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let real = mlx_embedded::Binary::find(None).unwrap().path;
        let script =
            format!("if [ -e {0}/turned ]; then {other}; fi\nexec {1} \"$@\"", folder.path().display(), real.display());
        let program = support::program(folder.path(), &script);
        Self { folder, program }
    }

    /// From the next start on.
    fn turn(&self) {
        std::fs::write(self.folder.path().join("turned"), "").unwrap();
    }
}

async fn client(server: &EmbeddedServer) -> async_nats::Client {
    async_nats::ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(20))
        .connect(server.client_addr().to_string())
        .await
        .unwrap()
}

/// Messages to oneself, all the time.
struct Traffic {
    received: Arc<AtomicU64>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Traffic {
    async fn start(client: &async_nats::Client) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let mut messages = client.subscribe("traffic").await.unwrap();
        let count = Arc::clone(&received);
        let listener = tokio::spawn(async move {
            while messages.next().await.is_some() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let client = client.clone();
        let sender = tokio::spawn(async move {
            loop {
                // What is sent without a connection is lost, as with any core NATS.
                let _ = client.publish("traffic", "x".into()).await;
                tokio::time::sleep(Duration::from_millis(1)).await; // the traffic's own pace
            }
        });
        Self { received, tasks: [listener, sender] }
    }

    async fn flows_again(&self) {
        let before = self.received.load(Ordering::Relaxed);
        let flows = async {
            while self.received.load(Ordering::Relaxed) < before + 20 {
                tokio::time::sleep(Duration::from_millis(5)).await; // between two looks at the count
            }
        };
        tokio::time::timeout(Duration::from_secs(20), flows).await.expect("the traffic flows again");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn m6_a_server_that_does_not_answer_is_degraded_and_then_counts_as_crashed() {
    let mut config = any_port();
    config.embedded.restart.unresponsive_after_ms = Millis::new(4_000).unwrap();
    let server = EmbeddedServer::start(&config).await.unwrap();
    let frozen = server.pid().unwrap();
    signal(frozen, Signal::STOP);
    let degraded = until_state(&server, |state| !matches!(state, ServerState::Ready)).await;
    let ServerState::Degraded(reason) = degraded else { panic!("{degraded:?}") };
    assert!(reason.contains("has not answered for"), "{reason}");
    let lost = until_state(&server, |state| !matches!(state, ServerState::Degraded(_))).await;
    assert!(
        matches!(&lost, ServerState::Restarting { attempt: 1, reason } if reason.contains("did not answer for 4000 ms")),
        "{lost:?}"
    );
    until_state(&server, |state| matches!(state, ServerState::Ready)).await;
    assert_ne!(server.pid(), Some(frozen));
    server.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn m6_a_server_that_only_paused_is_well_again_by_itself() {
    let server = EmbeddedServer::start(&any_port()).await.unwrap();
    let paused = server.pid().unwrap();
    signal(paused, Signal::STOP);
    until_state(&server, |state| matches!(state, ServerState::Degraded(_))).await;
    signal(paused, Signal::CONT);
    until_state(&server, |state| matches!(state, ServerState::Ready)).await;
    assert_eq!(server.pid(), Some(paused));
    server.stop(Duration::from_secs(5)).await.unwrap();
}
