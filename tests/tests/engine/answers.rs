//! Answers that are whole, however the server puts them.

use std::time::Duration;

use mlx_tests::{Answer, ModelServer};
use mlx_types::messages::{ChatMessage, FinishReason, InferenceRequest};
use serde_json::json;

use crate::support::{MODEL, Scene, read};

#[tokio::test]
async fn a_chat_is_answered_token_by_token_with_what_was_asked_for() {
    let scene = Scene::start().await;
    let messages = vec![ChatMessage::new("system", "Be brief."), ChatMessage::new("user", "what is a bus")];
    let request = InferenceRequest::new(MODEL, "for workers that read no messages")
        .messages(messages)
        .max_tokens(64)
        .temperature(0.5)
        .top_p(0.9);
    let answered = read(scene.ask(&request).await).await;
    assert_eq!(answered.tokens, ["You ", "said: ", "what ", "is ", "a ", "bus"]);
    assert_eq!(answered.reason(), FinishReason::Stop);

    let [asked] = &scene.models.requests()[..] else { panic!("one request") };
    assert_eq!((asked.path.as_str(), &asked.authorization), ("/v1/chat/completions", &None));
    let messages =
        json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "what is a bus" }]);
    let body = json!({
        "model": MODEL, "stream": true, "stream_options": { "include_usage": true }, "messages": messages, "max_tokens": 64, "temperature": 0.5, "top_p": 0.9
    });
    assert_eq!(asked.body, body);
    scene.end().await;
}

#[tokio::test]
async fn a_prompt_is_a_chat_of_one_message_and_what_is_unset_is_left_out() {
    let scene = Scene::start().await;
    assert_eq!(scene.answer().await.text(), "You said: hello there");
    let body = json!({ "model": MODEL, "stream": true, "stream_options": { "include_usage": true }, "messages": [{ "role": "user", "content": "hello there" }] });
    assert_eq!(scene.models.requests()[0].body, body);
    scene.end().await;
}

#[tokio::test]
async fn a_prompt_goes_as_it_is_where_completions_are_asked_for() {
    let scene = Scene::with(ModelServer::start(), &["--engine-api", "completions"], &[]).await;
    let request = InferenceRequest::new(MODEL, "hello there").max_tokens(3);
    let answered = read(scene.ask(&request).await).await;
    assert_eq!(answered.tokens, ["You ", "said: ", "hello "]);
    assert_eq!(answered.reason(), FinishReason::Length);
    let asked = &scene.models.requests()[0];
    assert_eq!(asked.path, "/v1/completions");
    assert_eq!(
        asked.body,
        json!({ "model": MODEL, "stream": true, "stream_options": { "include_usage": true }, "prompt": "hello there", "max_tokens": 3 })
    );
    scene.end().await;
}

#[tokio::test]
async fn characters_that_come_in_pieces_arrive_whole() {
    const TEXT: &str = "naïve 日本語 🦀";
    let scene = Scene::start().await;
    let event = format!("data: {}\r\n\r\n", json!({ "choices": [{ "delta": { "content": TEXT } }] }));
    let by_bytes = event.into_bytes().into_iter().fold(Answer::stream(), |answer, byte| {
        answer.bytes([byte]).pause(Duration::from_millis(1)) // so that each is a packet of its own
    });
    scene.models.answer_next(by_bytes.chat_finish("stop").done());
    assert_eq!(scene.answer().await.tokens, [TEXT]);
    scene.end().await;
}

#[tokio::test]
async fn comments_empty_pieces_and_figures_are_no_tokens() {
    let scene = Scene::start().await;
    let delta = |delta| json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] });
    let answer = Answer::stream()
        .bytes(": keepalive 1/2\n\n")
        .event(&delta(json!({ "role": "assistant" })))
        .event(&delta(json!({ "role": "assistant", "content": "" })))
        .event(&delta(json!({ "content": null })))
        .bytes("event: message\nid: 7\nretry: 10\ndata:\n\n")
        .chat_token("one ")
        .bytes(":\n\n")
        .event(&delta(json!({ "content": "two", "reasoning_content": "unseen" })))
        .event(&json!({ "choices": [{ "delta": {}, "finish_reason": "length" }] }))
        .event(&json!({ "choices": [], "usage": { "total_tokens": 2 } }))
        .done();
    scene.models.answer_next(answer);
    let answered = scene.answer().await;
    assert_eq!(answered.tokens, ["one ", "two"]);
    assert_eq!(answered.reason(), FinishReason::Length);
    scene.end().await;
}

#[tokio::test]
async fn an_answer_is_whole_by_its_reason() {
    let scene = Scene::start().await;
    let one = || Answer::stream().chat_token("one");
    // Without `[DONE]`; with a last piece that has both text and reason; with a connection that
    // breaks, or stays open, after all has been said.
    let last = json!({ "choices": [{ "delta": { "content": " two" }, "finish_reason": "stop" }] });
    let answers = [
        (one().chat_finish("stop"), "one"),
        (one().event(&last), "one two"),
        (one().chat_finish("stop").cut(), "one"),
        (one().chat_finish("stop").silence(), "one"),
        (one().chat_finish("stop").done().silence(), "one"),
        (Answer::stream().chat_finish("stop").done(), ""),
    ];
    for (answer, text) in answers {
        scene.models.answer_next(answer.clone());
        let answered = scene.answer().await;
        assert_eq!(answered.text(), text, "{answer:?}");
        assert_eq!(answered.reason(), FinishReason::Stop, "{answer:?}");
    }
    scene.end().await;
}
