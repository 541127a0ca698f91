//! What the handles of a client show, and what they do when they are stopped, dropped, or used after their end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mlx_errors::{Error, ErrorCode, ErrorKind};
use mlx_nats::{Headers, InferenceOptions, Received, Request, Result};
use mlx_tests::{LIMIT, TestServer, eventually, within};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{WorkerId, subjects};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[tokio::test]
async fn a_callback_gets_good_and_malformed_messages_until_its_handle_is_aborted() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let (told, mut heard) = mpsc::unbounded_channel();
    let handle = client
        .on_message("lab.test", move |message: Result<Received<u32>>| {
            told.send(message.map(Received::into_payload)).unwrap();
            async {}
        })
        .await
        .unwrap();
    client.publish("lab.test", &7).await.unwrap();
    client.publish("lab.test", "seven").await.unwrap();
    client.publish("lab.test", &8).await.unwrap();
    assert_eq!(within("the first", heard.recv()).await.unwrap().unwrap(), 7);
    let error = within("the malformed one", heard.recv()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::MessageDecode);
    assert_eq!(within("the last", heard.recv()).await.unwrap().unwrap(), 8);

    handle.abort();
    assert!(within("the end", heard.recv()).await.is_none(), "the callback is still there");
    let answer = within("an answer", client.request::<_, _, Value>("lab.test", &1)).await;
    assert_eq!(answer.unwrap_err().code(), ErrorCode::NatsNoResponders, "the subscription is still there");
}

#[tokio::test]
async fn a_received_message_shows_what_came_with_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut messages = client.subscribe::<_, Value>("lab.*").await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Tenant", "lab");
    let foreign = server.foreign_client().await;
    foreign.publish_with_reply_and_headers("lab.a", "lab.reply", headers, "1".into()).await.unwrap();
    let message = within("a message", messages.next()).await.unwrap().unwrap();
    assert_eq!((message.subject(), message.reply()), ("lab.a", Some("lab.reply")));
    assert_eq!((message.header("Tenant"), message.header("tenant")), (Some("lab"), None));
    assert!(format!("{message:?}").contains("lab.a"), "{message:?}");
    assert_eq!(messages.subject(), "lab.*");
    assert!(format!("{messages:?} {client:?}").contains("lab.*"));
}

#[test]
fn headers_keep_case_and_refuse_what_would_break_out_of_a_line() {
    let mut headers = Headers::new();
    assert!(headers.is_empty());
    headers.set("Tenant", "lab").unwrap();
    headers.set("Tenant", "line").unwrap();
    assert_eq!(headers.iter().collect::<Vec<_>>(), [("Tenant", "line")]);
    for (name, value) in
        [("Tenant", "two\r\nlines"), ("two\r\nnames", "x"), ("", "x"), ("a:b", "x"), ("Tenant", " x"), ("Tenant", "x ")]
    {
        let error = headers.set(name, value).unwrap_err();
        assert_eq!(error.code(), ErrorCode::HeaderInvalid, "{name:?}: {value:?}");
        assert!(!error.is_retryable());
    }
    assert_eq!(format!("{headers:?}"), r#"{"Tenant": "line"}"#);
}

#[tokio::test]
async fn a_payload_that_json_cannot_hold_is_an_error_before_it_is_sent() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let keyed_by_lists = HashMap::from([(vec![1], 2)]);
    let error = client.publish("lab.test", &keyed_by_lists).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsPublish);
    assert!(error.to_string().contains("JSON"), "{error}");
}

/// Counts the handlers that are under way: one more while it lives.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn c11_a_stop_that_is_dropped_or_runs_out_of_time_ends_the_handlers() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for patience in [LIMIT * 10, Duration::from_millis(20)] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let service = client
            .serve("lab.slow", move |_: Request<Value>| {
                let under_way = UnderWay::begin(&counted);
                async move {
                    std::future::pending::<()>().await;
                    drop(under_way);
                    Ok(())
                }
            })
            .await
            .unwrap();
        assert_eq!(service.subject(), "lab.slow");
        let asking = client.clone();
        let asking = tokio::spawn(async move { asking.request::<_, _, Value>("lab.slow", &1).await });
        eventually("the handler's begin", || count.load(Ordering::SeqCst) == 1).await;

        let stopping = service.stop(patience);
        if patience > LIMIT {
            assert!(stopping.now_or_never().is_none(), "stopped, but the handler never ends");
        } else {
            let error = within("the timeout", stopping).await.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Timeout { subject, .. } if subject.contains("lab.slow")),
                "{error}"
            );
        }
        eventually("the handler's end", || count.load(Ordering::SeqCst) == 0).await;
        asking.abort();
    }
}

#[tokio::test]
async fn a_failure_without_a_reply_inbox_disturbs_nobody() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let fail = |_: Request<Value>| async { Err::<Value, _>(Error::new(ErrorKind::Overloaded { limit: 1 })) };
    let _service = client.serve("lab.fail", fail).await.unwrap();
    client.publish("lab.fail", &1).await.unwrap();
    let error = client.request::<_, _, Value>("lab.fail", &1).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Overloaded);

    // An inference request that came without one is refused on its stream, where it says which that is.
    let id = WorkerId::new();
    let _worker =
        client.serve_inference(id, InferenceOptions::default(), |_, _| async { Ok(FinishReason::Stop) }).await.unwrap();
    let asked = InferenceRequest::new("m", "p");
    let subject = subjects::response(asked.request_id);
    let mut frames = client.subscribe::<_, Value>(subject.as_str()).await.unwrap();
    let to = subjects::worker_inference(id);
    client.publish(to.as_str(), &json!({ "garbage": true })).await.unwrap();
    client.publish(to.as_str(), &json!({ "requestId": asked.request_id, "garbage": true })).await.unwrap();
    let frame = within("the refusal", frames.next()).await.unwrap().unwrap();
    assert_eq!(frame["code"], "MESSAGE_DECODE_ERROR");
}

#[tokio::test]
async fn s1_a_stream_that_has_ended_can_be_stopped_and_killed_and_stays_as_it_is() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let id = WorkerId::new();
    let _worker = client
        .serve_inference(id, InferenceOptions::default(), |_, mut tokens| async move {
            tokens.send("one").await?;
            assert_eq!(tokens.sent(), 1);
            Ok(FinishReason::Length)
        })
        .await
        .unwrap();
    let mut stream = client.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
    assert!(stream.summary().is_none());
    assert!(format!("{stream:?}").contains(&id.to_string()), "{stream:?}");
    while let Some(frame) = within("a frame", stream.next()).await {
        frame.unwrap();
    }
    let summary = stream.summary().cloned();
    assert_eq!(summary.as_ref().unwrap().finish_reason, Some(FinishReason::Length));
    let mut cancels = client.subscribe::<_, Value>(subjects::worker_cancel(id).as_str()).await.unwrap();
    stream.stop().await.unwrap();
    stream.kill().await.unwrap();
    assert_eq!(stream.summary().cloned(), summary);
    assert_eq!(stream.worker_id(), Some(id));
    client.flush(LIMIT).await.unwrap();
    assert!(cancels.next().now_or_never().is_none(), "a worker that has finished is told to");
}
