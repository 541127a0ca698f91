//! A prompt is larger than the server takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_errors::{ErrorCode, ErrorKind};
use mlx_nats::InferenceOptions;
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{WorkerId, subjects};

use crate::support::{Controller, QUICK, read};

const LIMIT_BYTES: usize = 64 * 1024;

#[tokio::test]
async fn c9_a_prompt_over_the_limit_is_refused_before_it_is_sent_and_smaller_ones_pass() {
    let yaml = QUICK.replace("httpPort: 0", &format!("httpPort: 0, maxPayloadBytes: {LIMIT_BYTES}"));
    let controller = Controller::start(&yaml).await;
    let client = controller.node().client();
    assert_eq!(client.max_payload(), LIMIT_BYTES);

    let id = WorkerId::new();
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let _service = client
        .serve_inference(id, InferenceOptions::default(), move |request, mut tokens| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                assert!(request.prompt.bytes().all(|byte| byte == b'p'), "the prompt came whole");
                tokens.send("0").await?;
                Ok(FinishReason::Stop)
            }
        })
        .await
        .unwrap();
    let ask = async |bytes: usize| client.infer(id, &InferenceRequest::new("m", "p".repeat(bytes))).await;

    let error = ask(LIMIT_BYTES + 1).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsPayloadTooLarge, "{error}");
    let ErrorKind::PayloadTooLarge { subject, size, limit } = error.kind() else { panic!("{error}") };
    assert_eq!(subject, subjects::worker_inference(id).as_str());
    assert_eq!(*limit, LIMIT_BYTES);
    assert!(*size > LIMIT_BYTES + 1 && *size < LIMIT_BYTES + 512, "the prompt, its JSON and its headers: {size}");
    let text = error.to_string();
    assert!(text.contains(&size.to_string()) && text.contains(&limit.to_string()), "{text}");
    assert!(!error.is_retryable(), "it would be too large again");

    // To the byte: the largest that passes, and one more.
    let beside = size - (LIMIT_BYTES + 1);
    let largest = LIMIT_BYTES - beside;
    assert_eq!(read(ask(largest).await.unwrap()).await.complete(), 1);
    assert_eq!(ask(largest + 1).await.unwrap_err().code(), ErrorCode::NatsPayloadTooLarge);
    assert_eq!(read(ask(10).await.unwrap()).await.complete(), 1);
    assert_eq!(served.load(Ordering::Relaxed), 2, "what was refused did not reach the worker");
    assert!(client.state().is_connected());
    controller.shutdown().await;
}
