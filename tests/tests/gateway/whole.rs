//! What a client asks of an engine, and what the engine answers, through the gateway and past it: the same, for OpenAI's own clients.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use mlx_tests::{Answer, ModelServer, within};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::GatewayProcess;

/// A request, and the events by which an engine answers it.
struct Exchange {
    name: &'static str,
    /// Members that the clients know by name.
    body: Value,
    /// Members of engines' own.
    extra: Value,
    events: Vec<Value>,
}

fn choice(index: u64, delta: &Value, finish_reason: Option<&str>) -> Value {
    json!({ "choices": [{ "index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason }] })
}

fn usage() -> Value {
    let details = json!({ "cached_tokens": 3 });
    json!({ "choices": [], "usage": {
        "prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30, "prompt_tokens_details": details,
    } })
}

fn call(index: u64, members: &Value) -> Value {
    let mut call = json!({ "index": index });
    call.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    choice(0, &json!({ "tool_calls": [call] }), None)
}

fn user(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}

fn exchanges() -> Vec<Exchange> {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    let tools = json!([{ "type": "function", "function": { "name": "weather", "parameters": parameters } }]);
    let calls = json!([{ "id": "c1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Rome\"}" } }]);
    let schema =
        json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": parameters, "strict": true } });
    let picture =
        json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low" } });
    let said = |text: &str, logprob: f64| {
        let top = json!([{ "token": text, "logprob": logprob, "bytes": [65] }, { "token": "é", "logprob": -7.250_000_1, "bytes": null }]);
        let logprobs = json!({ "content": [{ "token": text, "logprob": logprob, "bytes": [65], "top_logprobs": top }], "refusal": null });
        json!({ "choices": [{ "index": 0, "delta": { "content": text }, "logprobs": logprobs, "finish_reason": null }] })
    };
    let text = |text: &str| choice(0, &json!({ "content": text }), None);
    let begin = || choice(0, &json!({ "role": "assistant", "content": "" }), None);
    let end = |reason: &str| choice(0, &json!({}), Some(reason));
    vec![
        Exchange {
            name: "tools, with arguments in parts and a second call",
            body: json!({ "model": "tiny", "messages": [user("Rome and Oslo?")], "tools": tools, "tool_choice": "auto", "parallel_tool_calls": true }),
            extra: json!({}),
            events: vec![
                choice(0, &json!({ "role": "assistant", "content": null }), None),
                call(0, &json!({ "id": "c1", "type": "function", "function": { "name": "weather", "arguments": "" } })),
                call(0, &json!({ "function": { "arguments": "{\"city\":" } })),
                call(0, &json!({ "function": { "arguments": " \"Rome\"}" } })),
                call(
                    1,
                    &json!({ "id": "c2", "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Oslo\"}" } }),
                ),
                end("tool_calls"),
                usage(),
            ],
        },
        Exchange {
            name: "the results of tools, in a second turn",
            body: json!({ "model": "tiny", "tools": tools, "messages": [
                user("Rome?"),
                { "role": "assistant", "content": null, "tool_calls": calls },
                { "role": "tool", "tool_call_id": "c1", "content": "warm" },
            ] }),
            extra: json!({}),
            events: vec![begin(), text("It is "), text("warm."), end("stop"), usage()],
        },
        Exchange {
            name: "JSON by a schema",
            body: json!({ "model": "tiny", "messages": [user("Where?")], "response_format": schema, "temperature": 0.25, "top_p": 0.9 }),
            extra: json!({}),
            events: vec![begin(), text("{\"city\":"), text("\"Rome\"}"), end("stop"), usage()],
        },
        Exchange {
            name: "an image",
            body: json!({ "model": "tiny", "messages": [
                { "role": "system", "content": "Be brief." },
                { "role": "user", "content": [{ "type": "text", "text": "What is it?" }, picture], "name": "ann" },
            ] }),
            extra: json!({}),
            events: vec![begin(), text("A cat."), end("stop"), usage()],
        },
        Exchange {
            name: "log probabilities",
            body: json!({ "model": "tiny", "messages": [user("A?")], "logprobs": true, "top_logprobs": 2, "max_tokens": 2 }),
            extra: json!({}),
            events: vec![begin(), said("A", -0.123_456_789_012_345_67), said("B", -1e-9), end("length"), usage()],
        },
        Exchange {
            name: "two answers in one",
            body: json!({ "model": "tiny", "messages": [user("A?")], "n": 2, "seed": 7 }),
            extra: json!({}),
            events: vec![
                // In this order: the Python client cannot begin with another answer than the first.
                choice(0, &json!({ "role": "assistant", "content": "" }), None),
                choice(1, &json!({ "role": "assistant", "content": "" }), None),
                choice(0, &json!({ "content": "one" }), None),
                choice(1, &json!({ "content": "two" }), None),
                choice(1, &json!({ "content": " more" }), None),
                choice(0, &json!({}), Some("stop")),
                choice(1, &json!({}), Some("length")),
                usage(),
            ],
        },
        Exchange {
            name: "what engines know beside, and what they think before they answer",
            body: json!({
                "model": "tiny", "messages": [user("A?")], "seed": 123_456_789_012_345_u64, "presence_penalty": 0.5,
                "frequency_penalty": -0.5, "logit_bias": { "50256": -100 }, "stop": ["\n\n"], "user": "u1",
                "reasoning_effort": "low",
            }),
            extra: json!({ "top_k": 40, "min_p": 0.05, "chat_template_kwargs": { "enable_thinking": true } }),
            events: vec![
                begin(),
                // In one piece: of members that it does not know, the JavaScript client keeps the last piece.
                choice(0, &json!({ "reasoning_content": "Hm, A." }), None),
                text("A"),
                end("stop"),
                usage(),
            ],
        },
    ]
}

/// The answer of these events, each with what every one has.
fn scripted(events: &[Value], object: &str) -> Answer {
    let whole = |event: &Value| {
        let mut event = event.clone();
        let members = json!({ "id": "e1", "object": object, "created": 1_700_000_000, "model": "tiny" });
        event.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        event
    };
    events.iter().fold(Answer::stream(), |answer, event| answer.event(&whole(event))).done()
}

/// What of the client's request is not the same at the engine: the docs name it.
fn as_the_engine_sees_it(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    body
}

/// Has `client` ask at two addresses: it is told the same, and asks the same of the model server.
async fn same_either_way(client: impl AsyncFn(String, &'static str, Value, Value) -> Value) {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 1).await;
    for Exchange { name, body, extra, events } in exchanges() {
        let answer = || scripted(&events, "chat.completion.chunk");
        models.answer_next(answer());
        let direct = client(models.url(), "streamed", body.clone(), extra.clone()).await;
        let asked = as_the_engine_sees_it(models.requests().pop().unwrap().body);
        for how in ["streamed", "whole"] {
            models.answer_next(answer());
            let through = client(gateway.url("/v1"), how, body.clone(), extra.clone()).await;
            assert_eq!(known(&through), known(&direct), "{name}, {how}");
            assert_eq!(models.requests().pop().unwrap().body, asked, "{name}, {how}");
        }
    }
}

/// The members that say something, of choices and usage: clients fill the others in as they like.
fn known(answer: &Value) -> Value {
    match answer {
        Value::Object(members) => {
            // The clients' own: the parsed form of a text, and the place of a call, which only streams have.
            let own = ["parsed", "parsed_arguments", "function_call", "index"];
            let said = members.iter().filter(|(name, value)| {
                !own.contains(&name.as_str())
                    && !matches!(value, Value::Null)
                    && **value != json!([])
                    && **value != json!("")
            });
            said.map(|(name, value)| (name.clone(), known(value))).collect()
        }
        Value::Array(values) => values.iter().map(known).collect(),
        value => value.clone(),
    }
}

async fn output(mut command: Command) -> Value {
    let output = within("a client's end", command.stdin(Stdio::null()).kill_on_drop(true).output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway").join(name)
}

async fn python(url: String, api: &str, how: &str, body: &Value, extra: &Value) -> Value {
    let python_path = std::env::var("MLX_TEST_OPENAI_PYTHONPATH")
        .expect("MLX_TEST_OPENAI_PYTHONPATH names a folder with openai; `cargo xtask test` sees to it");
    let mut command = Command::new("python3");
    command.arg(script("whole_client.py")).args([&url, api, how]).args([body.to_string(), extra.to_string()]);
    command.env("PYTHONPATH", python_path);
    output(command).await
}

#[tokio::test]
async fn r1_openai_client_for_python_asks_and_is_told_the_same_as_by_the_engine_itself() {
    same_either_way(async |url: String, how, body: Value, extra: Value| python(url, "chat", how, &body, &extra).await)
        .await;
}

#[tokio::test]
async fn r1_openai_node_client_asks_and_is_told_the_same_as_by_the_engine_itself() {
    let modules = std::env::var_os("MLX_TEST_NODE_MODULES")
        .expect("MLX_TEST_NODE_MODULES names a folder with openai; `cargo xtask test` sees to it");
    // Imports are looked for from where a script is.
    let copy = PathBuf::from(modules).parent().unwrap().join("whole_client.mjs");
    std::fs::copy(script("whole_client.mjs"), &copy).unwrap();
    same_either_way(async |url: String, how, body: Value, extra: Value| {
        let mut body = body;
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut command = Command::new("node");
        command.arg(&copy).args([&url, how, &body.to_string()]);
        output(command).await
    })
    .await;
}

/// `/v1/completions` goes to the engine's own, and not through its chat template.
#[tokio::test]
async fn r1_openai_client_completes_a_text_where_the_engine_does() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 1).await;
    let piece = |index: u64, text: &str, token: f64, reason: Option<&str>| {
        let logprobs = json!({ "tokens": [text], "token_logprobs": [token], "top_logprobs": null, "text_offset": [0] });
        json!({ "choices": [{ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason }] })
    };
    let events = [
        piece(0, "a", -0.5, None),
        piece(1, "b", -1.0, None),
        piece(0, "c", -0.25, Some("stop")),
        piece(1, "d", -2.0, Some("length")),
        usage(),
    ];
    let body = json!({ "model": "tiny", "prompt": "Once", "n": 2, "logprobs": 1, "best_of": 2, "suffix": "end", "seed": 1, "max_tokens": 5 });
    let answer = || scripted(&events, "text_completion");
    models.answer_next(answer());
    let direct = python(models.url(), "text", "streamed", &body, &json!({ "top_k": 2 })).await;
    let asked = as_the_engine_sees_it(models.requests().pop().unwrap().body);
    for how in ["streamed", "whole"] {
        models.answer_next(answer());
        let through = python(gateway.url("/v1"), "text", how, &body, &json!({ "top_k": 2 })).await;
        let texts: Vec<&str> = (0..2).map(|at| through["choices"][at]["text"].as_str().unwrap()).collect();
        assert_eq!(texts, ["ac", "bd"], "{how}");
        assert_eq!(through["choices"][0]["logprobs"]["token_logprobs"], json!([-0.5, -0.25]), "{how}");
        assert_eq!(known(&through["usage"]), known(&direct["usage"]), "{how}");
        let seen = models.requests().pop().unwrap();
        assert_eq!((seen.path.as_str(), seen.body), ("/v1/completions", asked.clone()), "{how}");
    }
}
