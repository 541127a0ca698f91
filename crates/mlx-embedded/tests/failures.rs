//! Every way in which a start fails, as it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;
#[path = "support/told.rs"]
mod told;

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use mlx_embedded::{EmbeddedServer, Finder};
use mlx_errors::ErrorCode;
use mlx_types::Millis;
use mlx_types::config::NatsConfig;
use support::{any_port, program, stranger, with_jetstream};
use told::told;

#[tokio::test]
async fn m4_no_binary() {
    let finder = Finder::default().well_known(vec!["/nowhere/bin".into()]);
    let error = EmbeddedServer::builder(&any_port()).finder(finder).start().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::EmbeddedServerNotFound);
    assert_snapshot!("no_binary", told(&error, &[]));
}

#[tokio::test]
async fn m4_not_executable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nats-server");
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    assert_snapshot!("not_executable", with_binary(path, folder.path()).await);
}

#[tokio::test]
async fn m4_wrong_architecture() {
    let folder = tempfile::tempdir().unwrap();
    // The header of a program for a machine type that does not exist.
    let header = [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 9], &[2, 0, 0xfe, 0xfe], &[0; 64]].concat();
    let path = program(folder.path(), "");
    std::fs::write(folder.path().join("header"), header).unwrap();
    std::fs::rename(folder.path().join("header"), &path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let told = with_binary(path, folder.path()).await;
    let machine = format!("({}, {})", std::env::consts::OS, std::env::consts::ARCH);
    assert_snapshot!("wrong_architecture", told.replace(&machine, "(OS, ARCH)"));
}

#[tokio::test]
async fn m4_wrong_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = program(folder.path(), "");
    let text = std::fs::read_to_string(&path).unwrap().replace("v2.12.8", "v2.9.10");
    let old = folder.path().join("old");
    std::fs::create_dir(&old).unwrap();
    let written = std::process::Command::new("sh")
        .args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(old.join("nats-server"))
        .arg(text)
        .status();
    assert!(written.unwrap().success());
    assert_snapshot!("wrong_version", with_binary(old.join("nats-server"), folder.path()).await);
}

#[tokio::test]
async fn m4_port_taken_by_another_nats_server() {
    let stranger = stranger();
    let mut config = any_port();
    config.embedded.port = stranger.port;
    assert_snapshot!("port_taken_by_nats", failure(&config, &[(stranger.port.to_string(), "PORT")]).await);

    let mut config = any_port();
    config.embedded.http_port = stranger.monitoring_port;
    let port = stranger.monitoring_port.to_string();
    assert_snapshot!("monitoring_port_taken_by_nats", failure(&config, &[(port, "PORT")]).await);
}

#[tokio::test]
async fn m4_port_taken_by_something_else() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config = any_port();
    config.embedded.port = port;
    assert_snapshot!("port_taken_by_other", failure(&config, &[(port.to_string(), "PORT")]).await);
}

#[tokio::test]
async fn m4_privileged_port() {
    let mut config = any_port();
    config.embedded.port = 80;
    assert_snapshot!("privileged_port", failure(&config, &[]).await);
}

#[tokio::test]
async fn m4_address_of_another_machine() {
    let mut config = any_port();
    // Reserved for documentation, so that no machine has it.
    config.embedded.host = "192.0.2.77".to_owned();
    config.embedded.allow_anonymous = true;
    assert_snapshot!("foreign_address", failure(&config, &[]).await);
}

#[tokio::test]
async fn m4_unusable_jetstream_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Not even root can make a folder inside a file.
    assert_snapshot!("folder_unusable", failure(&with_jetstream(&file.join("store")), &paths(folder.path())).await);
}

#[tokio::test]
async fn m8_two_servers_on_one_jetstream_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_jetstream(&folder.path().join("store"));
    let first = EmbeddedServer::start(&config).await.unwrap();
    let error = EmbeddedServer::start(&config).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::EmbeddedServerStart);
    assert_snapshot!("folder_locked", told(&error, &paths(folder.path())));
    // A crash of the first one's nats-server does not free the folder; its end does.
    support::sigkill(first.pid().unwrap());
    assert!(EmbeddedServer::start(&config).await.is_err());
    drop(first);
    drop(EmbeddedServer::start(&config).await.unwrap());
}

#[tokio::test]
async fn m4_bad_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = any_port();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, "no certificate").unwrap();
    std::fs::write(&key, "no key").unwrap();
    config.tls.cert_file = Some(cert);
    config.tls.key_file = Some(key);
    assert_snapshot!("bad_certificate", failure(&config, &paths(folder.path())).await);

    config.tls.cert_file = Some(folder.path().join("missing.pem"));
    assert_snapshot!("missing_certificate", failure(&config, &paths(folder.path())).await);
}

#[tokio::test]
async fn m4_start_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = any_port();
    config.embedded.binary = Some(program(folder.path(), "echo 'thinking it over' >&2; exec sleep 600"));
    config.embedded.start_timeout_ms = Millis::new(300).unwrap();
    assert_snapshot!("start_timeout", failure(&config, &[]).await);
}

#[tokio::test]
async fn m4_an_end_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = any_port();
    config.embedded.binary = Some(program(folder.path(), "kill -SEGV $$"));
    assert_snapshot!("killed_by_a_signal", failure(&config, &[]).await);
    std::fs::remove_file(config.embedded.binary.as_ref().unwrap()).unwrap();
    config.embedded.binary = Some(program(folder.path(), "exit 7"));
    assert_snapshot!("exit_status", failure(&config, &[]).await);
}

#[tokio::test]
async fn m5_wide_bind_without_credentials() {
    let mut config = any_port();
    config.embedded.host = "0.0.0.0".to_owned();
    assert_snapshot!("wide_bind", failure(&config, &[]).await);
}

async fn with_binary(path: PathBuf, folder: &Path) -> String {
    let mut config = any_port();
    config.embedded.binary = Some(path);
    failure(&config, &paths(folder)).await
}

async fn failure(config: &NatsConfig, replace: &[(String, &str)]) -> String {
    let error = EmbeddedServer::start(config).await.expect_err("it cannot start");
    told(&error, replace)
}

fn paths(folder: &Path) -> Vec<(String, &'static str)> {
    vec![(folder.display().to_string(), "FOLDER")]
}
