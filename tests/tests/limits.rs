//! The largest payload in force: the account's, the user's, and what a reload makes of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use mlx_embedded::EmbeddedServer;
use mlx_errors::{Error, ErrorCode, ErrorKind};
use mlx_nats::{Client, ConnectionState, Headers, InferenceOptions, Request};
use mlx_tests::{Authority, ConfiguredServer, LIMIT, Operator, TestServer, eventually, eventually_async, within};
use mlx_types::WorkerId;
use mlx_types::config::{NatsConfig, TlsConfig};
use mlx_types::messages::{FinishReason, InferenceRequest};
use serde_json::{Value, json};

/// How a user shows who it is.
type Login = Box<dyn Fn(&ConfiguredServer) -> NatsConfig>;

const SMALL: usize = 4096;
const LARGE: usize = 1 << 20;

fn limits(max_payload: usize) -> Value {
    json!({ "payload": max_payload })
}

fn text(bytes: usize) -> String {
    "x".repeat(bytes - 2) // and its quotes
}

fn with_credentials(server: &ConfiguredServer, operator: &Operator, folder: &Path) -> NatsConfig {
    let file: PathBuf = folder.join("user.creds");
    std::fs::write(&file, operator.credentials()).unwrap();
    server.config("nats", "").credentials_file(file)
}

fn is_too_large(error: &Error, limit: usize) {
    let ErrorKind::PayloadTooLarge { size, limit: told, .. } = error.kind() else { panic!("{error:?}") };
    assert!(*told == limit && *size > limit, "{error}");
}

fn epoch(client: &Client) -> Option<u64> {
    match client.state() {
        ConnectionState::Connected { epoch } => Some(epoch),
        _ => None,
    }
}

#[tokio::test]
async fn c9_the_limit_of_an_account_or_a_user_below_the_servers_is_in_force_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    for operator in [
        Operator::with_limits(&limits(SMALL), &json!({})),
        Operator::with_limits(&json!({}), &limits(SMALL)),
        Operator::with_limits(&limits(2 * SMALL), &limits(SMALL)),
    ] {
        let server = ConfiguredServer::start(&operator.settings).await;
        let client = Client::connect(&with_credentials(&server, &operator, folder.path())).await.unwrap();
        assert_eq!(client.max_payload(), SMALL);
        let before = epoch(&client);

        let mut heard = client.subscribe::<_, String>("lab.test").await.unwrap();
        client.publish("lab.test", &text(SMALL)).await.unwrap();
        assert_eq!(within("the largest", heard.next()).await.unwrap().unwrap().into_payload().len(), SMALL - 2);
        let over = text(SMALL + 1);
        is_too_large(&client.publish("lab.test", &over).await.unwrap_err(), SMALL);
        is_too_large(&client.request::<_, _, Value>("lab.test", &over).await.unwrap_err(), SMALL);
        let mut headers = Headers::new();
        headers.set("Tenant", "lab").unwrap();
        is_too_large(&client.publish_with_headers("lab.test", &text(SMALL), headers).await.unwrap_err(), SMALL);
        let asked = InferenceRequest::new("m", &over);
        is_too_large(&client.infer(WorkerId::new(), &asked).await.unwrap_err(), SMALL);

        // Replies and frames.
        let _service = client.serve("lab.large", |_: Request<Value>| async { Ok(text(SMALL + 1)) }).await.unwrap();
        let refused = client.request::<_, _, Value>("lab.large", &1).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::NatsPayloadTooLarge, "{refused:?}");
        let worker = WorkerId::new();
        let _worker = client
            .serve_inference(worker, InferenceOptions::default(), |_, mut sink| async move {
                sink.send(text(SMALL + 1)).await?;
                Ok(FinishReason::Stop)
            })
            .await
            .unwrap();
        let mut tokens = client.infer(worker, &InferenceRequest::new("m", "p")).await.unwrap();
        let failed = within("the end", tokens.next()).await.unwrap().unwrap_err();
        assert_eq!(failed.code(), ErrorCode::NatsPayloadTooLarge, "{failed:?}");

        client.flush(LIMIT).await.unwrap();
        assert_eq!(epoch(&client), before, "it cost the connection");
    }
}

#[tokio::test]
async fn c9_the_limit_is_known_whatever_the_credentials_and_the_encryption() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ours");
    let certificate = authority.certify("localhost");
    let tls = |first: bool| {
        format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true, handshake_first: {first} }}\n",
            certificate.file.display(),
            certificate.key_file.display(),
            authority.file.display()
        )
    };
    let operator = Operator::with_limits(&limits(SMALL), &json!({}));
    for (settings, scheme, first) in [(tls(false), "tls", false), (tls(false), "nats", false), (tls(true), "tls", true)]
    {
        let server = ConfiguredServer::start(&format!("{settings}{}", operator.settings)).await;
        let own = authority.certify("client");
        let config = with_credentials(&server, &operator, folder.path())
            .server_url(server.config(scheme, "").urls()[0].clone())
            .tls(
                TlsConfig::default()
                    .ca_file(authority.file.clone())
                    .cert_file(own.file)
                    .key_file(own.key_file)
                    .handshake_first(first),
            );
        assert_eq!(Client::connect(&config).await.unwrap().max_payload(), SMALL, "{scheme} {first}");
    }
    // Without JWTs there are no limits of accounts, but a reload raises that of the server all the same.
    let nkey = nkeys::KeyPair::new_user();
    let seed = folder.path().join("seed");
    std::fs::write(&seed, nkey.seed().unwrap()).unwrap();
    let user = |server: &ConfiguredServer, userinfo: &str| server.config("nats", userinfo);
    let cases: [(String, Login); 4] = [
        (String::new(), Box::new(move |server| user(server, ""))),
        ("authorization { user: ann, password: p }".to_owned(), Box::new(move |server| user(server, "ann:p@"))),
        ("authorization { token: t }".to_owned(), Box::new(move |server| user(server, "t@"))),
        (
            format!("authorization {{ users: [ {{ nkey: {} }} ] }}", nkey.public_key()),
            Box::new(move |server| user(server, "").nkey_seed_file(seed.clone())),
        ),
    ];
    for (settings, config) in cases {
        let server = ConfiguredServer::start(&format!("max_payload: {SMALL}\n{settings}")).await;
        let client = Client::connect(&config(&server)).await.unwrap();
        server.reload(&format!("max_payload: {LARGE}\n{settings}")).await;
        mlx_nats::refresh_limits().await;
        assert_eq!(client.max_payload(), LARGE, "{settings}");
    }
}

#[tokio::test]
async fn c9_a_reload_that_raises_the_limit_is_in_force_for_those_who_are_connected() {
    let settings = |limit: usize| format!("max_payload: {limit}");
    let server = ConfiguredServer::start(&settings(SMALL)).await;
    let client = Client::connect(&server.config("nats", "")).await.unwrap();
    let other = Client::connect(&server.config("nats", "")).await.unwrap();
    is_too_large(&client.publish("lab.test", &text(LARGE)).await.unwrap_err(), SMALL);
    let before = epoch(&client);
    server.reload(&settings(2 * LARGE)).await;

    // It asks again, by itself, but not more than once a second.
    let mut heard = other.subscribe::<_, String>("lab.test").await.unwrap();
    eventually_async("room for it", async || client.publish("lab.test", &text(LARGE)).await.ok()).await;
    assert_eq!(within("it", heard.next()).await.unwrap().unwrap().into_payload().len(), LARGE - 2);
    assert_eq!(client.max_payload(), 2 * LARGE);

    // In the order of the calls, with headers, and with answers.
    for round in 0..5 {
        client.publish("lab.test", &format!("before {round}")).await.unwrap();
        let mut headers = Headers::new();
        headers.set("Round", round.to_string()).unwrap();
        client.publish_with_headers("lab.test", &text(LARGE), headers).await.unwrap();
        client.publish("lab.test", &format!("after {round}")).await.unwrap();
        assert_eq!(within("the first", heard.next()).await.unwrap().unwrap().into_payload(), format!("before {round}"));
        let large = within("the large one", heard.next()).await.unwrap().unwrap();
        assert_eq!(large.header("Round"), Some(round.to_string().as_str()));
        assert_eq!(large.into_payload().len(), LARGE - 2);
        assert_eq!(within("the last", heard.next()).await.unwrap().unwrap().into_payload(), format!("after {round}"));
    }
    let _echo =
        other.serve("lab.length", |asked: Request<String>| async move { Ok(asked.payload.len()) }).await.unwrap();
    assert_eq!(client.request::<_, _, usize>("lab.length", &text(LARGE)).await.unwrap(), LARGE - 2);
    let nobody = within("the answer", client.request::<_, _, Value>("lab.nobody", &text(LARGE))).await.unwrap_err();
    assert_eq!(nobody.code(), ErrorCode::NatsNoResponders);
    is_too_large(&client.publish("lab.test", &text(2 * LARGE + 1)).await.unwrap_err(), 2 * LARGE);
    assert_eq!(epoch(&client), before, "it cost the connection");
}

#[tokio::test]
async fn c9_a_reload_of_the_embedded_server_is_in_force_for_the_clients_of_this_process_at_once() {
    let mut config = NatsConfig::default();
    config.embedded.port = 0;
    config.embedded.http_port = 0;
    config.embedded.max_payload_bytes = LARGE as u64;
    let mut server = EmbeddedServer::start(&config).await.unwrap();
    let client = Client::connect(&server.client_config()).await.unwrap();
    let mut heard = client.subscribe::<_, String>("lab.test").await.unwrap();
    let before = epoch(&client);
    for limit in [SMALL, 2 * LARGE, LARGE, 8 * SMALL] {
        config.embedded.max_payload_bytes = limit as u64;
        server.reload(&config).await.unwrap();
        assert_eq!(client.max_payload(), limit);
        is_too_large(&client.publish("lab.test", &text(limit + 1)).await.unwrap_err(), limit);
        client.publish("lab.test", &text(limit)).await.unwrap();
        assert_eq!(within("it", heard.next()).await.unwrap().unwrap().into_payload().len(), limit - 2);
    }
    assert_eq!(epoch(&client), before, "it cost the connection");
}

#[tokio::test]
async fn c9_a_limit_that_was_lowered_elsewhere_is_known_after_the_connection_that_it_cost() {
    let settings = |limit: usize| format!("max_payload: {limit}");
    let server = ConfiguredServer::start(&settings(LARGE)).await;
    let client = Client::connect(&server.config("nats", "")).await.unwrap();
    server.reload(&settings(SMALL)).await;
    let _ = client.publish("lab.test", &text(LARGE)).await;
    eventually("the new limit", || client.max_payload() == SMALL && client.state().is_connected()).await;
    is_too_large(&client.publish("lab.test", &text(LARGE)).await.unwrap_err(), SMALL);
}

#[tokio::test]
async fn a_server_without_room_for_another_connection_takes_clients_as_before() {
    let operator = Operator::with_limits(&json!({ "conn": 1, "payload": SMALL }), &json!({}));
    let folder = tempfile::tempdir().unwrap();
    let server = ConfiguredServer::start(&operator.settings).await;
    let client = Client::connect(&with_credentials(&server, &operator, folder.path())).await.unwrap();
    assert!(client.state().is_connected());
    client.flush(LIMIT).await.unwrap();
    let narrow = ConfiguredServer::start("max_connections: 1").await;
    let client = Client::connect(&narrow.config("nats", "")).await.unwrap();
    client.flush(LIMIT).await.unwrap();
    assert_eq!(client.max_payload(), LARGE);
}

#[tokio::test]
async fn the_question_for_the_limit_leaves_no_connection_behind() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.flush(LIMIT).await.unwrap();
    eventually_async("one connection", async || {
        let connections = server.monitoring("/connz").await["num_connections"].as_u64().unwrap();
        (connections == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn c9_the_limit_of_an_account_that_needs_no_credentials_is_known_after_a_refusal() {
    let settings = format!(
        "no_auth_user: ann\naccounts {{ A {{ users: [ {{ user: ann, password: p }} ], limits: {{ max_payload: {SMALL} }} }} }}"
    );
    let server = ConfiguredServer::start(&settings).await;
    let client = Client::connect(&server.config("nats", "")).await.unwrap();
    // The server closes the connection behind its refusal, and what it has not read of the message may have the system throw the
    // refusal away: then the next one tells.
    eventually_async("the limit", async || {
        let _ = client.publish("lab.test", &text(LARGE)).await;
        (client.max_payload() == SMALL && client.state().is_connected()).then_some(())
    })
    .await;
    is_too_large(&client.publish("lab.test", &text(LARGE)).await.unwrap_err(), SMALL);
}
