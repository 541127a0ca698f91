//! Users that the server lets hear answers below a prefix of their own only, or not at all, and that may publish to nobody's
//! inbox: how they connect, and what they are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use mlx_errors::{Error, ErrorCode, ErrorKind};
use mlx_nats::{Client, ConnectionEvent, Request, RequestManyOptions};
use mlx_tests::{ConfiguredServer, LIMIT, Operator, eventually, eventually_async, millis, within};
use mlx_types::config::NatsConfig;
use serde_json::{Value, json};

/// One who may do what the test says, and one who may do everything.
fn users(permissions: &str) -> String {
    format!(
        "accounts {{ A {{ jetstream: enabled, users: [ {{ user: alice, password: a, permissions: {{ {permissions} }} }}, \
         {{ user: root, password: r }} ] }} }}"
    )
}

/// The least that makes sense: one subject to publish on, answers below a prefix of one's own.
const MINIMAL: &str = r#"publish: "worker.>", subscribe: "_INBOX_alice.>""#;

fn alice(server: &ConfiguredServer, prefix: Option<&str>) -> NatsConfig {
    let config = server.config("nats", "alice:a@");
    match prefix {
        Some(prefix) => config.inbox_prefix(prefix),
        None => config,
    }
}

async fn root(server: &ConfiguredServer) -> Client {
    Client::connect(&server.config("nats", "root:r@")).await.unwrap()
}

/// That the inbox was refused, in words that name everything there is to know.
fn is_refused_inbox(error: &Error) {
    let ErrorKind::Subscription { subject, .. } = error.kind() else { panic!("{error:?}") };
    assert!(subject.starts_with("_INBOX."), "{subject}");
    let said = format!("Permissions Violation for Subscription to \"{subject}\"");
    for told in [said.as_str(), "`nats.inboxPrefix`"] {
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[tokio::test]
async fn c4_connecting_without_a_permission_for_the_inbox_fails_at_once_naming_it_and_the_key() {
    let server = ConfiguredServer::start(&users(MINIMAL)).await;
    let patient = alice(&server, None).connect_timeout_ms(millis(60_000));
    is_refused_inbox(&within("the refusal", Client::connect(&patient)).await.unwrap_err());
    // One that may publish everywhere is not told otherwise.
    let server = ConfiguredServer::start(&users(r#"subscribe: "_INBOX_alice.>""#)).await;
    let patient = alice(&server, None).connect_timeout_ms(millis(60_000));
    is_refused_inbox(&within("the refusal", Client::connect(&patient)).await.unwrap_err());
    // Nor is it tried again by one who waits for a server.
    let options = mlx_nats::ClientOptions::default();
    let waiting = Client::connect_when_ready(&patient, options, Duration::from_mins(1));
    is_refused_inbox(&within("the refusal", waiting).await.unwrap_err());
}

#[tokio::test]
async fn c4_connecting_without_room_for_one_subscription_names_the_limit() {
    let operator = Operator::with_limits(&json!({ "subs": 0 }), &json!({}));
    let server = ConfiguredServer::start(&operator.settings).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.creds");
    std::fs::write(&file, operator.credentials()).unwrap();
    let config = server.config("nats", "").credentials_file(file).connect_timeout_ms(millis(60_000));
    let error = within("the refusal", Client::connect(&config)).await.unwrap_err();
    // The server says so during the greeting or behind it.
    assert!(matches!(error.kind(), ErrorKind::Subscription { .. } | ErrorKind::Connection { .. }), "{error:?}");
    assert!(format!("{error:?}").to_lowercase().contains("maximum subscriptions exceeded"), "{error:?}");
}

#[tokio::test]
async fn c5_a_user_with_an_inbox_prefix_of_its_own_needs_no_permission_to_publish_there() {
    let server = ConfiguredServer::start(&users(MINIMAL)).await;
    let client = Client::connect(&alice(&server, Some("_INBOX_alice"))).await.unwrap();
    let root = root(&server).await;
    let mut events = client.events();

    let mut heard = root.subscribe::<_, Value>("worker.word").await.unwrap();
    client.publish("worker.word", &json!(1)).await.unwrap();
    client.flush(LIMIT).await.unwrap();
    assert_eq!(within("the word", heard.next()).await.unwrap().unwrap().into_payload(), json!(1));

    let _echo = root.serve("worker.echo", |request: Request<Value>| async { Ok(request.payload) }).await.unwrap();
    let answer: Value = client.request("worker.echo", &json!("hello")).await.unwrap();
    assert_eq!(answer, json!("hello"));
    let all: Vec<Result<Value, Error>> =
        mlx_tests::ask_all(&client, "worker.echo", &json!(2), RequestManyOptions::default().max_responses(1))
            .await
            .unwrap();
    assert_eq!(all.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [json!(2)]);
    let nobody = client.request::<_, _, Value>("worker.nobody", &json!(1)).await.unwrap_err();
    assert_eq!(nobody.code(), ErrorCode::NatsNoResponders);

    // More at once than the transport's queue of refusals holds.
    for outcome in join_all((0..1_000).map(|_| client.flush(LIMIT))).await {
        outcome.unwrap();
    }
    client.shutdown(LIMIT).await.unwrap();
    // Refusals that were to be expected are nobody's news.
    while let Some(event) = within("the end of events", events.next()).await {
        assert!(!matches!(event, ConnectionEvent::ServerError { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn c6_a_minimal_user_comes_back_after_the_server_was_away() {
    let server = ConfiguredServer::start(&users(MINIMAL)).await;
    let client = Client::connect(&alice(&server, Some("_INBOX_alice"))).await.unwrap();
    // The server closes all connections of a user whose password changed, and then takes the old one again.
    server.reload(&users(MINIMAL).replace("password: a", "password: b")).await;
    eventually("the news", || !client.state().is_connected()).await;
    server.reload(&users(MINIMAL)).await;
    client.wait_connected(LIMIT).await.unwrap();
    client.flush(LIMIT).await.unwrap();
}

#[tokio::test]
async fn c4_an_inbox_that_is_taken_away_fails_who_waits_and_is_asked_for_again() {
    let everything = users(r#"publish: ">", subscribe: ">""#);
    let server = ConfiguredServer::start(&everything).await;
    let client = Client::connect(&alice(&server, None).request_timeout_ms(millis(600_000))).await.unwrap();
    let root = root(&server).await;
    let (asked, mut asking) = tokio::sync::mpsc::unbounded_channel();
    let silent = move |_: Request<Value>| {
        asked.send(()).unwrap();
        std::future::pending::<Result<Value, Error>>()
    };
    let _silent = root.serve("lab.silent", silent).await.unwrap();
    let request = tokio::spawn({
        let client = client.clone();
        async move { client.request::<_, _, Value>("lab.silent", &json!(1)).await }
    });
    within("the request", asking.recv()).await.unwrap();

    server.reload(&users(MINIMAL)).await;
    let error = within("the failure", request).await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsSubscription, "{error}");
    assert!(error.to_string().contains("Permissions Violation for Subscription"), "{error}");
    assert!(error.to_string().contains("nats.inboxPrefix"), "{error}");
    // What needs no answer goes on.
    let mut heard = root.subscribe::<_, Value>("worker.word").await.unwrap();
    client.publish("worker.word", &json!(1)).await.unwrap();
    assert_eq!(within("the word", heard.next()).await.unwrap().unwrap().into_payload(), json!(1));

    server.reload(&everything).await;
    eventually_async("an answer", async || {
        let error = client.request::<_, _, Value>("lab.nobody", &json!(1)).await.unwrap_err();
        (error.code() == ErrorCode::NatsNoResponders).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_inbox_prefix_that_is_none_is_refused_before_anything_is_sent() {
    for prefix in ["", "_INBOX.>", "a b", "a..b", "a\r\nPUB x 0"] {
        let config = NatsConfig::default().inbox_prefix(prefix);
        let error = Client::connect(&config).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SubjectInvalid, "{prefix:?}: {error}");
        assert!(config.check().unwrap_err().to_string().contains("inboxPrefix"), "{prefix:?}");
    }
}
