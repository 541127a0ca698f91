//! What becomes of requests that not every engine takes, or that none survives, as curl sees it.

use mlx_tests::{Answer, ModelServer};
use serde_json::{Value, json};

use crate::support::{GatewayProcess, chat, chat_with};

fn about(answer: &(u16, Value)) -> (u16, &str, &str, &str) {
    let error = &answer.1["error"];
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    (answer.0, text("code"), text("param"), text("message"))
}

#[tokio::test]
async fn r1_what_no_engine_takes_is_refused_by_its_name_to_curl() {
    let gateway = GatewayProcess::of_stand_ins(1, 1_000).await;
    let tools = json!({ "tools": [{ "type": "function", "function": { "name": "f" } }], "seed": 1 });
    for streamed in [false, true] {
        let mut body = chat_with("stand-in", "hi", &tools);
        body["stream"] = streamed.into();
        let refused = gateway.post("/v1/chat/completions", &body).await;
        let (status, code, param, message) = about(&refused);
        assert_eq!((status, code, param), (400, "unsupported_parameter", "seed"));
        assert!(message.contains("`seed`, `tools`") && message.contains("`stand-in`"), "{message}");
    }
    let picture = json!([{ "type": "image_url", "image_url": { "url": "data:" } }]);
    let body = json!({ "model": "stand-in", "messages": [{ "role": "user", "content": picture }] });
    let refused = gateway.post("/v1/chat/completions", &body).await;
    assert_eq!(about(&refused).2, "messages[0].content");
    // What changes nothing is no reason, and texts in parts are texts.
    let body = json!({
        "model": "stand-in", "n": 1, "tools": [], "presence_penalty": 0, "user": "u", "logprobs": false,
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hi" }] }],
    });
    let (status, answer) = gateway.post("/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("user: hi"), "{answer}");
}

#[tokio::test]
async fn r1_a_request_that_breaks_two_engines_is_asked_of_no_third_to_curl() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 3).await;
    // One that is cut off is asked for its words, and has none.
    (0..4).for_each(|_| models.answer_next(Answer::stream().cut()));
    let refused = gateway.post("/v1/chat/completions", &chat("tiny", "poison")).await;
    assert_eq!((about(&refused).0, about(&refused).1), (502, "REQUEST_POISONOUS"), "{refused:?}");
    let streams = models.requests().into_iter().filter(|asked| asked.body["stream"] == true);
    assert_eq!(streams.count(), 2);
    // The third worker is as well as before.
    models.answer_next(Answer::stream().chat_token("fine").chat_finish("stop").done());
    assert_eq!(gateway.post("/v1/chat/completions", &chat("tiny", "hi")).await.0, 200);
}

#[tokio::test]
async fn r1_a_prompt_that_the_bus_does_not_take_is_refused_with_its_size_and_the_key_to_curl() {
    let models = ModelServer::start();
    let engine = format!("openai={}", models.url());
    let small = [("MLX_NATS__EMBEDDED__MAX_PAYLOAD_BYTES", "65536")];
    let gateway = GatewayProcess::start(1, &["--engine", &engine], &small).await;
    let refused = gateway.post("/v1/chat/completions", &chat("tiny", &"word ".repeat(20_000))).await;
    let (status, code, _, message) = about(&refused);
    assert_eq!((status, code), (413, "NATS_PAYLOAD_TOO_LARGE"));
    assert!(message.contains("65536") && message.contains("`nats.embedded.maxPayloadBytes`"), "{message}");
    assert!(models.requests().is_empty());
}

#[tokio::test]
async fn r1_embeddings_are_the_engines_own_to_curl() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;
    let body = json!({ "model": "tiny", "input": ["one", [1, 2]], "dimensions": 2, "encoding_format": "float", "novel": { "a": 1 } });
    let (status, text) = gateway.curl("/v1/embeddings", &["--json", &body.to_string()]).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("[0.10, -1E-3]"), "as the engine wrote it: {text}");
    let seen = models.requests().remove(0);
    assert_eq!((seen.path.as_str(), seen.body), ("/v1/embeddings", body));

    // What one engine cannot do now, another may; what is wrong with the request is told at once.
    models.answer_next(Answer::refusal(503, "busy"));
    let one = json!({ "model": "tiny", "input": "one" });
    assert_eq!(gateway.post("/v1/embeddings", &one).await.0, 200);
    models.answer_next(Answer::refusal(400, "this model embeds nothing"));
    let refused = gateway.post("/v1/embeddings", &one).await;
    assert_eq!((about(&refused).0, about(&refused).1), (400, "REQUEST_REJECTED"));
    assert!(about(&refused).3.contains("embeds nothing"), "{refused:?}");
    for (body, param) in [(json!({ "model": "tiny" }), ""), (json!({ "model": 7, "input": "x" }), "model")] {
        let refused = gateway.post("/v1/embeddings", &body).await;
        assert_eq!((about(&refused).0, about(&refused).2), (400, param), "{refused:?}");
    }
    let unknown = gateway.post("/v1/embeddings", &json!({ "model": "other", "input": "x" })).await;
    assert_eq!((about(&unknown).0, about(&unknown).1), (404, "model_not_found"));
}

#[tokio::test]
async fn r1_embeddings_of_nobody_are_refused_by_name_to_curl() {
    let gateway = GatewayProcess::of_stand_ins(1, 1_000).await;
    let refused = gateway.post("/v1/embeddings", &json!({ "model": "stand-in", "input": "x" })).await;
    assert_eq!((about(&refused).0, about(&refused).2), (400, "model"));
    assert!(about(&refused).3.contains("embeddings"), "{refused:?}");
}
