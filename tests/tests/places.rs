//! A service with room for one: who has had the answer to one request finds the place free for the next.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use futures_util::StreamExt;
use mlx_nats::{InferenceOptions, Request, Result, ServeOptions};
use mlx_tests::{LIMIT, TestServer, within};
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_who_has_an_answer_finds_its_place_free() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let options = ServeOptions { limit: 1, ..ServeOptions::default() };
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
        .serve_inference(id, InferenceOptions { max_concurrent: 1 }, |_request, mut tokens| async move {
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
