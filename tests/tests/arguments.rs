//! What a caller gets wrong is an error of its own code, before anything is sent, and not worth a second try; and what a peer
//! gets wrong is read as it is meant.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode, ErrorKind};
use mlx_nats::{Headers, InferenceOptions, Received, Request, RequestOptions, SubscribeOptions};
use mlx_tests::{TestServer, arrived, eventually, within};
use mlx_types::messages::{
    FinishReason, HealthCheck, HealthReport, InferenceRequest, ModelCommand, ModelState, ModelStatus,
};
use mlx_types::{WorkerId, subjects};

fn is_final(error: &Error, code: ErrorCode) {
    assert_eq!(error.code(), code, "{error}");
    assert!(!error.is_retryable(), "{error}");
}

#[tokio::test]
async fn e3_wrong_arguments_have_codes_that_tell_the_truth() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut headers = Headers::new();
    for (name, value) in [
        ("two\nnames", "x"),
        ("", "x"),
        ("a b", "x"),
        ("a:b", "x"),
        ("Tenant", "a\nb"),
        ("Tenant", " x"),
        ("Tenant", "x\t"),
    ] {
        let error = headers.set(name, value).unwrap_err();
        is_final(&error, ErrorCode::HeaderInvalid);
        let ErrorKind::InvalidHeader { name: told, .. } = error.kind() else { panic!("{error:?}") };
        assert_eq!(*told, name.escape_default().to_string());
    }
    for subject in ["", "a..b", "a b", "a.*", "a.>"] {
        is_final(&client.publish(subject, "x").await.unwrap_err(), ErrorCode::SubjectInvalid);
        is_final(&client.request::<_, _, u64>(subject, "x").await.unwrap_err(), ErrorCode::SubjectInvalid);
    }
    is_final(&client.publish("a".repeat(5_000).as_str(), "x").await.unwrap_err(), ErrorCode::SubjectInvalid);
    for group in ["", "a b", "a\nb", &"g".repeat(5_000)] {
        let options = SubscribeOptions::default().queue_group(group);
        let error =
            client.subscribe_with::<_, String>("lab.a", options).await.err().unwrap_or_else(|| panic!("{group:?}"));
        is_final(&error, ErrorCode::NatsSubscription);
    }
    assert!(client.state().is_connected());
}

#[tokio::test]
async fn a_request_id_that_is_being_answered_is_refused_as_that() {
    let server = TestServer::start().await;
    let (client, worker) = (server.client().await, server.client().await);
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |_, mut tokens| async move {
            tokens.send("a").await?;
            tokens.cancelled().await;
            Ok(FinishReason::Stop)
        })
        .await
        .unwrap();
    let request = InferenceRequest::new("m", "p");
    let mut first = client.infer(id, &request).await.unwrap();
    within("a token", first.next()).await.unwrap().unwrap();
    let mut second = client.infer(id, &request).await.unwrap();
    loop {
        match within("the refusal", second.next()).await.unwrap() {
            Ok(_) => {} // the first one's words, which are on the same subject
            Err(error) => return is_final(&error, ErrorCode::RequestDuplicate),
        }
    }
}

#[tokio::test]
async fn an_error_reply_is_an_error_whatever_else_is_in_it() {
    let server = TestServer::start().await;
    let (client, foreign) = (server.client().await, server.foreign_client().await);
    let mut requests = foreign.subscribe("*.*").await.unwrap();
    arrived(&foreign).await;
    let bodies = [
        r#"{"error":"no such model","code":"MODEL_NOT_FOUND","details":{"tried":1},"requestId":"x"}"#,
        r#"{"error":{"message":"no such model","code":"MODEL_NOT_FOUND"}}"#,
        r#"{"error":{"message":"no such model","type":"MODEL_NOT_FOUND"},"status":500}"#,
    ];
    let answering = tokio::spawn(async move {
        let mut bodies = bodies.into_iter();
        while let Some(request) = requests.next().await {
            let Some(reply) = request.reply else { continue };
            let Some(body) = bodies.next() else { return };
            foreign.publish(reply, body.into()).await.unwrap();
        }
    });
    for _ in 0..bodies.len() {
        let check = HealthCheck::new();
        let asked = client.request(&subjects::HEALTH_CHECK, &check);
        let error = within("the error", asked).await.map(|_: HealthReport| ()).unwrap_err();
        let ErrorKind::Remote(remote) = error.kind() else { panic!("{error:?}") };
        assert_eq!((remote.message(), remote.code()), ("no such model", "MODEL_NOT_FOUND"));
    }
    answering.abort();
}

#[tokio::test]
async fn an_answer_with_an_error_of_its_own_is_an_answer() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let id = WorkerId::new();
    let failed = move |command: Request<ModelCommand>| async move {
        let mut status = ModelStatus::new(id, command.model_id.clone(), ModelState::Failed);
        status.error = Some("no memory".to_owned());
        Ok(status)
    };
    let _service = client.serve(&subjects::MODEL_LOAD, failed).await.unwrap();
    let command = ModelCommand::new("m");
    let status = client.request(&subjects::MODEL_LOAD, &command).await.unwrap();
    assert_eq!(status.error.as_deref(), Some("no memory"));
}

#[tokio::test]
async fn c14_a_deadline_that_is_none_is_refused() {
    let server = TestServer::start().await;
    let (client, foreign) = (server.client().await, server.foreign_client().await);
    let _service = client.serve("lab.a", |_: Request<u64>| async { Ok(1_u64) }).await.unwrap();
    for deadline in ["soon", "-1", "", "1.5", "99999999999999999999999"] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Mlx-Deadline", deadline);
        let reply = foreign.request_with_headers("lab.a", headers, "1".into()).await.unwrap();
        let code = reply.headers.as_ref().and_then(|headers| headers.get("Mlx-Error-Code")).map(ToString::to_string);
        assert_eq!(code.as_deref(), Some("HEADER_INVALID"), "{deadline:?}");
    }
}

#[tokio::test]
async fn c1_an_unknown_verb_of_the_services_has_no_responders() {
    let server = TestServer::start().await;
    let (client, foreign) = (server.client().await, server.foreign_client().await);
    let _service = client.serve("lab.a", |_: Request<u64>| async { Ok(1_u64) }).await.unwrap();
    assert!(foreign.request("$SRV.PING", "".into()).await.is_ok());
    for unknown in ["$SRV.FOO", "$SRV.FOO.mlx-node"] {
        let error = within("the refusal", foreign.request(unknown, "".into())).await.unwrap_err();
        assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders);
    }
}

#[tokio::test]
async fn c13_a_message_handler_that_panics_is_followed_by_the_next_message() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let handled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&handled);
    let count = move |message: mlx_nats::Result<Received<u64>>| {
        let counted = Arc::clone(&counted);
        let number = message.unwrap().into_payload();
        assert!(number != 1, "before its future is made");
        async move {
            assert!(number != 2, "in its future");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    let task = client.on_message("lab.a", count).await.unwrap();
    for number in 0..4_u64 {
        client.publish("lab.a", &number).await.unwrap();
    }
    eventually("the others", || handled.load(Ordering::Relaxed) == 2).await;
    task.abort();
}

/// `client.serve(..).await?;` as a statement ends the service at once: the compiler says so.
#[test]
fn every_handle_that_ends_something_when_it_is_dropped_says_so() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    for (file, name) in [
        ("mlx-nats/src/pubsub/subscribe/mod.rs", "Subscription<"),
        ("mlx-nats/src/rpc/serve/run.rs", "Service "),
        ("mlx-nats/src/stream/responder.rs", "InferenceService "),
        ("mlx-nats/src/stream/requester.rs", "TokenStream "),
        ("mlx-embedded/src/server.rs", "EmbeddedServer "),
        ("mlx-embedded/src/cluster.rs", "EmbeddedCluster "),
        ("mlx-embedded/src/node.rs", "Node "),
        ("mlx-log/src/handle.rs", "LogGuard "),
    ] {
        let code = std::fs::read_to_string(crates.join(file)).unwrap();
        let (before, _) =
            code.split_once(&format!("pub struct {name}")).unwrap_or_else(|| panic!("{name} is not in {file}"));
        let attributes = before.rsplit("///").next().unwrap();
        assert!(attributes.contains("#[must_use = "), "{name} in {file}");
    }
}

#[tokio::test]
async fn a_handler_sees_where_its_request_came_and_what_came_with_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let _plain = client.serve("lab.plain", |_: Request<String>| async { Ok("text") }).await.unwrap();
    let text: String = client.request("lab.plain", "a").await.unwrap();
    assert_eq!(text, "text");

    let told = |request: Request<String>| async move {
        Ok((request.subject().to_owned(), request.headers().get("Tenant").map(str::to_owned), request.payload))
    };
    let _any = client.serve("lab.any.*", told).await.unwrap();
    let mut headers = Headers::new();
    headers.set("Tenant", "blue").unwrap();
    let options = RequestOptions::default().headers(headers);
    let answer: (String, Option<String>, String) = client.request_with("lab.any.one", "b", options).await.unwrap();
    assert_eq!(answer, ("lab.any.one".to_owned(), Some("blue".to_owned()), "b".to_owned()));
    let answer: (String, Option<String>, String) = client.request("lab.any.two", "c").await.unwrap();
    assert_eq!(answer, ("lab.any.two".to_owned(), None, "c".to_owned()));
}
