//! Refusals are heard whatever else goes on, and limits are kept before anything is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode};
use mlx_nats::{Client, ClientOptions, Request, ServeOptions, SubscribeOptions};
use mlx_tests::{ConfiguredServer, FaultProxy, LIMIT, Operator, TestServer, arrived, millis, within};
use mlx_types::config::NatsConfig;
use mlx_types::{Secret, WorkerId};
use serde_json::json;

fn config(server: &ConfiguredServer, user: &str) -> NatsConfig {
    server.config("nats", "").user(user).password(Secret::new("x".to_owned())).request_timeout_ms(millis(600_000))
}

async fn client(server: &ConfiguredServer, user: &str) -> Client {
    let options = ClientOptions::default().discovery(None);
    within("the connection", Client::connect_with(&config(server, user), options)).await.unwrap()
}

fn users(alice: &str) -> String {
    format!(
        r"authorization {{ users: [ {{ user: root, password: x }}, {{ user: alice, password: x, permissions: {{ {alice} }} }} ] }}"
    )
}

const BLIND: &str = r#"subscribe: { deny: ["worker.heartbeat", "secret.>"] }"#;

fn assert_refused(error: &Error, code: ErrorCode, subject: &str) {
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(subject), "{error} does not name {subject}");
    assert!(error.to_string().contains("Permissions Violation"), "{error}");
    assert!(!error.is_retryable());
}

/// Keeps the threads of the runtime busy, milliseconds at a time, until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new(tasks: usize) -> Self {
        let busy = Arc::new(AtomicBool::new(true));
        for task in 0..tasks {
            let busy = Arc::clone(&busy);
            tokio::spawn(async move {
                while busy.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1 << task)); // a task that computes without a pause
                    tokio::task::yield_now().await;
                }
            });
        }
        Self(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn c4_refusals_are_heard_however_late_their_task_gets_its_turn() {
    let server = ConfiguredServer::start(&users(r#"subscribe: { deny: ["secret.>"] }"#)).await;
    let client = client(&server, "alice").await;
    let busy = Busy::new(5);
    for round in 0..100 {
        let made = client.subscribe::<_, String>(format!("secret.{round}").as_str()).await;
        let error = made.err().unwrap_or_else(|| panic!("round {round} was not refused"));
        assert_refused(&error, ErrorCode::NatsSubscription, "secret.");
        drop(client.subscribe::<_, String>("lab.a").await.unwrap());
    }
    drop(busy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn c5_a_flush_tells_of_what_was_refused_however_late_the_news_come() {
    let server = ConfiguredServer::start(&users(r#"publish: { deny: ["secret.>"] }"#)).await;
    let client = client(&server, "alice").await;
    let busy = Busy::new(5);
    for round in 0..60 {
        client.publish(format!("secret.{round}").as_str(), "x").await.unwrap();
        let error = client.flush(LIMIT).await.err().unwrap_or_else(|| panic!("round {round} was not told"));
        assert_refused(&error, ErrorCode::NatsPublish, &format!("secret.{round}"));
        client.publish("lab.a", "x").await.unwrap();
        client.flush(LIMIT).await.unwrap();
    }
    drop(busy);
    assert_eq!(client.refused_publishes(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn c4_no_denied_subscription_looks_fine_in_a_flood_of_refusals() {
    let server =
        ConfiguredServer::start(&users(r#"subscribe: { deny: ["secret.>"] }, publish: { deny: ["flood"] }"#)).await;
    let client = client(&server, "alice").await;
    let (denied, allowed) = (client.clone(), client.clone());
    let denied = async move {
        for round in 0..20 {
            let made = denied.subscribe::<_, String>(format!("secret.{round}").as_str()).await;
            assert_refused(
                &made.err().unwrap_or_else(|| panic!("round {round}")),
                ErrorCode::NatsSubscription,
                "secret.",
            );
        }
    };
    let allowed = async move {
        for _ in 0..20 {
            drop(allowed.subscribe::<_, String>("lab.a").await.unwrap());
        }
    };
    let flood = async {
        let burst = vec!["x"; 2_000];
        for _ in 0..20 {
            client.publish_all("flood", &burst).await.unwrap();
            // Room for a subscription between two bursts; what was refused is of no interest here.
            let _ = client.flush(LIMIT).await;
        }
    };
    within("all of it", Box::pin(async { tokio::join!(denied, allowed, flood) })).await;
    assert!(client.refused_publishes() > 0);
    // The next refusals are found as before.
    let error = within("a request", client.request::<_, _, u64>("flood", "x")).await.unwrap_err();
    assert_refused(&error, ErrorCode::NatsPublish, "flood");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_over_the_limit_of_the_server_is_refused_before_it_is_sent() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut other = client.subscribe::<_, String>("lab.other").await.unwrap();
    let before = client.state();
    let long = "x".repeat(5_000);
    let refused = |error: Option<Error>| {
        let error = error.expect("too long");
        assert_eq!((error.code(), error.is_retryable()), (ErrorCode::NatsSubscription, false), "{error}");
        assert!(error.to_string().contains("4096") && error.to_string().len() < 400, "{error}");
    };
    for group in [long.clone(), "x".repeat(4_090), "é".repeat(2_040)] {
        let grouped = SubscribeOptions::default().queue_group(group.clone());
        refused(client.subscribe_with::<_, String>("lab.a", grouped).await.err());
        let grouped = ServeOptions::default().queue_group(group);
        refused(client.serve_with("lab.a", grouped, |_: Request<String>| async { Ok(1) }).await.err());
    }
    // Subjects have a shorter limit of their own.
    let invalid = |error: Option<Error>| assert_eq!(error.expect("too long").code(), ErrorCode::SubjectInvalid);
    invalid(client.subscribe::<_, String>(&long).await.err());
    invalid(client.serve(&long, |_: Request<String>| async { Ok(1) }).await.err());
    invalid(client.publish(&long, "x").await.err());
    invalid(client.publish_all(&long, &["x"]).await.err());
    invalid(client.request::<_, _, u64>(&long, "x").await.err());
    invalid(mlx_tests::ask_all::<_, _, u64>(&client, &long, "x", mlx_nats::RequestManyOptions::default()).await.err());

    // What a peer asks an answer to be sent to may be as long as its own line was.
    let _service = client.serve("lab.sum", |_: Request<u64>| async { Ok(1_u64) }).await.unwrap();
    let foreign = server.foreign_client().await;
    foreign.publish_with_reply("lab.sum", "y".repeat(4_078), "1".into()).await.unwrap();
    arrived(&foreign).await;

    // As long as may be works, on the connection that was there all the time.
    let grouped = SubscribeOptions::default().queue_group("x".repeat(4_066));
    let mut messages = client.subscribe_with::<_, String>("lab.a", grouped).await.unwrap();
    client.publish("lab.a", "whole").await.unwrap();
    assert_eq!(*within("a message", messages.next()).await.unwrap().unwrap(), "whole");
    assert_eq!(within("an answer", client.request::<_, _, u64>("lab.sum", &1)).await.unwrap(), 1);
    client.publish("lab.other", "x").await.unwrap();
    within("a message", other.next()).await.unwrap().unwrap();
    assert_eq!(client.state(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_whoever_has_all_subscriptions_that_it_may_have_loses_none_by_being_told_so() {
    let server = ConfiguredServer::start(&format!("max_subscriptions: 3\n{}", users(""))).await;
    let client = client(&server, "alice").await; // its inbox is the first
    let mut messages = client.subscribe::<_, String>("lab.a").await.unwrap();
    let mut last = client.subscribe::<_, String>("lab.b").await.unwrap();
    let root = self::client(&server, "root").await;
    for round in 0..50 {
        // Busy while it asks, so that what comes cannot be told by its length.
        root.publish("lab.a", "x").await.unwrap();
        let (flushed, made) = tokio::join!(client.flush(LIMIT), client.subscribe::<_, String>("lab.c"));
        flushed.unwrap();
        let error = made.err().unwrap_or_else(|| panic!("round {round}: one too many"));
        assert_eq!((error.code(), error.is_retryable()), (ErrorCode::NatsSubscription, false));
        assert!(error.to_string().contains("maximum subscriptions exceeded"), "{error}");
        within("a message", messages.next()).await.unwrap().unwrap();
    }
    // With room again, each that fits is made, and not one more.
    last.unsubscribe().await.unwrap();
    drop(last);
    for _ in 0..20 {
        let both = tokio::join!(client.subscribe::<_, String>("lab.c"), client.subscribe::<_, String>("lab.d"));
        let ((Ok(mut made), Err(_)) | (Err(_), Ok(mut made))) = both else { panic!("{both:?}") };
        // Dropped alone, it would go some time after.
        made.unsubscribe().await.unwrap();
        client.flush(LIMIT).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_a_table_of_workers_that_hears_nothing_any_more_says_so_and_declares_nobody_lost() {
    let server = ConfiguredServer::start(&users("")).await;
    let options = ClientOptions::default().offline_timeout(Duration::from_mins(10));
    let alice = Client::connect_with(&config(&server, "alice"), options).await.unwrap();
    let root = client(&server, "root").await;
    let workers = alice.workers().await.unwrap();
    let profile = mlx_nats::WorkerProfile::new(WorkerId::new());
    let worker =
        root.worker(profile).serve(|_, _| async { Ok(mlx_types::messages::FinishReason::Stop) }).await.unwrap();
    workers.wait_until(LIMIT, |known| known.len() == 1).await.unwrap();
    let nobody = workers.wait_until(LIMIT, |known| known.len() > 1);
    let taken = async {
        server.reload(&users(BLIND)).await;
    };
    let (nobody, ()) = within("the refusal", Box::pin(async { tokio::join!(nobody, taken) })).await;
    assert_refused(&nobody.unwrap_err(), ErrorCode::NatsSubscription, "worker.heartbeat");
    assert_refused(&workers.check().unwrap_err(), ErrorCode::NatsSubscription, "worker.heartbeat");
    assert_eq!(workers.list().len(), 1, "who was there is not declared lost");
    // Whoever asks for a table now is refused, and gets a new one when it is allowed again.
    assert_refused(&alice.workers().await.unwrap_err(), ErrorCode::NatsSubscription, "worker.heartbeat");
    server.reload(&users("")).await;
    let again = within("the table", alice.workers()).await.unwrap();
    again.check().unwrap();
    worker.drain(LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_what_is_not_allowed_any_more_after_a_reconnection_ends_with_that_error() {
    let server = ConfiguredServer::start(&users("")).await;
    let proxy = FaultProxy::before(server.address()).await;
    let through = proxy.in_front(config(&server, "alice"));
    let options = ClientOptions::default().discovery(None);
    let alice = Client::connect_with(&through, options).await.unwrap();
    let mut messages = alice.subscribe::<_, String>("secret.a").await.unwrap();
    let grouped = SubscribeOptions::default().queue_group("q");
    let mut grouped = alice.subscribe_with::<_, String>("secret.b", grouped).await.unwrap();
    let mut service = alice.serve("secret.c", |_: Request<String>| async { Ok(1) }).await.unwrap();
    let mut spared = alice.subscribe::<_, String>("lab.a").await.unwrap();
    proxy.refuse(true);
    proxy.cut();
    server.reload(&users(r#"subscribe: { deny: ["secret.>"] }"#)).await;
    proxy.refuse(false);
    for subscription in [&mut messages, &mut grouped] {
        let error = within("the refusal", subscription.next()).await.unwrap().unwrap_err();
        assert_refused(&error, ErrorCode::NatsSubscription, subscription.subject());
        assert!(within("the end", subscription.next()).await.is_none());
    }
    assert_refused(&within("the end", service.ended()).await.unwrap_err(), ErrorCode::NatsSubscription, "secret.c");
    alice.wait_connected(LIMIT).await.unwrap();
    alice.publish("lab.a", "x").await.unwrap();
    within("a message", spared.next()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_a_pattern_of_which_a_part_is_denied_is_not_refused() {
    let server = ConfiguredServer::start(&users(r#"subscribe: { deny: ["secret.>"] }"#)).await;
    let (alice, root) = (client(&server, "alice").await, client(&server, "root").await);
    let mut all = alice.subscribe::<_, String>(">").await.unwrap();
    let mut some = alice.subscribe::<_, String>("*.a").await.unwrap();
    for subject in ["secret.a", "lab.a"] {
        root.publish(subject, "x").await.unwrap();
    }
    assert_eq!(within("a message", some.next()).await.unwrap().unwrap().subject(), "lab.a");
    let first = within("a message", async {
        loop {
            // Its own round trips come by it as well, and are no text.
            if let Ok(message) = all.next().await.unwrap() {
                return message.subject().to_owned();
            }
        }
    });
    assert_eq!(first.await, "lab.a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_may_answer_only_what_it_was_asked_answers_and_one_that_may_not_is_counted() {
    let answers = r#"subscribe: { allow: ["lab.>", "_INBOX.>"] }, publish: { allow: ["none"] }, allow_responses: true"#;
    let server = ConfiguredServer::start(&users(answers)).await;
    let (alice, root) = (client(&server, "alice").await, client(&server, "root").await);
    let serve = || alice.serve("lab.sum", |numbers: Request<Vec<u64>>| async move { Ok(numbers.iter().sum::<u64>()) });
    let service = serve().await.unwrap();
    assert_eq!(within("an answer", root.request::<_, _, u64>("lab.sum", &[1, 2])).await.unwrap(), 3);
    assert_eq!(alice.refused_publishes(), 0);
    service.stop(LIMIT).await.unwrap();

    server.reload(&users(r#"subscribe: { allow: ["lab.>", "_INBOX.>"] }, publish: { allow: ["none"] }"#)).await;
    alice.wait_connected(LIMIT).await.unwrap();
    let _service = serve().await.unwrap();
    let options = mlx_nats::RequestOptions::default().timeout(Duration::from_millis(300));
    let unanswered = root.request_with::<_, _, u64>("lab.sum", &[1, 2], options).await.unwrap_err();
    assert_eq!(unanswered.code(), ErrorCode::NatsTimeout);
    let error = alice.flush(LIMIT).await.unwrap_err();
    assert_refused(&error, ErrorCode::NatsPublish, "_INBOX.");
    assert_eq!(alice.refused_publishes(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_limits_and_permissions_of_a_jwt_are_refusals_like_others() {
    for (account, user) in [(json!({ "subs": 2 }), json!({})), (json!({}), json!({ "subs": 2 }))] {
        let user = json!({ "subs": user.get("subs").unwrap_or(&json!(-1)), "sub": { "deny": ["secret.>"] }, "pub": { "deny": ["secret.>"] } });
        let operator = Operator::with_limits(&account, &user);
        let server = ConfiguredServer::start(&operator.settings).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("user.creds");
        std::fs::write(&file, operator.credentials()).unwrap();
        let config = server.config("nats", "").credentials_file(file);
        let client = within("the connection", Client::connect(&config)).await.unwrap();
        let error = within("the refusal", client.subscribe::<_, String>("secret.a")).await.unwrap_err();
        assert_refused(&error, ErrorCode::NatsSubscription, "secret.a");
        let error = within("the refusal", client.request::<_, _, u64>("secret.a", "x")).await.unwrap_err();
        assert_refused(&error, ErrorCode::NatsPublish, "secret.a");
        let _one = client.subscribe::<_, String>("lab.a").await.unwrap(); // beside its inbox
        let error = within("the limit", client.subscribe::<_, String>("lab.b")).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (ErrorCode::NatsSubscription, false));
        assert!(error.to_string().contains("maximum subscriptions exceeded"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_an_inbox_that_is_taken_away_fails_whoever_waits_for_an_answer() {
    let server = ConfiguredServer::start(&users("")).await;
    let (alice, root) = (client(&server, "alice").await, client(&server, "root").await);
    let _silent =
        root.serve("lab.silent", |_: Request<String>| std::future::pending::<Result<u64, Error>>()).await.unwrap();
    let asked = alice.request::<_, _, u64>("lab.silent", "x");
    let taken = async {
        server.reload(&users(r#"subscribe: { deny: ["_INBOX.>"] }"#)).await;
    };
    let (asked, ()) = within("the refusal", Box::pin(async { tokio::join!(asked, taken) })).await;
    assert_refused(&asked.unwrap_err(), ErrorCode::NatsSubscription, "_INBOX.");
    let later = within("the refusal", alice.request::<_, _, u64>("lab.silent", "x")).await.unwrap_err();
    assert_refused(&later, ErrorCode::NatsSubscription, "_INBOX.");
}
