//! What is given up, and what is refused.

use futures_util::StreamExt;
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_nats::InferenceOptions;
use mlx_tests::{TEST_MODEL, millis, within};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{WorkerId, subjects};
use serde_json::{Value, json};

use crate::support::{MODEL, Server, deliveries, drain, echo, frames, held, indexes, queued, request};

#[tokio::test]
async fn a_request_that_no_worker_survives_becomes_a_dead_letter() {
    let server = Server::start().await;
    let client = server.client_with(|settings| settings.ack_wait_ms = millis(200)).await;
    let request = indexes(3);
    let stream = client.infer_durable(&request).await.unwrap();
    let answer = tokio::spawn(drain(stream));
    // Each takes it, and dies of it.
    for _ in 0..3 {
        let before = deliveries(&client, TEST_MODEL).await;
        let mut victim = server.worker(&["--preparation-ms", "3600000"]);
        within("its turn", async {
            while deliveries(&client, TEST_MODEL).await == before {
                // Between two looks at something that cannot wake us.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        victim.kill();
    }
    // Whoever comes next gives it up.
    let _next = server.worker(&["--preparation-ms", "3600000"]);
    let error = answer.await.unwrap().error.unwrap();
    assert_eq!(error.code(), ErrorCode::RequestDead, "{error}");
    assert!(!error.is_retryable());
    queued(&client, 0).await;
    // Nobody listened when it was given up.
    let letter = dead_letter(&client, "inference.dead.indexes").await;
    assert_eq!(letter.headers["Mlx-Deliveries"], "3");
    assert_eq!(letter.headers["Mlx-Dead-Code"], "NATS_JETSTREAM_ERROR");
    assert_eq!(letter.payload, serde_json::to_vec(&request).unwrap());
}

#[tokio::test]
async fn a_dead_letter_that_is_too_large_with_its_reason_is_kept_without_its_payload() {
    let server = Server::start().await;
    let client = server.client().await;
    let limit = server.server.foreign_client().await.server_info().max_payload;
    let (_service, _) = echo(&client).await;
    let mut frames = frames(&client).await;
    let id = request("p").request_id;
    let mut poison = json!({ "requestId": id, "prompt": 7, "rest": "" });
    poison["rest"] = "x".repeat(limit - poison.to_string().len()).into();
    client.publish(subjects::inference_queue(MODEL).unwrap().as_str(), &poison).await.unwrap();
    let frame = within("the refusal", frames.next()).await.unwrap().unwrap();
    let mlx_types::messages::StreamingResponse::Error { request_id, code, .. } = &*frame else { panic!("{frame:?}") };
    assert_eq!((*request_id, code.as_str()), (id, "MESSAGE_DECODE_ERROR"));
    queued(&client, 0).await;
    let letter = dead_letter(&client, "inference.dead.*").await;
    assert_eq!(letter.headers["Mlx-Dead-Omitted-Bytes"], limit.to_string());
    assert_eq!(letter.headers["Mlx-Dead-Code"], "MESSAGE_DECODE_ERROR");
    assert_eq!(letter.headers["Nats-Msg-Id"], format!("dead-{id}"));
    assert!(letter.payload.is_empty());
}

#[tokio::test]
async fn a_worker_may_be_without_a_limit() {
    let server = Server::start().await;
    let client = server.client().await;
    let unlimited = InferenceOptions::default().max_concurrent(usize::MAX);
    let _service = client
        .serve_durable(WorkerId::new(), [MODEL], unlimited, |_, _| async { Ok(FinishReason::Stop) })
        .await
        .unwrap();
    assert_eq!(drain(client.infer_durable(&request("p")).await.unwrap()).await.text(), "");
}

#[tokio::test]
async fn what_is_no_request_becomes_a_dead_letter_too() {
    let server = Server::start().await;
    let client = server.client().await;
    let (_service, runs) = echo(&client).await;
    let mut frames = frames(&client).await;
    let id = request("p").request_id;
    let subject = subjects::inference_queue(MODEL).unwrap().to_string();
    client.publish(&subject, &json!({ "requestId": id, "prompt": 7 })).await.unwrap();
    client.publish(&subject, &json!("nonsense")).await.unwrap();
    let frame = within("the refusal", frames.next()).await.unwrap().unwrap();
    let mlx_types::messages::StreamingResponse::Error { request_id, code, .. } = &*frame else { panic!("{frame:?}") };
    assert_eq!((*request_id, code.as_str()), (id, "MESSAGE_DECODE_ERROR"));
    queued(&client, 0).await;
    assert_eq!(held(&client, "MLX_INFERENCE_DEAD").await, 2);
    assert_eq!(runs.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_full_queue_refuses_what_is_new_and_keeps_what_it_took() {
    let server = Server::start().await;
    let client = server.client_with(|settings| settings.max_bytes = 1 << 20).await;
    let large = || request(&"x".repeat(300 << 10));
    let mut streams = Vec::new();
    let refused = loop {
        match client.infer_durable(&large()).await {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), ErrorCode::NatsJetStream);
    assert!(refused.to_string().contains("requestRouting.durable.maxBytes"), "{refused}");
    assert_eq!(streams.len(), 3);
    let (_service, _) = echo(&client).await;
    for stream in streams {
        assert_eq!(drain(stream).await.text().len(), 300 << 10);
    }
}

#[tokio::test]
async fn s1_a_request_that_nobody_takes_ends_and_leaves_the_queue() {
    let server = Server::start().await;
    let client = server.client_with(|settings| settings.first_token_timeout_ms = millis(300)).await;
    let error = drain(client.infer_durable(&request("p")).await.unwrap()).await.error.unwrap();
    assert_eq!(error.code(), ErrorCode::StreamFirstTokenTimeout);
    queued(&client, 0).await;
}

#[tokio::test]
async fn a_model_without_end_and_a_prompt_too_large_are_errors_before_anything_is_sent() {
    let server = Server::start().await;
    let client = server.client().await;
    let error = client.infer_durable(&InferenceRequest::new("m".repeat(5000), "p")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SubjectInvalid);
    let error = client.infer_durable(&request(&"x".repeat(9 << 20))).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::PayloadTooLarge { .. }), "{error}");
    assert_eq!(held(&client, "MLX_INFERENCE").await, 0);
}

struct Letter {
    headers: std::collections::HashMap<String, String>,
    payload: Vec<u8>,
}

/// The last dead letter on `subject`.
async fn dead_letter(client: &mlx_nats::Client, subject: &str) -> Letter {
    let get = json!({ "last_by_subj": subject });
    let found: Value = client.request("$JS.API.STREAM.MSG.GET.MLX_INFERENCE_DEAD", &get).await.unwrap();
    let bytes = |field: &str| {
        let text = found["message"][field].as_str().unwrap_or_else(|| panic!("{found}"));
        data_encoding::BASE64.decode(text.as_bytes()).unwrap()
    };
    let headers = String::from_utf8(bytes("hdrs")).unwrap();
    let headers = headers.lines().filter_map(|line| line.split_once(": "));
    Letter {
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        payload: if found["message"]["data"].is_null() { Vec::new() } else { bytes("data") },
    }
}
