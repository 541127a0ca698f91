//! What is seen when a worker dies.

use std::time::Duration;

use mlx_tests::{Answer, ModelServer, eventually, within};
use serde_json::{Value, json};

use crate::support::{GatewayProcess, chat, chat_with};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn s4_a_worker_that_dies_before_the_first_token_is_replaced_and_nobody_notices() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;
    models.answer_next(Answer::stream().silence());
    let client = gateway.asking(CHAT, &chat("tiny", "hello there")).spawn().unwrap();
    eventually("a generation", || models.generating() == 1).await;
    gateway.kill(&gateway.worker_at_work().await).await;
    let output = within("the answer", client.wait_with_output()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("You said: hello there") && text.ends_with("\n200"), "{text}");
    assert_eq!((models.requests().len(), gateway.metric("mlx_nats_dispatch_retries_total").await), (2, Some(1.0)));
}

#[tokio::test]
async fn s4_a_worker_that_dies_after_the_first_token_ends_the_stream_with_an_error() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;
    models.answer_next(Answer::stream().chat_token("Hel").silence());
    let asked = chat_with("tiny", "hello there", &json!({ "stream": true }));
    let killing = async {
        eventually("a generation", || models.generating() == 1).await;
        gateway
            .eventually("the first token", async || gateway.metric("mlx_gateway_tokens_total").await == Some(1.0))
            .await;
        gateway.kill(&gateway.worker_at_work().await).await;
    };
    let (events, ()) = tokio::join!(gateway.stream(CHAT, &asked), killing);
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!((&last["error"]["code"], &last["error"]["type"]), (&json!("WORKER_LOST"), &json!("server_error")));
    assert!(events.iter().any(|event| event.contains("Hel")), "{events:?}");
    assert_eq!((models.requests().len(), gateway.metric("mlx_nats_dispatch_retries_total").await), (1, Some(0.0)));

    // What is not streamed has no part that could be shown: a status says it.
    models.answer_next(Answer::stream().chat_token("Hel").silence());
    let client = gateway.asking(CHAT, &chat("tiny", "hello there")).spawn().unwrap();
    gateway.eventually("the first token", async || gateway.metric("mlx_gateway_tokens_total").await == Some(2.0)).await;
    gateway.kill(&gateway.worker_at_work().await).await;
    let output = within("the answer", client.wait_with_output()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("WORKER_LOST") && text.ends_with("\n503"), "{text}");
    gateway.eventually("nobody left", async || gateway.get("/healthz").await.0 == 503).await;
    assert_eq!(gateway.post(CHAT, &chat("tiny", "Hi")).await.1["error"]["code"], "no_workers");
}

#[tokio::test]
async fn a_model_server_that_fails_in_the_middle_fails_the_stream_and_is_not_asked_again() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;
    models.answer_next(Answer::stream().chat_token("Hel").pause(Duration::from_millis(50)).cut());
    let events = gateway.stream(CHAT, &chat_with("tiny", "hello there", &json!({ "stream": true }))).await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert!(last["error"]["message"].is_string(), "{events:?}");
    assert_eq!(models.requests().len(), 1);
}
