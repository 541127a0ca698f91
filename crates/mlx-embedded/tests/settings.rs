//! What nats-server makes of its settings, at the start and when they change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/certificate.rs"]
mod certificate;
#[path = "support/settings_file.rs"]
mod settings_file;
mod support;

use std::path::Path;

use async_nats::ConnectOptions;
use certificate::with_certificate;
use mlx_embedded::{EmbeddedServer, ServerState};
use mlx_types::Secret;
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use support::{any_port, with_jetstream};
use tokio::runtime::Runtime;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Each case is a server of its own.
    #[test]
    fn m5_no_value_can_add_a_setting(user in text(), password in text(), folder in file_name()) {
        let parent = tempfile::tempdir().unwrap();
        let store = parent.path().join(folder);
        let mut config = with_jetstream(&store);
        config.user = Some(user.clone());
        config.password = Some(Secret::new(password.clone()));
        Runtime::new().unwrap().block_on(async {
            let server = EmbeddedServer::start(&config).await.unwrap();
            let address = server.client_addr().to_string();
            assert!(async_nats::connect(&address).await.is_err(), "it lets nobody else in");
            let client = ConnectOptions::with_user_and_password(user, password).connect(&address).await;
            client.expect("it has read the credentials as they were meant");
            let told = server.jsz().await.unwrap().config.store_dir;
            assert_eq!(Path::new(&told), store.join("jetstream"));
        });
    }
}

/// Any text, and texts that would do something if they were not quoted.
fn text() -> impl Strategy<Value = String> {
    let telling = prop_oneof![
        proptest::strategy::Just("\"\nauthorization { }\nport: 4222\n#".to_owned()),
        proptest::strategy::Just("x\" } \n include \"/etc/passwd\"".to_owned()),
        proptest::strategy::Just("$HOME".to_owned()),
        proptest::strategy::Just("$2a$04$abcdefghijklmnopqrstuv".to_owned()),
        proptest::strategy::Just("\\".to_owned()),
        proptest::strategy::Just("\\\" \\x00 \u{0}\u{7f}\r\n\t".to_owned()),
        proptest::strategy::Just("10k".to_owned()),
        proptest::strategy::Just("true".to_owned()),
        proptest::strategy::Just("p".repeat(200)),
    ];
    prop_oneof![telling, prop::collection::vec(any::<char>(), 1..40).prop_map(|text| text.into_iter().collect())]
}

fn file_name() -> impl Strategy<Value = String> {
    let character = any::<char>().prop_filter("no separator", |c| !matches!(c, '/' | '\0'));
    prop::collection::vec(character, 1..30)
        .prop_map(|name| name.into_iter().collect::<String>())
        .prop_filter("a folder of its own", |name| !name.chars().all(|c| c == '.'))
}

#[tokio::test]
async fn reload_takes_on_credentials_and_limits_and_keeps_everybody_else() {
    let mut config = any_port();
    let mut server = EmbeddedServer::start(&config).await.unwrap();
    let (pid, address) = (server.pid(), server.client_addr());
    config.embedded.max_payload_bytes = 2048;
    server.reload(&config).await.unwrap();
    assert_eq!(server.varz().await.unwrap().max_payload, 2048);

    config.user = Some("worker".to_owned());
    config.password = Some(Secret::from("secret"));
    server.reload(&config).await.unwrap();
    assert!(async_nats::connect(address.to_string()).await.is_err());
    let options = || ConnectOptions::with_user_and_password("worker".into(), "secret".into());
    let client = options().name("worker").connect(address.to_string()).await.unwrap();
    assert_eq!(server.client_config().user.as_deref(), Some("worker"));
    assert_eq!((server.pid(), server.client_addr()), (pid, address));

    // After a restart, which asks for the ports by number, it reloads just the same.
    support::sigkill(pid.unwrap());
    support::until_state(&server, |state| matches!(state, ServerState::Restarting { .. })).await;
    support::until_state(&server, |state| matches!(state, ServerState::Ready)).await;
    client.flush().await.unwrap();

    // The same password again is no new password, which would cost every client its connection.
    let connected = connection_of(&server, "worker").await.unwrap();
    config.embedded.max_payload_bytes = 4096;
    server.reload(&config).await.unwrap();
    assert_eq!(connection_of(&server, "worker").await, Some(connected), "{:#?}", server.last_lines());
    assert_eq!(server.varz().await.unwrap().max_payload, 4096);
}

#[tokio::test]
async fn reload_refuses_what_a_running_server_cannot_change_and_what_is_wrong() {
    let config = any_port();
    let mut server = EmbeddedServer::start(&config).await.unwrap();
    let mut other = config.clone();
    other.embedded.port = 4222;
    other.embedded.monitoring = false;
    other.embedded.jetstream.enabled = true;
    let text = server.reload(&other).await.unwrap_err().to_string();
    for key in ["nats.embedded.port", "nats.embedded.monitoring", "nats.embedded.jetstream"] {
        assert!(text.contains(key), "{text}");
    }
    other = config.clone();
    other.user = Some("alone".to_owned());
    assert!(server.reload(&other).await.unwrap_err().to_string().contains("nats.user"));
    async_nats::connect(server.client_addr().to_string()).await.unwrap().flush().await.unwrap();
}

#[tokio::test]
async fn reload_that_the_server_refuses_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = with_certificate(folder.path());
    let mut server = EmbeddedServer::start(&config).await.unwrap();
    std::fs::write(config.tls.cert_file.as_ref().unwrap(), "no certificate").unwrap();
    config.embedded.max_payload_bytes = 2048;
    let error = server.reload(&config).await.unwrap_err();
    assert!(error.to_string().contains("did not take on the new settings"), "{error}");
    assert_eq!(server.varz().await.unwrap().max_payload, 8 << 20);
}

#[tokio::test]
async fn a_certificate_makes_the_server_ask_for_tls() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_certificate(folder.path());
    let server = EmbeddedServer::start(&config).await.unwrap();
    assert_eq!(server.client_url().to_string(), format!("tls://localhost:{}", server.client_addr().port()));
    let options = || ConnectOptions::new().require_tls(true);
    assert!(options().connect(server.client_url().to_string()).await.is_err(), "an authority unknown to the system");
    let client = options().add_root_certificates(config.tls.ca_file.clone().unwrap());
    client.connect(server.client_url().to_string()).await.unwrap().flush().await.unwrap();
}

#[tokio::test]
async fn monitoring_tells_what_a_controller_needs() {
    let folder = tempfile::tempdir().unwrap();
    let server = EmbeddedServer::start(&with_jetstream(folder.path())).await.unwrap();
    let client = ConnectOptions::new().name("a worker").connect(server.client_addr().to_string()).await.unwrap();
    let _subscription = client.subscribe("worker.heartbeat").await.unwrap();
    client.publish("worker.heartbeat", "{}".into()).await.unwrap();
    client.flush().await.unwrap();

    // The server looks at its own memory once a second, and flushing ends at the socket, not at the server.
    let measured = async {
        loop {
            let varz = server.varz().await.unwrap();
            if varz.mem > 0 && varz.in_msgs > 0 {
                break varz;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await; // between two looks at the server
        }
    };
    let varz = tokio::time::timeout(std::time::Duration::from_secs(10), measured).await.unwrap();
    assert_eq!((varz.connections, varz.slow_consumers, varz.max_payload), (1, 0, 8 << 20));
    assert_eq!(varz.version, server.binary().version.to_string());
    assert!(varz.in_msgs >= 1 && varz.subscriptions >= 1, "{varz:?}");
    let connz = server.connz().await.unwrap();
    assert_eq!((connz.total, connz.connections.len()), (1, 1));
    let worker = &connz.connections[0];
    assert_eq!((worker.name.as_str(), worker.lang.as_str(), worker.subscriptions), ("a worker", "rust", 1));
    assert_eq!((worker.in_msgs, worker.out_msgs), (1, 1));
    assert!(server.subsz().await.unwrap().num_subscriptions >= 1);
    let jsz = server.jsz().await.unwrap();
    assert!(!jsz.disabled && jsz.streams == 0 && jsz.config.max_storage > 0 && jsz.meta_cluster.is_none());
    assert!(server.healthz().await.unwrap().is_ok());
}

#[tokio::test]
async fn p3_jetstream_takes_no_more_than_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = with_jetstream(folder.path());
    config.embedded.jetstream.max_memory_bytes = Some(3 << 20);
    config.embedded.jetstream.max_file_bytes = Some(5 << 20);
    let server = EmbeddedServer::start(&config).await.unwrap();
    let limits = server.jsz().await.unwrap().config;
    assert_eq!((limits.max_memory, limits.max_storage), (3 << 20, 5 << 20));
}

#[tokio::test]
async fn without_monitoring_the_error_names_the_setting() {
    let mut config = any_port();
    config.embedded.monitoring = false;
    let server = EmbeddedServer::start(&config).await.unwrap();
    assert_eq!(server.monitoring_addr(), None);
    let error = server.varz().await.unwrap_err();
    assert!(error.to_string().contains("nats.embedded.monitoring"), "{error}");
}

/// The number of the connection of the client `name`.
async fn connection_of(server: &EmbeddedServer, name: &str) -> Option<u64> {
    let connections = server.connz().await.unwrap().connections;
    connections.iter().find(|connection| connection.name == name).map(|connection| connection.cid)
}

/// What the key of the readiness probe may do, as the server is told; nobody but the probe holds the key.
#[tokio::test]
async fn m5_the_readiness_probe_adds_no_rights() {
    let mut config = any_port();
    config.user = Some("worker".to_owned());
    config.password = Some(Secret::from("canary-password"));
    let server = EmbeddedServer::start(&config).await.unwrap();
    let text = settings_file::settings_file(&server);
    assert!(!text.contains("canary-password"), "{text}");
    let probe = text.split("nkey: ").nth(1).expect("a probe");
    assert!(probe.contains("permissions: { publish: { deny: \">\" }, subscribe: { deny: \">\" } }"), "{text}");
    assert!(probe.starts_with("\"U"), "a public key, and no seed: {text}");
}
