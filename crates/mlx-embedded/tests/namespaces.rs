//! Failures that need a machine of their own: a full file system, a port that only an administrator may bind. Each test
//! runs itself again in namespaces where it may arrange that, and nobody else sees it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;
#[path = "support/told.rs"]
mod told;

use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;
use mlx_embedded::{Binary, EmbeddedServer};
use mlx_types::config::NatsConfig;
use support::{any_port, with_jetstream};
use told::told;

/// Set in the environment of a test that runs in its own namespaces.
const INSIDE: &str = "MLX_TEST_IN_OWN_NAMESPACES";

#[tokio::test]
async fn m4_privileged_port_in_own_namespaces() {
    if !inside("m4_privileged_port_in_own_namespaces") {
        return;
    }
    // Where the system draws the line higher than at 1024, which is where our own check draws it.
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "3000").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = any_port();
    config.embedded.port = 2000;
    // Loopback is down in a new network namespace, so that only every address can be tried.
    config.embedded.host = "0.0.0.0".to_owned();
    config.embedded.allow_anonymous = true;
    let real = Binary::find(None).unwrap().path;
    let without = format!("exec setpriv --bounding-set -net_bind_service '{}' \"$@\"", real.display());
    config.embedded.binary = Some(support::program(folder.path(), &without));
    assert_snapshot!("port_not_permitted", failure(&config, &[]).await);
}

#[tokio::test]
async fn m4_full_jetstream_folder_in_own_namespaces() {
    if !inside("m4_full_jetstream_folder_in_own_namespaces") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shown = [(folder.path().display().to_string(), "FOLDER")];
    let [nothing, one_file] = ["nothing", "one-file"].map(|name| folder.path().join(name));

    // A file system counts its own root: this one takes nothing more.
    mount(&nothing, 1);
    assert_snapshot!("folder_full_at_the_lock", failure(&with_jetstream(&nothing), &shown).await);
    // And this one our lock, so that it is nats-server which meets the end of it.
    mount(&one_file, 2);
    assert_snapshot!("folder_full", failure(&with_jetstream(&one_file), &shown).await);
}

/// Whether this process is in namespaces of its own; if not, `test` has now passed in some.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let again = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare, of util-linux");
    let [said, complaints] = [again.stdout, again.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(again.status.success() && said.contains("1 passed"), "{said}{complaints}");
    false
}

/// A file system in memory for `files` files, at `folder`; it goes with the namespace.
fn mount(folder: &Path, files: u32) {
    std::fs::create_dir(folder).unwrap();
    let options = format!("nr_inodes={files}");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).status();
    assert!(mounted.expect("mount, of util-linux").success());
}

async fn failure(config: &NatsConfig, replace: &[(String, &str)]) -> String {
    told(&EmbeddedServer::start(config).await.expect_err("it cannot start"), replace)
}
