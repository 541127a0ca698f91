//! The places of a service: taken once for each request, free again behind its answer, and not waited for in vain.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use futures_util::StreamExt;
use mlx_nats::{ConnectionState, InferenceOptions, Request, Result, ServeOptions};
use mlx_tests::{FaultProxy, LIMIT, TestServer, arrived, within};
use mlx_types::messages::{CancelMode, FinishReason, InferenceCancel, InferenceRequest};
use mlx_types::{WorkerId, subjects};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_who_has_an_answer_finds_its_place_free() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let options = ServeOptions::default().max_concurrent(1);
    let echo = |text: Request<String>| async move {
        tokio::task::yield_now().await; // so that it is answered on a task of its own
        Ok(text.payload)
    };
    let service = worker.serve_with("lab.echo", options, echo).await.unwrap();
    let caller = server.client().await;
    for round in 0..1_000 {
        let answer: Result<String> = caller.request("lab.echo", &"a".to_owned()).await;
        assert_eq!(answer.unwrap_or_else(|error| panic!("round {round}: {error}")), "a");
    }
    service.stop(LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_who_has_read_the_end_of_a_stream_finds_its_place_free() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let service = worker
        .serve_inference(id, InferenceOptions::default().max_concurrent(1), |_request, mut tokens| async move {
            tokens.send("a").await?;
            Ok(FinishReason::Stop)
        })
        .await
        .unwrap();
    let caller = server.client().await;
    for round in 0..1_000 {
        let mut stream = caller.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
        while let Some(frame) = within("a frame", stream.next()).await {
            frame.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
    }
    service.stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn s4_the_same_request_once_more_does_not_end_the_stream_that_answers_it() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let (release, released) = tokio::sync::watch::channel(false);
    let service = worker
        .serve_inference(id, InferenceOptions::default(), move |_request, mut tokens| {
            let mut released = released.clone();
            async move {
                tokens.send("a").await?;
                released.wait_for(|released| *released).await.unwrap();
                Ok(FinishReason::Stop)
            }
        })
        .await
        .unwrap();
    // A requester that has no inbox, as the existing nodes have none.
    let caller = server.foreign_client().await;
    let request = InferenceRequest::new("m", "p");
    let mut frames = caller.subscribe(subjects::response(request.request_id).to_string()).await.unwrap();
    let subject = subjects::worker_inference(id).to_string();
    let body = serde_json::to_vec(&request).unwrap();
    caller.publish(subject.clone(), body.clone().into()).await.unwrap();
    let frame = within("the first token", frames.next()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&frame.payload).unwrap()["type"], "token");
    caller.publish(subject, body.into()).await.unwrap();
    arrived(&caller).await;
    within("the refusal of the second one", async {
        loop {
            let stats = caller.request("$SRV.STATS", "".into()).await.unwrap();
            let stats: Value = serde_json::from_slice(&stats.payload).unwrap();
            if stats["endpoints"][0]["num_errors"] == 1 {
                return;
            }
        }
    })
    .await;
    release.send_replace(true);
    let frame = within("the end", frames.next()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&frame.payload).unwrap()["type"], "done");
    service.stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn s1_a_cancellation_that_came_too_late_does_not_reach_a_later_run() {
    let server = TestServer::start().await;
    let (worker, caller) = (server.client().await, server.client().await);
    let id = WorkerId::new();
    let service = worker
        .serve_inference(id, InferenceOptions::default(), |_request, mut tokens| async move {
            tokens.send("a").await?;
            Ok(FinishReason::Stop)
        })
        .await
        .unwrap();
    let request = InferenceRequest::new("m", "p");
    let mut stream = caller.infer(id, &request).await.unwrap();
    while let Some(frame) = within("a frame", stream.next()).await {
        frame.unwrap();
    }
    let late = InferenceCancel::new(request.request_id, CancelMode::Kill);
    caller.publish(&subjects::worker_cancel(id), &late).await.unwrap();
    caller.flush(LIMIT).await.unwrap();
    let mut again = caller.infer(id, &request).await.unwrap();
    let frame = within("the first token", again.next()).await.unwrap().unwrap();
    assert_eq!(frame.text, "a");
    service.stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn c11_a_service_without_work_stops_at_once_while_the_connection_is_down() {
    let server = TestServer::start().await;
    let proxy = FaultProxy::start(&server).await;
    let worker = mlx_nats::Client::connect(&proxy.in_front(server.config())).await.unwrap();
    let echo = |text: Request<String>| async move { Ok(text.payload) };
    let service = worker.serve("lab.echo", echo).await.unwrap();
    let mut state = worker.watch_state();
    proxy.refuse(true);
    proxy.cut();
    within("the news", state.wait_for(|state| !matches!(state, ConnectionState::Connected { .. }))).await.unwrap();
    service.stop(Duration::from_secs(3)).await.unwrap();
}
