//! Answers that fail: each error at the requester, with a code that says whether to ask elsewhere.

use std::time::Duration;

use mlx_errors::{Error, ErrorCode, ErrorKind};
use mlx_tests::{Answer, ModelServer, eventually};
use mlx_types::messages::InferenceRequest;
use serde_json::json;

use crate::support::{Scene, read};

/// The code as it came over the bus.
fn code(error: &Error) -> &str {
    match error.kind() {
        ErrorKind::Remote(remote) => remote.code(),
        _ => error.code().as_str(),
    }
}

#[tokio::test]
async fn a_refusal_reaches_the_requester_with_its_reason_and_whether_to_ask_elsewhere() {
    let scene = Scene::start().await;
    let page = "<html><body>Bad Gateway</body></html>";
    let cases = [
        (Answer::refusal(429, "slow down").with_header("retry-after", "7"), "OVERLOADED", true, "slow down"),
        (Answer::refusal(429, "x").with_header("retry-after", "7"), "OVERLOADED", true, "again after: 7"),
        (Answer::refusal(503, "loading model"), "OVERLOADED", true, "loading model"),
        (Answer::refusal(400, "context is full"), "REQUEST_REJECTED", false, "context is full"),
        // The model is one that the server lists: it is not the request which is at fault.
        (Answer::refusal_of(404, r#"{"error": "no such file"}"#), "WORKER_UNAVAILABLE", true, "no such file"),
        (Answer::refusal_of(422, r#"{"detail": [1]}"#), "REQUEST_REJECTED", false, "422 Unprocessable Entity: [1]"),
        (Answer::refusal_of(422, r#"{"detail": "no such role"}"#), "REQUEST_REJECTED", false, "no such role"),
        (
            Answer::refusal_of(500, "Internal Server Error: out of pages\nat line 1"),
            "MODEL_SERVER_ERROR",
            false,
            "out of pages",
        ),
        (Answer::refusal_of(200, r#"{"error": {"message": "no room"}}"#), "MODEL_SERVER_ERROR", false, "no room"),
        (Answer::refusal(500, "out of memory"), "MODEL_SERVER_ERROR", false, "out of memory"),
        (Answer::refusal_of(502, page), "WORKER_UNAVAILABLE", true, "502 Bad Gateway"),
        (
            Answer::refusal(302, "moved").with_header("location", "http://127.0.0.1:9/"),
            "MODEL_SERVER_ERROR",
            false,
            "302",
        ),
    ];
    for (answer, expected, retryable, words) in cases {
        scene.models.answer_next(answer.clone());
        let (tokens, error) = scene.failure().await;
        assert_eq!((code(&error), error.is_retryable()), (expected, retryable), "{answer:?}");
        assert!(error.to_string().contains(words), "{answer:?}: {error}");
        assert!(tokens.is_empty() && !error.to_string().contains("<html>"), "{error}");
    }
    assert_eq!(scene.answer().await.text(), "You said: hello there", "and the worker goes on");
    scene.end().await;
}

#[tokio::test]
async fn an_error_in_mid_stream_comes_after_the_tokens_before_it() {
    let scene = Scene::start().await;
    let error = json!({ "error": { "message": "the context is full", "code": 500 } });
    scene.models.answer_next(Answer::stream().chat_token("a").chat_token("b").event(&error).silence());
    let (tokens, error) = scene.failure().await;
    assert_eq!((tokens.concat().as_str(), code(&error), error.is_retryable()), ("ab", "MODEL_SERVER_ERROR", false));
    assert!(error.to_string().contains("the context is full"), "{error}");
    eventually("the end of the request", || scene.models.generating() == 0).await;
    scene.end().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_retried_only_before_its_first_token() {
    let scene = Scene::start().await;
    let begun = || Answer::stream().bytes(": thinking\n\n");
    let cases = [
        (begun().cut(), "", "ENGINE_BROKEN", true),
        (begun(), "", "ENGINE_BROKEN", true),
        (begun().done(), "", "WORKER_UNAVAILABLE", true),
        (begun().chat_token("a").cut(), "a", "MODEL_SERVER_ERROR", false),
        (begun().chat_token("a"), "a", "MODEL_SERVER_ERROR", false),
    ];
    for (answer, text, expected, retryable) in cases {
        scene.models.answer_next(answer.clone());
        let (tokens, error) = scene.failure().await;
        assert_eq!(tokens.concat(), text, "{answer:?}");
        assert_eq!((code(&error), error.is_retryable()), (expected, retryable), "{answer:?}");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_no_reason_not_to_ask_elsewhere() {
    let mut scene = Scene::start().await;
    let address = scene.models.address().to_string();
    scene.models.take_down().await;
    let (_, error) = scene.failure().await;
    assert_eq!((code(&error), error.is_retryable()), ("WORKER_UNAVAILABLE", true));
    assert!(error.to_string().contains("cannot be reached") && !error.to_string().contains(&address), "{error}");
    eventually("the address, in the log", || scene.worker.log().contains(&address)).await;
    scene.models.bring_up();
    assert_eq!(scene.answer().await.text(), "You said: hello there");
    scene.end().await;
}

#[tokio::test]
async fn s1_silence_ends_in_the_configured_time_and_the_request_with_it() {
    let limits = [("MLX_STREAMING__FIRST_TOKEN_TIMEOUT_MS", "1500"), ("MLX_STREAMING__INTER_TOKEN_TIMEOUT_MS", "1000")];
    let scene = Scene::with(ModelServer::start(), &[], &limits).await;
    // Signs of life that bring nothing change nothing: the requester sees none of them.
    let busy = |answer| {
        (0..200).fold(answer, |answer: Answer, _| {
            let empty = json!({ "choices": [{ "delta": { "role": "assistant" } }] });
            answer.bytes(": keepalive\n\n").event(&empty).pause(Duration::from_millis(20)) // the server's own time
        })
    };
    let cases = [
        (Answer::stream().silence(), ErrorCode::StreamFirstTokenTimeout, 0, "1500 ms"),
        (busy(Answer::stream()), ErrorCode::StreamFirstTokenTimeout, 0, "1500 ms"),
        (Answer::stream().chat_token("a").silence(), ErrorCode::StreamInterTokenTimeout, 1, "1000 ms"),
        (busy(Answer::stream().chat_token("a")), ErrorCode::StreamInterTokenTimeout, 1, "1000 ms"),
    ];
    for (number, (answer, expected, before, words)) in cases.into_iter().enumerate() {
        scene.models.answer_next(answer);
        let (tokens, error) = scene.failure().await;
        assert_eq!((error.code(), tokens.len()), (expected, before), "case {number}");
        assert!(error.to_string().contains(words), "{error}");
        eventually("the end of the request", || scene.models.abandoned() == number + 1).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn what_is_not_the_protocol_is_named_without_being_quoted() {
    let scene = Scene::start().await;
    let cases = [
        Answer::stream().chat_token("a").bytes("data: {\"choices\": \"a secret answer\"}\n\n"),
        Answer::stream().chat_token("a").bytes("data: a secret answer\n\n"),
        Answer::stream().chat_token("a").bytes(b"data: a secret answer \xff\n\n"),
        Answer::refusal_of(200, r#"{"choices": [{"message": {"content": "a secret answer"}}]}"#),
    ];
    for answer in cases {
        scene.models.answer_next(answer.clone());
        let (_, error) = scene.failure().await;
        assert_eq!((code(&error), error.is_retryable()), ("MODEL_SERVER_ERROR", false), "{answer:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert!(!scene.worker.log().contains("secret"), "{}", scene.worker.log());
    scene.end().await;
}

#[tokio::test]
async fn an_event_without_an_end_ends_the_request() {
    let scene = Scene::start().await;
    let endless = (0..64).fold(Answer::stream().chat_token("a").bytes("data: "), |answer, _| {
        answer.bytes(vec![b'x'; 1 << 20]) // as much as a worker must not take
    });
    scene.models.answer_next(endless.silence());
    let (tokens, error) = scene.failure().await;
    assert_eq!((tokens.len(), code(&error)), (1, "MODEL_SERVER_ERROR"));
    eventually("the reason, in the log", || scene.worker.log().contains("more than 4194304 bytes")).await;
    eventually("the end of the request", || scene.models.abandoned() == 1).await;
    scene.end().await;
}

#[tokio::test]
async fn a_model_that_was_not_listed_is_refused_before_the_server_is_asked() {
    let scene = Scene::start().await;
    let answered = read(scene.ask(&InferenceRequest::new("huge", "p")).await).await;
    let error = answered.ended.unwrap_err();
    assert_eq!((code(&error), error.is_retryable()), ("REQUEST_REJECTED", false));
    assert!(error.to_string().contains("no model `huge`; it has: tiny"), "{error}");
    assert!(scene.models.requests().is_empty(), "some servers fetch what they do not have");
    scene.end().await;
}
