//! A user whom the server does not let hand over, or take over: told at once, by the subject that was refused.

use std::time::Duration;

use mlx_errors::{Error, ErrorCode};
use mlx_nats::{Client, InferenceOptions};
use mlx_tests::{ConfiguredServer, millis, within};
use mlx_types::messages::FinishReason;
use mlx_types::{Secret, WorkerId};
use tempfile::TempDir;

use crate::support::{MODEL, drain, options, request};

/// Far longer than a test waits: what ends before did not end by running out of time.
const LONG: Duration = Duration::from_mins(10);

/// A server with JetStream, and the folder of its files.
async fn server(alice: &str) -> (ConfiguredServer, TempDir) {
    let store = tempfile::tempdir().unwrap();
    let settings = format!(
        r#"jetstream {{ store_dir: "{}" }}
        authorization {{ users: [
            {{ user: root, password: x }}
            {{ user: alice, password: x, permissions: {{ {alice} }} }}
        ] }}"#,
        store.path().display()
    );
    (ConfiguredServer::start(&settings).await, store)
}

async fn client(server: &ConfiguredServer, user: &str) -> Client {
    let config =
        server.config("nats", "").user(user).password(Secret::new("x".to_owned())).request_timeout_ms(millis(600_000));
    let options = options().first_token_timeout(LONG).discovery(None);
    within("the connection", Client::connect_with(&config, options)).await.unwrap()
}

fn assert_refused(error: &Error, code: ErrorCode, subject: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(subject), "{error} does not name {subject}");
    assert!(!error.is_retryable(), "{error}");
}

/// The error with which a request ends, whether it is refused at once or by its stream.
async fn handed_over(client: &Client) -> Error {
    match within("an answer", client.infer_durable(&request("p"))).await {
        Ok(stream) => drain(stream).await.error.unwrap(),
        Err(error) => error,
    }
}

async fn taken_over(client: &Client) -> Error {
    let handler = |_, _| async { Ok(FinishReason::Stop) };
    let serving = client.serve_durable(WorkerId::new(), [MODEL], InferenceOptions::default(), handler);
    match within("the service", serving).await {
        Ok(mut service) => within("its end", service.ended()).await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_who_may_not_hand_over_is_told_at_once_by_the_subject() {
    for (denied, code, subject) in [
        (r#"publish: { deny: ["inference.queue.>"] }"#, ErrorCode::NatsPublish, "inference.queue."),
        (r#"publish: { deny: ["$JS.API.>"] }"#, ErrorCode::NatsPublish, "$JS.API."),
        (r#"subscribe: { deny: ["response.>"] }"#, ErrorCode::NatsSubscription, "response."),
    ] {
        let (server, _store) = server(denied).await;
        // The queue is there: whoever may, made it.
        let root = client(&server, "root").await;
        let (service, _) = crate::support::echo(&root).await;
        assert_refused(&handed_over(&client(&server, "alice").await).await, code, subject);
        drop(service);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_who_may_not_take_over_is_told_at_once_by_the_subject() {
    for (denied, code, subject) in [
        (r#"publish: { deny: ["$JS.API.>"] }"#, ErrorCode::NatsPublish, "$JS.API."),
        (r#"publish: { deny: ["$JS.API.CONSUMER.MSG.NEXT.>"] }"#, ErrorCode::NatsPublish, "$JS.API.CONSUMER.MSG.NEXT."),
        (r#"subscribe: { deny: ["inference.cancel"] }"#, ErrorCode::NatsSubscription, "inference.cancel"),
    ] {
        let (server, _store) = server(denied).await;
        let alice = client(&server, "alice").await;
        assert_refused(&taken_over(&alice).await, code, subject);
    }
}
