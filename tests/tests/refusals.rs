//! What the server refuses fails whoever waits for it, at once and by name, and nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode};
use mlx_nats::{Client, ClientOptions, InferenceOptions, Request, RequestManyOptions, ServeOptions, SubscribeOptions};
use mlx_tests::{ConfiguredServer, LIMIT, eventually, millis, within};
use mlx_types::config::NatsConfig;
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{Secret, WorkerId};

/// Far longer than a test waits: what ends before did not end by running out of time.
const LONG: Duration = Duration::from_mins(10);

fn config(server: &ConfiguredServer, user: &str) -> NatsConfig {
    server.config("nats", "").user(user).password(Secret::new("x".to_owned())).request_timeout_ms(millis(600_000))
}

/// No listing of services, for which a user needs a permission of its own; and timeouts that no test reaches.
fn options() -> ClientOptions {
    ClientOptions::default().discovery(None).first_token_timeout(LONG).inter_token_timeout(LONG)
}

async fn client(server: &ConfiguredServer, user: &str) -> Client {
    within("the connection", Client::connect_with(&config(server, user), options())).await.unwrap()
}

fn users(alice: &str) -> String {
    format!(
        r"authorization {{ users: [ {{ user: root, password: x }}, {{ user: alice, password: x, permissions: {{ {alice} }} }} ] }}"
    )
}

const NO_SECRETS: &str =
    r#"subscribe: { deny: ["secret.>", "worker.*.inference", "worker.*.cancel", "response.>", "worker.heartbeat"] }"#;

fn assert_refused(error: &Error, code: ErrorCode, subject: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(subject), "{error} does not name {subject}");
    assert!(error.to_string().contains("Permissions Violation"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_every_call_that_subscribes_fails_at_once_where_the_user_may_not() {
    let server = ConfiguredServer::start(&users(NO_SECRETS)).await;
    let client = client(&server, "alice").await;
    let code = ErrorCode::NatsSubscription;
    let refused = |what: Option<Error>, subject: &str| assert_refused(&what.expect(subject), code, subject);

    let error = within("a subscription", client.subscribe::<_, String>("secret.a")).await.err();
    refused(error, "secret.a");
    let error = within("a pattern", client.subscribe::<_, String>("secret.>")).await.err();
    refused(error, "secret.>");
    let grouped = SubscribeOptions::default().queue_group("q");
    let error = within("a group", client.subscribe_with::<_, String>("secret.a", grouped)).await.err();
    refused(error, "secret.a");
    let error =
        within("a callback", client.on_message("secret.a", |_: mlx_nats::Result<mlx_nats::Received<String>>| async {}))
            .await
            .err();
    refused(error, "secret.a");
    let serving = client.serve("secret.a", |_: Request<String>| async { Ok(1) });
    refused(within("a service", serving).await.err(), "secret.a");
    let grouped = ServeOptions::default().queue_group("q");
    let serving = client.serve_with("secret.a", grouped, |_: Request<String>| async { Ok(1) });
    refused(within("a service in a group", serving).await.err(), "secret.a");
    let id = WorkerId::new();
    let serving = client.serve_inference(id, InferenceOptions::default(), |_, _| async { Ok(FinishReason::Stop) });
    refused(within("a worker", serving).await.err(), &format!("worker.{id}.cancel"));
    refused(within("the table of workers", client.workers()).await.err(), "worker.heartbeat");

    // The connection stands, and what is allowed works.
    let mut allowed = client.subscribe::<_, String>("lab.a").await.unwrap();
    client.publish("lab.a", "x").await.unwrap();
    assert_eq!(*within("a message", allowed.next()).await.unwrap().unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_allowed_and_denied_are_told_apart_in_every_one_of_a_thousand_rounds() {
    let server = ConfiguredServer::start(&users(NO_SECRETS)).await;
    let client = client(&server, "alice").await;
    let denied = async {
        for round in 0..500 {
            let made = client.subscribe::<_, String>(format!("secret.{round}").as_str()).await;
            assert_refused(
                &made.err().unwrap_or_else(|| panic!("round {round} was not refused")),
                ErrorCode::NatsSubscription,
                "secret.",
            );
        }
    };
    let allowed = async {
        for round in 0..500 {
            drop(client.subscribe::<_, String>(format!("lab.{round}").as_str()).await.unwrap());
        }
    };
    within("both", Box::pin(async { tokio::join!(denied, allowed) })).await;
}

#[tokio::test]
async fn c4_the_same_on_a_runtime_of_one_thread() {
    let server = ConfiguredServer::start(&users(NO_SECRETS)).await;
    let client = client(&server, "alice").await;
    for round in 0..200 {
        let made = client.subscribe::<_, String>(format!("secret.{round}").as_str()).await;
        assert!(made.is_err(), "round {round} was not refused");
        drop(client.subscribe::<_, String>("lab.a").await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_a_limit_of_subscriptions_fails_the_call_that_met_it_and_names_it() {
    let server = ConfiguredServer::start(&format!("max_subscriptions: 4\n{}", users(""))).await;
    let client = client(&server, "alice").await; // its inbox is the first
    let mut kept = Vec::new();
    let mut failed = Vec::new();
    let all: Vec<_> = (0..8).map(|index| format!("lab.{index}")).collect();
    let made =
        futures_util::future::join_all(all.iter().map(|subject| client.subscribe::<_, String>(subject.as_str())));
    for made in within("all of them", made).await {
        match made {
            Ok(subscription) => kept.push(subscription),
            Err(error) => failed.push(error),
        }
    }
    assert_eq!((kept.len(), failed.len()), (3, 5), "{failed:?}");
    for error in failed {
        assert_eq!(error.code(), ErrorCode::NatsSubscription);
        assert!(error.to_string().contains("maximum subscriptions exceeded"), "{error}");
    }
    for subscription in &mut kept {
        client.publish(subscription.subject().to_owned().as_str(), "x").await.unwrap();
        assert_eq!(*within("a message", subscription.next()).await.unwrap().unwrap(), "x");
    }
    drop(kept.pop());
    within("room again", async { while client.subscribe::<_, String>("lab.again").await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_a_permission_taken_away_ends_what_used_it_with_that_error() {
    let server = ConfiguredServer::start(&users("")).await;
    let (client, root) = (client(&server, "alice").await, client(&server, "root").await);
    let mut messages = client.subscribe::<_, String>("secret.a").await.unwrap();
    let mut spared = client.subscribe::<_, String>("lab.a").await.unwrap();
    let mut service = client.serve("secret.b", |_: Request<String>| async { Ok(1) }).await.unwrap();
    root.publish("secret.a", "before").await.unwrap();
    root.flush(LIMIT).await.unwrap();
    assert_eq!(*within("a message", messages.next()).await.unwrap().unwrap(), "before");

    server.reload(&users(r#"subscribe: { deny: ["secret.>"] }"#)).await;
    let error = within("the refusal", messages.next()).await.unwrap().err().unwrap();
    assert_refused(&error, ErrorCode::NatsSubscription, "secret.a");
    assert!(within("the end", messages.next()).await.is_none());
    let error = within("the end of the service", service.ended()).await.unwrap_err();
    assert_refused(&error, ErrorCode::NatsSubscription, "secret.b");
    root.publish("lab.a", "after").await.unwrap();
    assert_eq!(*within("a message", spared.next()).await.unwrap().unwrap(), "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_answers_the_server_refuses_ends_with_that_error() {
    let server = ConfiguredServer::start(&users(r#"subscribe: { deny: ["response.>"] }"#)).await;
    let (alice, root) = (client(&server, "alice").await, client(&server, "root").await);
    let id = WorkerId::new();
    let _worker = root
        .serve_inference(id, InferenceOptions::default(), |_, mut tokens| async move { Err(tokens.cancelled().await) })
        .await
        .unwrap();
    let mut tokens = alice.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
    let error = within("the refusal", tokens.next()).await.unwrap().unwrap_err();
    assert_refused(&error, ErrorCode::NatsSubscription, "response.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_request_that_may_not_be_published_fails_at_once_and_others_go_on() {
    let server = ConfiguredServer::start(&users(r#"publish: { deny: ["secret.>", "worker.*.inference"] }"#)).await;
    let (alice, root) = (client(&server, "alice").await, client(&server, "root").await);
    let waits = |_: Request<String>| async {
        tokio::time::sleep(Duration::from_millis(300)).await; // an answer that takes its time
        Ok(1_u64)
    };
    let _service = root.serve("lab.slow", waits).await.unwrap();
    let slow = alice.request::<_, _, u64>("lab.slow", "x");
    let denied = async {
        let both =
            tokio::join!(alice.request::<_, _, u64>("secret.a", "x"), alice.request::<_, _, u64>("secret.a", "y"));
        for error in [both.0.unwrap_err(), both.1.unwrap_err()] {
            assert_refused(&error, ErrorCode::NatsPublish, "secret.a");
        }
        let many = mlx_tests::ask_all::<_, _, u64>(&alice, "secret.a", "x", RequestManyOptions::default()).await;
        assert_refused(&many.unwrap_err(), ErrorCode::NatsPublish, "secret.a");
        let id = WorkerId::new();
        let mut tokens = alice.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
        let error = tokens.next().await.unwrap().unwrap_err();
        assert_refused(&error, ErrorCode::NatsPublish, &id.to_string());
    };
    let (slow, ()) = within("all of them", Box::pin(async { tokio::join!(slow, denied) })).await;
    assert_eq!(slow.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_a_publish_that_was_refused_is_counted_and_told_by_the_next_flush_once() {
    let server = ConfiguredServer::start(&users(r#"publish: { deny: ["secret.>"] }"#)).await;
    let alice = client(&server, "alice").await;
    for _ in 0..3 {
        alice.publish("secret.a", "x").await.unwrap();
    }
    let error = alice.flush(LIMIT).await.unwrap_err();
    assert_refused(&error, ErrorCode::NatsPublish, "secret.a");
    eventually("the count", || alice.refused_publishes() == 3).await;
    alice.publish("lab.a", "x").await.unwrap();
    // What was refused behind the flush before may be told by one more.
    let _ = alice.flush(LIMIT).await;
    alice.flush(LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_may_not_answer_stops_generating() {
    let server = ConfiguredServer::start(&users(r#"publish: { deny: ["response.>"] }"#)).await;
    let (alice, root) = (client(&server, "alice").await, client(&server, "root").await);
    let id = WorkerId::new();
    let (stopped, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let _worker = alice
        .serve_inference(id, InferenceOptions::default(), move |_, mut tokens| {
            let stopped = stopped.clone();
            async move {
                struct Told(tokio::sync::mpsc::UnboundedSender<()>);
                impl Drop for Told {
                    fn drop(&mut self) {
                        let _ = self.0.send(());
                    }
                }
                let _told = Told(stopped);
                tokens.send("a").await?;
                Err(tokens.cancelled().await)
            }
        })
        .await
        .unwrap();
    let _tokens = root.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
    within("the end of the handler", ended.recv()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_a_private_inbox_connects_by_its_prefix_and_is_told_of_the_key_without_it() {
    let private = r#"subscribe: { allow: ["_INBOX_alice.>", "lab.>"] }, publish: { allow: ["lab.>"] }"#;
    let server = ConfiguredServer::start(&users(private)).await;
    let refused = within("the refusal", Client::connect_with(&config(&server, "alice"), options())).await.unwrap_err();
    assert_refused(&refused, ErrorCode::NatsSubscription, "_INBOX.");
    assert!(refused.to_string().contains("nats.inboxPrefix"), "{refused}");

    let own = config(&server, "alice").inbox_prefix("_INBOX_alice");
    // It may not publish to its own inbox, and needs not.
    let alice = within("the connection", Client::connect_with(&own, options())).await.unwrap();
    let root = client(&server, "root").await;
    let _service = root
        .serve("lab.sum", |numbers: Request<Vec<u64>>| async move { Ok(numbers.iter().sum::<u64>()) })
        .await
        .unwrap();
    assert_eq!(within("an answer", alice.request::<_, _, u64>("lab.sum", &[1, 2])).await.unwrap(), 3);
    let many =
        mlx_tests::ask_all::<_, _, u64>(&alice, "lab.sum", &[1, 2], RequestManyOptions::default().max_responses(1));
    assert_eq!(within("answers", many).await.unwrap().len(), 1);
    within("a flush", alice.flush(LIMIT)).await.unwrap();
    assert!(within("a subscription", alice.subscribe::<_, String>("lab.a")).await.is_ok());
    assert!(within("a refusal", alice.subscribe::<_, String>("secret.a")).await.is_err());
    assert_eq!(alice.refused_publishes(), 0);
}
