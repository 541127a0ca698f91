//! The same workers with a model server that is not ours: `mlx_lm.server`, and a model of its own making.

use futures_util::StreamExt;
use mlx_errors::ErrorCode;
use mlx_nats::WorkerInfo;
use mlx_tests::{LIMIT, RealModelServer, TestServer, within};
use mlx_types::messages::{ChatMessage, FinishReason, InferenceRequest};

use crate::support::{asker, available, read, said_to_prompts, start_worker};

#[tokio::test]
async fn two_workers_answer_and_one_may_die_real_model_server() {
    let bus = TestServer::start().await;
    let client = asker(&bus).await;
    let registry = client.workers().await.unwrap();
    // One server each, as on two machines.
    let (first, second) = tokio::join!(RealModelServer::start(), RealModelServer::start());
    let url = bus.embedded().client_url();
    let mut workers = [&first, &second].map(|server| start_worker(&url, &server.url(), &[], &[]));
    let has_model = |worker: &WorkerInfo| available(worker).iter().any(|model| !model.is_empty());
    let both = |online: &[WorkerInfo]| online.iter().filter(|worker| has_model(worker)).count() == 2;
    let online = registry.wait_until(LIMIT, both).await.unwrap();
    for (worker, server) in workers.iter().zip([&first, &second]) {
        let known = online.iter().find(|known| known.worker_id == worker.id()).unwrap();
        assert_eq!(available(known), [server.model()]);
    }

    // The same weights, and no chance: the same words.
    let mut texts = Vec::new();
    for (worker, server) in workers.iter().zip([&first, &second]) {
        let messages = vec![ChatMessage::new("system", "be brief"), ChatMessage::new("user", "what is a bus?")];
        let request = InferenceRequest::new(server.model(), "").messages(messages).max_tokens(24).temperature(0.0);
        let answered = read(client.infer(worker.id(), &request).await.unwrap()).await;
        let text = answered.text();
        assert_eq!(answered.reason(), FinishReason::Length, "{}", server.log());
        assert!(text.len() == 24 && text.chars().all(|char| char.is_ascii_lowercase()), "{text:?}");
        texts.push(text);
    }
    assert_eq!(texts[0], texts[1]);

    let mut stream = client.infer(workers[0].id(), &InferenceRequest::new(first.model(), "p")).await.unwrap();
    within("a token", stream.next()).await.unwrap().unwrap();
    workers[0].kill();
    assert_eq!(read(stream).await.ended.unwrap_err().code(), ErrorCode::WorkerLost);
    first.comes_to_rest().await;
    let request = InferenceRequest::new(second.model(), "p").max_tokens(8);
    let answered = read(client.infer(workers[1].id(), &request).await.unwrap()).await;
    assert_eq!(answered.text().len(), 8);
    bus.stop().await;
}

#[tokio::test]
async fn s2_a_cancelled_request_ends_its_generation_real_model_server() {
    let bus = TestServer::start().await;
    let client = asker(&bus).await;
    let server = RealModelServer::start().await;
    let worker = start_worker(&bus.embedded().client_url(), &server.url(), &[], &[]);
    let ready = |online: &[WorkerInfo]| online.iter().any(|known| available(known) == [server.model()]);
    client.workers().await.unwrap().wait_until(LIMIT, ready).await.unwrap();

    let request = InferenceRequest::new(server.model(), "p").max_tokens(1_000_000);
    let mut dropped = client.infer(worker.id(), &request).await.unwrap();
    within("a token", dropped.next()).await.unwrap().unwrap();
    drop(dropped);
    server.comes_to_rest().await;

    let mut stopped = client.infer(worker.id(), &request.request_id(mlx_types::RequestId::new())).await.unwrap();
    within("a token", stopped.next()).await.unwrap().unwrap();
    stopped.stop().await.unwrap();
    assert_eq!(read(stopped).await.reason(), FinishReason::Cancelled);
    server.comes_to_rest().await;
    worker.stop().await;
    bus.stop().await;
}

#[tokio::test]
async fn a_prompt_of_the_command_line_is_answered_real_model_server() {
    let server = RealModelServer::start().await;
    let arguments = ["--max-tokens", "16", "Tell me about NATS", "And about Rust"];
    let said = said_to_prompts(&server.url(), &arguments).await;
    assert!(said.contains("2 of 2 prompts answered") && said.contains("length"), "{said}");
}
