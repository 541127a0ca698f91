//! Every way to prove who one is, against real servers; and each with its wrong twin, and what is said then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::error::Error as _;
use std::path::{Path, PathBuf};

use mlx_errors::{ConnectStep, Error, ErrorKind};
use mlx_nats::{Client, ClientOptions};
use mlx_tests::{Authority, Certificate, ConfiguredServer, LIMIT, Operator, within};
use mlx_types::NatsUrl;
use mlx_types::config::{NatsConfig, NatsMode, TlsConfig};

const SECRET: &str = "right/canary@1";
/// The same inside a URL.
const SECRET_IN_URL: &str = "right%2Fcanary%401";

async fn connects(config: &NatsConfig) {
    let client = Client::connect(config).await.unwrap_or_else(|error| panic!("{error}: {:?}", error.source()));
    client.flush(LIMIT).await.unwrap();
    client.shutdown(LIMIT).await.unwrap();
}

async fn refused(config: &NatsConfig) -> Error {
    Client::connect(config).await.expect_err("these credentials are wrong")
}

/// An error whose kind is `Authentication`, and that says to look at `setting`.
fn is_authentication(error: &Error, setting: &str) {
    let ErrorKind::Authentication { server, hint } = error.kind() else { panic!("{error:?}") };
    assert!(server.contains("://localhost:") && hint.contains(setting), "{error}");
    assert!(!error.is_retryable() && !format!("{error} {error:?}").contains("canary"), "{error:?}");
}

/// An error of the step `step`, that says to look at `setting` and whose cause contains `cause`.
fn is_connection(error: &Error, step: ConnectStep, setting: &str, cause: &str) {
    let ErrorKind::Connection { hint, step: got, .. } = error.kind() else { panic!("{error:?}") };
    let told = error.source().map(ToString::to_string).unwrap_or_default();
    assert_eq!(*got, step, "{error}: {told}");
    assert!(hint.contains(setting), "{error}");
    assert!(told.contains(cause), "{error}: {told}");
}

#[tokio::test]
async fn a_user_and_password_work_in_the_settings_and_in_the_url() {
    let server = ConfiguredServer::start(&format!("authorization {{ user: ann, password: {SECRET:?} }}")).await;
    let with = |user: &str, password: &str| server.config("nats", "").user(user).password(password);
    connects(&with("ann", SECRET)).await;
    connects(&server.config("nats", &format!("ann:{SECRET_IN_URL}@"))).await;
    is_authentication(&refused(&with("ann", "wrong-canary")).await, "nats.password");
    is_authentication(&refused(&with("bob", SECRET)).await, "nats.user");
    is_authentication(&refused(&server.config("nats", "ann:wrong-canary@")).await, "nats.serverUrl");
    is_authentication(&refused(&server.config("nats", "")).await, "nats.user");
}

#[tokio::test]
async fn a_token_works_in_the_settings_and_in_the_url() {
    let server = ConfiguredServer::start(&format!("authorization {{ token: {SECRET:?} }}")).await;
    let with = |token: &str| server.config("nats", "").token(token);
    connects(&with(SECRET)).await;
    connects(&server.config("nats", &format!("{SECRET_IN_URL}@"))).await;
    is_authentication(&refused(&with("wrong-canary")).await, "nats.token");
    is_authentication(&refused(&server.config("nats", "wrong-canary@")).await, "nats.serverUrl");
}

#[tokio::test]
async fn an_nkey_seed_works() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| written(folder.path(), name, text);
    let (known, stranger) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let server =
        ConfiguredServer::start(&format!("authorization {{ users: [ {{ nkey: {} }} ] }}", known.public_key())).await;
    let with = |file| server.config("nats", "").nkey_seed_file(file);
    connects(&with(file("known", &format!("{}\n", known.seed().unwrap())))).await;
    is_authentication(&refused(&with(file("stranger", &stranger.seed().unwrap()))).await, "nats.nkeySeedFile");
    let garbled = refused(&with(file("garbled", "SUcanary"))).await;
    is_connection(&garbled, ConnectStep::Authenticate, "nats.nkeySeedFile", "");
    assert!(!format!("{garbled} {garbled:?}").contains("canary"), "{garbled:?}");
    let missing = refused(&with(folder.path().join("missing"))).await;
    is_connection(&missing, ConnectStep::Authenticate, "nats.nkeySeedFile", "No such file");
}

#[tokio::test]
async fn a_credentials_file_works() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| written(folder.path(), name, text);
    let (ours, theirs) = (Operator::new(), Operator::new());
    let server = ConfiguredServer::start(&ours.settings).await;
    let with = |file| server.config("nats", "").credentials_file(file);
    connects(&with(file("ours", &ours.credentials()))).await;
    is_authentication(&refused(&with(file("theirs", &theirs.credentials()))).await, "nats.credentialsFile");
    // A user's own JWT with another user's seed.
    let (one, other) = (ours.credentials(), ours.credentials());
    let (jwt, seed) = (one.split("\n\n").next().unwrap(), other.split("\n\n").nth(1).unwrap());
    is_authentication(&refused(&with(file("mixed", &format!("{jwt}\n\n{seed}")))).await, "nats.credentialsFile");
    let garbled = refused(&with(file("garbled", "canary"))).await;
    is_connection(&garbled, ConnectStep::Authenticate, "nats.credentialsFile", "JWT");
    assert!(!format!("{garbled} {garbled:?}").contains("canary"), "{garbled:?}");
    let missing = refused(&with(folder.path().join("missing"))).await;
    is_connection(&missing, ConnectStep::Authenticate, "nats.credentialsFile", "No such file");
}

#[tokio::test]
async fn tls_works_with_an_authority_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
    let server = ConfiguredServer::start(&tls_settings(&ours.certify("localhost"), None)).await;
    let with = |scheme: &str, ca: &Path| trusting(server.config(scheme, ""), ca);
    connects(&with("tls", &ours.file)).await;
    connects(&with("nats", &ours.file)).await; // the server's greeting asks for TLS
    let stranger = refused(&with("tls", &theirs.file)).await;
    is_connection(&stranger, ConnectStep::Tls, "nats.tls.caFile", "UnknownIssuer");
    let untrusted = refused(&server.config("tls", "")).await;
    is_connection(&untrusted, ConnectStep::Tls, "nats.tls.caFile", "");
    let missing = refused(&with("tls", &folder.path().join("missing"))).await;
    is_connection(&missing, ConnectStep::Tls, "nats.tls.caFile", "No such file");

    let elsewhere = ConfiguredServer::start(&tls_settings(&ours.certify("elsewhere.example"), None)).await;
    let misnamed = refused(&trusting(elsewhere.config("tls", ""), &ours.file)).await;
    is_connection(&misnamed, ConnectStep::Tls, "nats.serverUrl", "elsewhere.example");

    let plain = ConfiguredServer::start("").await;
    let unencrypted = refused(&trusting(plain.config("tls", ""), &ours.file)).await;
    is_connection(&unencrypted, ConnectStep::Tls, "nats://", "");
}

#[tokio::test]
async fn mutual_tls_works() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
    let server = ConfiguredServer::start(&tls_settings(&ours.certify("localhost"), Some(&ours.file))).await;
    let trusting = || trusting(server.config("tls", ""), &ours.file);
    let with = |certificate: &Certificate| {
        let mut config = trusting();
        config.tls.cert_file = Some(certificate.file.clone());
        config.tls.key_file = Some(certificate.key_file.clone());
        config
    };
    connects(&with(&ours.certify("client"))).await;
    is_connection(&refused(&trusting()).await, ConnectStep::Tls, "nats.tls.certFile", "");
    is_connection(&refused(&with(&theirs.certify("client"))).await, ConnectStep::Tls, "nats.tls.certFile", "");
    let (one, other) = (ours.certify("one"), ours.certify("other"));
    let mismatched = Certificate { file: one.file, key_file: other.key_file };
    is_connection(&refused(&with(&mismatched)).await, ConnectStep::Tls, "nats.tls.keyFile", "");
}

fn trusting(config: NatsConfig, ca: &Path) -> NatsConfig {
    config.tls(TlsConfig::default().ca_file(ca.to_owned()))
}

fn tls_settings(certificate: &Certificate, verified_by: Option<&Path>) -> String {
    let verify = verified_by.map(|ca| format!(", ca_file: \"{}\", verify: true", ca.display())).unwrap_or_default();
    let (certificate, key) = (certificate.file.display(), certificate.key_file.display());
    format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\"{verify} }}")
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn m5_an_empty_credential_of_a_configuration_made_by_hand_is_an_error_before_anything_is_sent() {
    let nobody_listens = "nats://127.0.0.1:1".parse::<NatsUrl>().unwrap();
    let here = || NatsConfig::default().mode(NatsMode::External).server_url(nobody_listens.clone());
    for (path, config) in [
        ("nats.password", here().user("alice").password("")),
        ("nats.token", here().token("")),
        ("nats.user", here().user("alice")),
    ] {
        let error = refused(&config).await;
        let ErrorKind::ConfigValidation { violations } = error.kind() else { panic!("{error:?}") };
        assert!(violations.iter().any(|violation| violation.path == path), "{path}: {error}");
        let again = Client::connect_when_ready(&config, ClientOptions::default(), LIMIT * 10);
        assert_eq!(within("the refusal", again).await.unwrap_err().code(), error.code());
    }
}
