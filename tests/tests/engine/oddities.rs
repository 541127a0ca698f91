//! What real model servers do, and what must become of it: each is one of the faults that were seen in the field.

use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind};
use mlx_tests::{Answer, ModelServer, eventually};
use mlx_types::messages::{ChatMessage, FinishReason, InferenceRequest, Usage, WorkerStatus};
use serde_json::{Value, json};

use crate::support::{MODEL, Scene, read};

fn code(error: &Error) -> &str {
    match error.kind() {
        ErrorKind::Remote(remote) => remote.code(),
        _ => error.code().as_str(),
    }
}

/// A token, with a reason to stop in the same event.
fn token(text: &str, reason: &Value) -> Value {
    json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": reason }] })
}

#[tokio::test]
async fn an_empty_finish_reason_in_every_event_ends_nothing() {
    let scene = Scene::start().await;
    let all = Answer::stream().event(&token("a", &json!(""))).event(&token("b", &json!(""))).chat_finish("stop").done();
    scene.models.answer_next(all);
    let answered = scene.answer().await;
    assert_eq!((answered.text().as_str(), answered.reason()), ("ab", FinishReason::Stop));

    // One that says it too early takes it back by going on.
    let early = Answer::stream().event(&token("a", &json!("stop"))).event(&token("b", &json!("length"))).done();
    scene.models.answer_next(early);
    let answered = scene.answer().await;
    assert_eq!((answered.text().as_str(), answered.reason()), ("ab", FinishReason::Length));
    scene.end().await;
}

#[tokio::test]
async fn an_engine_that_gives_up_is_no_success() {
    let scene = Scene::start().await;
    let event = b"event: error\ndata: {\"message\": \"out of pages\"}\n\n".to_vec();
    let cases = [
        (Answer::stream().chat_token("a").chat_finish("abort").done(), "a", "MODEL_SERVER_ERROR", false, "`abort`"),
        (Answer::stream().chat_finish("error").done(), "", "MODEL_SERVER_ERROR", false, "`error`"),
        (Answer::stream().chat_token("a").bytes(event).done(), "a", "MODEL_SERVER_ERROR", false, "out of pages"),
        // The end without a reason: broken off, whatever follows.
        (Answer::stream().done(), "", "WORKER_UNAVAILABLE", true, "ends in the middle"),
        (Answer::stream().chat_token("a").done(), "a", "MODEL_SERVER_ERROR", false, "ends in the middle"),
    ];
    for (answer, text, expected, retryable, words) in cases {
        scene.models.answer_next(answer.clone());
        let (tokens, error) = scene.failure().await;
        assert_eq!((tokens.concat().as_str(), code(&error)), (text, expected), "{answer:?}: {error}");
        assert_eq!(error.is_retryable(), retryable, "{answer:?}");
        assert!(error.to_string().contains(words), "{answer:?}: {error}");
    }
    scene.end().await;
}

#[tokio::test]
async fn spaces_around_the_end_are_no_fault() {
    let scene = Scene::start().await;
    scene.models.answer_next(Answer::stream().chat_token("a").chat_finish("stop").bytes("data: [DONE] \n\n"));
    assert_eq!(scene.answer().await.text(), "a");
    scene.end().await;
}

#[tokio::test]
async fn a_developer_is_a_system_to_engines() {
    let scene = Scene::start().await;
    let messages = vec![ChatMessage::new("developer", "Be brief."), ChatMessage::new("user", "hi")];
    read(scene.ask(&InferenceRequest::new(MODEL, "p").messages(messages)).await).await.ended.unwrap();
    let seen = scene.models.requests().remove(0).body;
    assert_eq!(seen["messages"][0], json!({ "role": "system", "content": "Be brief." }), "{seen}");
    assert_eq!(seen["messages"][1]["role"], "user");
    scene.end().await;
}

/// The list is asked for every 5 s, and some servers break an answer off for it.
#[tokio::test]
async fn an_engine_that_answers_is_not_asked_for_its_models() {
    let scene = Scene::start().await;
    let long = (0..70).fold(Answer::stream(), |answer, _| answer.chat_token("a").pause(Duration::from_millis(100)));
    scene.models.answer_next(long.chat_finish("stop").done());
    let request = InferenceRequest::new(MODEL, "p");
    let stream = scene.ask(&request).await;
    eventually("an answer under way", || scene.models.generating() == 1).await;
    let before = scene.models.listings();
    let answered = read(stream).await;
    let during = scene.models.listings() - before;
    assert_eq!((answered.text().len(), during), (70, 0), "in 7 s it would have been asked once");
    eventually("it is asked again", || scene.models.listings() > before).await;
    scene.end().await;
}

#[tokio::test]
async fn what_an_answer_costs_is_what_the_engine_counts() {
    let scene = Scene::start().await;
    let figures =
        json!({ "prompt_tokens": 12, "completion_tokens": 40, "prompt_tokens_details": { "cached_tokens": 3 } });
    let counted = json!({ "choices": [], "usage": figures });
    scene.models.answer_next(Answer::stream().chat_token("ab").chat_finish("stop").event(&counted).done());
    assert_eq!(usage(&scene).await, Usage::default().prompt_tokens(12).completion_tokens(40).cached_tokens(3));
    assert_eq!(scene.models.requests()[0].body["stream_options"], json!({ "include_usage": true }));

    // In the last event itself, and with members that are no numbers.
    let last = json!({
        "choices": [{ "delta": {}, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 7, "completion_tokens": "many" }
    });
    scene.models.answer_next(Answer::stream().chat_token("a").event(&last).done());
    assert_eq!(usage(&scene).await, Usage::default().prompt_tokens(7));

    // A server that refuses to be asked is asked without, from then on.
    let refusal = r#"{"detail": "Unexpected fields in the request: {'stream_options'}"}"#;
    scene.models.answer_next(Answer::refusal_of(422, refusal));
    scene.answer().await.ended.unwrap();
    scene.answer().await.ended.unwrap();
    let asked: Vec<bool> =
        scene.models.requests().iter().map(|asked| asked.body.get("stream_options").is_some()).collect();
    assert_eq!(asked, [true, true, true, false, false]);
    scene.end().await;
}

async fn usage(scene: &Scene) -> Usage {
    let mut stream = scene.ask(&InferenceRequest::new(MODEL, "p")).await;
    while let Some(token) = stream.next().await {
        token.unwrap();
    }
    stream.summary().unwrap().usage.unwrap()
}

/// It shows in the log, in the table of workers, and in whom requests go to.
#[tokio::test]
async fn a_server_that_lists_models_and_says_that_it_is_not_well_is_degraded() {
    let models = ModelServer::start();
    models.set_health(200);
    let scene = Scene::with(models, &[], &[]).await;
    scene.until("a worker that is well", |worker| worker.status == WorkerStatus::Online).await;
    scene.models.set_health(503);
    scene.until("a degraded worker", |worker| worker.status == WorkerStatus::Degraded).await;
    eventually("the server's words", || scene.worker.log().contains("not well: 503 Service Unavailable: unavailable"))
        .await;
    scene.models.set_health(200);
    scene.until("a worker that is well again", |worker| worker.status == WorkerStatus::Online).await;
    scene.end().await;
}

/// llama-cpp-python streams nothing at all where a prompt is too long for it.
#[tokio::test]
async fn an_answer_without_anything_is_asked_for_its_words() {
    let scene = Scene::start().await;
    for empty in [Answer::stream(), Answer::stream().cut()] {
        scene.models.answer_next(empty);
        scene.models.answer_next(Answer::refusal(400, "5000 tokens exceed the window of 4096"));
        let (_, error) = scene.failure().await;
        assert_eq!((code(&error), error.is_retryable()), ("REQUEST_REJECTED", false), "{error}");
        assert!(error.to_string().contains("exceed the window"), "{error}");
        let asked = scene.models.requests().pop().unwrap().body;
        assert_eq!((&asked["stream"], &asked["max_tokens"]), (&json!(false), &json!(1)), "{asked}");
    }
    // Words about the moment are none about the request.
    scene.models.answer_next(Answer::stream());
    scene.models.answer_next(Answer::refusal(503, "busy"));
    assert_eq!(code(&scene.failure().await.1), "ENGINE_BROKEN");
    scene.end().await;
}

/// What a model thinks before it answers comes to whoever asks, and shows that the server is at it.
#[tokio::test]
async fn thinking_is_a_sign_of_life() {
    let limits = [("MLX_STREAMING__FIRST_TOKEN_TIMEOUT_MS", "1500"), ("MLX_STREAMING__INTER_TOKEN_TIMEOUT_MS", "1500")];
    let scene = Scene::with(ModelServer::start(), &[], &limits).await;
    let thought = json!({ "choices": [{ "index": 0, "delta": { "reasoning_content": "hm" }, "finish_reason": null }] });
    let thinking = (0..8).fold(Answer::stream(), |answer, _| {
        answer.event(&thought).pause(Duration::from_millis(500)) // the server's own time: four seconds in all
    });
    scene.models.answer_next(thinking.chat_token("A").chat_finish("stop").done());
    let mut tokens = scene.ask(&InferenceRequest::new(MODEL, "hi")).await;
    let (mut thoughts, mut text) = (0, String::new());
    while let Some(frame) = tokens.next().await {
        let frame = frame.unwrap();
        thoughts += usize::from(frame.delta.is_some_and(|delta| delta.as_json().contains("reasoning_content")));
        text.push_str(&frame.text);
    }
    assert_eq!((thoughts, text.as_str()), (8, "A"));
    scene.end().await;
}
