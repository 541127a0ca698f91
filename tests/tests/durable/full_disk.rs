//! The disk under JetStream fills up, and is emptied again.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use mlx_embedded::ServerState;
use mlx_errors::{Error, ErrorCode};
use mlx_nats::Client;
use mlx_tests::{TestServer, eventually, millis, own_namespaces, within};

use crate::support::{drain, echo, options, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_durable_requests_fail_on_a_full_disk_and_succeed_again_without_a_hand_in_own_namespaces() {
    if !own_namespaces(
        "full_disk::m6_durable_requests_fail_on_a_full_disk_and_succeed_again_without_a_hand_in_own_namespaces",
        &[],
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    mount(&disk, "size=64m");
    let server = TestServer::start_with(|config| {
        config.embedded.jetstream.enabled = true;
        config.embedded.jetstream.store_dir = disk.join("jetstream");
        config.max_reconnect_attempts = 1000;
        config.request_timeout_ms = millis(1_500);
    })
    .await;
    let small = || {
        let mut options = options();
        options.durable.as_mut().unwrap().max_bytes = 8 << 20;
        options
    };
    let (client, worker) = (server.client_with(small()).await, server.client_with(small()).await);
    let (_service, _) = echo(&worker).await;
    assert_eq!(asked(&client).await.unwrap(), prompt());

    let ballast = disk.join("ballast");
    fill(&ballast);
    let error = asked(&client).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsJetStream, "{error}");
    assert!(error.to_string().contains("no space left on device") && error.to_string().contains("disk"), "{error}");
    let mut state = server.embedded().watch_state();
    let degraded =
        within("the degraded state", state.wait_for(|state| matches!(state, ServerState::Degraded(_)))).await;
    let ServerState::Degraded(reason) = degraded.unwrap().clone() else { unreachable!() };
    assert_eq!(reason, "JetStream cannot write: no space left on device");

    std::fs::remove_file(&ballast).unwrap();
    within("the way back", state.wait_for(|state| matches!(state, ServerState::Ready))).await.unwrap();
    eventually("the connection", || client.state().is_connected() && worker.state().is_connected()).await;
    assert_eq!(asked(&client).await.unwrap(), prompt());
}

/// More than fits into what is left of a block.
fn prompt() -> String {
    "x".repeat(100_000)
}

async fn asked(client: &Client) -> Result<String, Error> {
    let answer = drain(client.infer_durable(&request(&prompt())).await?).await;
    answer.error.map_or_else(|| Ok(answer.tokens.concat()), Err)
}

/// Writes until nothing fits any more.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [64 * 1024, 512, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// A file system in memory at `folder`; it goes with the namespace.
fn mount(folder: &Path, options: &str) {
    std::fs::create_dir(folder).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).status();
    assert!(mounted.expect("mount, of util-linux").success());
}
