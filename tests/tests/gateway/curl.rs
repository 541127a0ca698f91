//! What curl sees.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use mlx_tests::{Answer, ModelServer, eventually, within};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::{GatewayProcess, chat, chat_with};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

#[tokio::test]
async fn a_chat_and_a_prompt_are_answered_whole_by_the_model_server_behind_the_workers() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;

    let (status, answer) = gateway.post(CHAT, &chat_with("tiny", "hello there", &json!({ "temperature": 0.5 }))).await;
    assert_eq!((status, &answer["object"]), (200, &json!("chat.completion")), "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": "You said: hello there" }), "{answer}");
    assert_eq!((&choice["finish_reason"], &answer["usage"]["completion_tokens"]), (&json!("stop"), &json!(4)));
    let seen = models.requests().remove(0).body;
    assert_eq!((&seen["temperature"], &seen["messages"][0]["content"]), (&json!(0.5), &json!("hello there")));

    let body = json!({ "model": "tiny", "prompt": "hello there", "max_tokens": 3 });
    let (status, answer) = gateway.post(TEXT, &body).await;
    assert_eq!((status, &answer["object"]), (200, &json!("text_completion")), "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["text"]), (&json!("length"), &json!("You said: hello ")), "{answer}");

    let (status, list) = gateway.get("/v1/models").await;
    assert_eq!((status, &list["data"][0]["id"], list["data"].as_array().unwrap().len()), (200, &json!("tiny"), 1));
    assert_eq!(gateway.get("/v1/models/tiny").await.0, 200);
    assert_eq!(gateway.end("-INT").await, Some(0));
}

#[tokio::test]
async fn a_streamed_answer_is_events_that_end_with_done() {
    let gateway = GatewayProcess::of_stand_ins(1, 1000).await;
    let options = json!({ "stream": true, "max_tokens": 3, "stream_options": { "include_usage": true } });
    let mut events = gateway.stream(CHAT, &chat_with("stand-in", "Hi", &options)).await;
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let text: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert!(text.starts_with("You said: "), "{text}");
    let [.., last, figures] = &events[..] else { panic!("{events:?}") };
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!((&figures["choices"], &figures["usage"]["completion_tokens"]), (&json!([]), &json!(3)));
    assert!(events.iter().all(|event| event["id"] == events[0]["id"]), "{events:?}");

    let body = json!({ "model": "stand-in", "prompt": "Hi", "stream": true, "stop": ["is no model", "never"] });
    let mut events = gateway.stream(TEXT, &body).await;
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "You said: Hi There ");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_in_openais_words() {
    let gateway = GatewayProcess::of_stand_ins(1, 1000).await;
    let refused = async |body: &Value| {
        let (status, answer) = gateway.post(CHAT, body).await;
        let error = &answer["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{answer}");
        (status, error["code"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
    };
    let (status, code, message) = refused(&chat("gpt-17", "Hi")).await;
    assert_eq!((status, code.as_str()), (404, "model_not_found"));
    assert!(message.contains("`gpt-17`") && message.contains("`stand-in`"), "{message}");
    assert_eq!(gateway.get("/v1/models/gpt-17").await.0, 404);
    let (status, code, message) = refused(&chat_with("stand-in", "Hi", &json!({ "n": 2 }))).await;
    assert_eq!((status, code.as_str()), (400, "unsupported_parameter"), "{message}");
    assert_eq!(refused(&json!({ "model": "stand-in" })).await.0, 400);

    let url = gateway.url(CHAT);
    let send = async |arguments: &[&str]| {
        let mut curl = tokio::process::Command::new("curl");
        let output = curl.args(["-s", "-w", "\n%{http_code}"]).args(arguments).arg(&url).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        let error: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(error["error"]["message"].is_string(), "{text}");
        (status.to_owned(), error["error"]["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(send(&["--json", "{"]).await.0, "400");
    assert_eq!(send(&["--data", "{}"]).await.0, "415", "what any page may have a browser send");
    assert_eq!(send(&["--json", "{}", "-X", "DELETE"]).await.0, "405");
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.json");
    let refused = ["NATS_PAYLOAD_TOO_LARGE", "request_too_large"];
    for (words, code) in [2_500_000, 5_000_000].into_iter().zip(refused) {
        std::fs::write(&large, chat("stand-in", &"x ".repeat(words)).to_string()).unwrap();
        let said = send(&["--json", &format!("@{}", large.display())]).await;
        assert_eq!(said, ("413".to_owned(), code.to_owned()), "NATS takes 8 MiB, in which a chat is twice; we read 8");
    }
    assert_eq!(gateway.get("/v1/nothing").await.0, 404);
    assert_eq!(gateway.metric("mlx_gateway_requests_total{outcome=\"model_not_found\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_generation_at_the_model_server() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;
    models.answer_next(Answer::endless());
    let mut client = gateway.asking(CHAT, &chat_with("tiny", "go on", &json!({ "stream": true }))).spawn().unwrap();
    let mut seen = [0; 400];
    within("some tokens", client.stdout.take().unwrap().read_exact(&mut seen)).await.unwrap();
    assert_eq!((models.generating(), models.abandoned()), (1, 0));
    client.kill().await.unwrap();
    eventually("a generation given up", || models.abandoned() == 1 && models.generating() == 0).await;

    // Before the first token too, and where nothing is streamed.
    models.answer_next(Answer::stream().silence());
    let mut client = gateway.asking(CHAT, &chat("tiny", "go on")).spawn().unwrap();
    eventually("a generation", || models.generating() == 1).await;
    client.kill().await.unwrap();
    eventually("a second one given up", || models.abandoned() == 2 && models.generating() == 0).await;
    gateway
        .eventually("both counted", async || {
            gateway.metric("mlx_gateway_requests_total{outcome=\"cancelled\"}").await == Some(2.0)
        })
        .await;
    assert_eq!(gateway.metric("mlx_gateway_active_requests").await, Some(0.0));
}

#[tokio::test]
async fn usage_is_what_the_engine_counts() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 1).await;
    let counted = json!({ "choices": [], "usage": { "prompt_tokens": 12, "completion_tokens": 40 } });
    let answer = || Answer::stream().chat_token("ab").chat_finish("stop").event(&counted).done();
    models.answer_next(answer());
    let (_, whole) = gateway.post(CHAT, &chat("tiny", "Hi")).await;
    let usage = json!({ "prompt_tokens": 12, "completion_tokens": 40, "total_tokens": 52 });
    assert_eq!(whole["usage"], usage, "{whole}");
    models.answer_next(answer());
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = gateway.stream(CHAT, &chat_with("tiny", "Hi", &options)).await;
    let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!((&last["usage"], &last["choices"]), (&usage, &json!([])), "{last}");
}

#[tokio::test]
async fn a_stop_sequence_stops_the_generation_too() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 1).await;
    models.answer_next(Answer::endless());
    let (status, answer) = gateway.post(CHAT, &chat_with("tiny", "count", &json!({ "stop": " 3" }))).await;
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("0 1 2")), "{answer}");
    eventually("a generation given up", || models.abandoned() == 1).await;
}

#[tokio::test]
async fn w6_who_is_asked_while_all_are_busy_waits_and_is_refused_in_time_with_when_to_come_back() {
    let models = ModelServer::start();
    let engine = format!("openai={}", models.url());
    let limited = [("MLX_REQUEST_ROUTING__TIMEOUT_MS", "1000")];
    let gateway = GatewayProcess::start(1, &["--engine", &engine], &limited).await;
    for _ in 0..4 {
        models.answer_next(Answer::endless());
    }
    let asking = || gateway.asking(CHAT, &chat_with("tiny", "go on", &json!({ "stream": true }))).spawn().unwrap();
    let clients: Vec<_> = (0..4).map(|_| asking()).collect();
    eventually("four generations", || models.generating() == 4).await;
    let output = gateway.asking(CHAT, &chat("tiny", "Hi")).arg("--include").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("HTTP/1.1 429") && text.contains("retry-after: 1"), "{text}");
    assert!(text.contains("\"code\":\"OVERLOADED\"") && text.contains("rate_limit_error"), "{text}");

    let waiting = tokio::spawn(gateway.asking(CHAT, &chat_with("tiny", "Hi", &json!({ "stream": true }))).output());
    gateway
        .eventually("one that waits", async || gateway.metric("mlx_gateway_waiting_requests").await == Some(1.0))
        .await;
    drop(clients);
    let output = within("its turn", waiting).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("[DONE]"), "{output:?}");
}

#[tokio::test]
async fn a_controller_without_workers_says_that_there_are_none() {
    let gateway = GatewayProcess::start(0, &[], &[]).await;
    let (status, health) = gateway.get("/healthz").await;
    assert_eq!((status, &health["status"], &health["models"]), (503, &json!("unavailable"), &json!([])), "{health}");
    let (status, answer) = gateway.post(CHAT, &chat("tiny", "Hi")).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("no_workers")), "{answer}");
    assert!(gateway.text("/").await.contains("No worker is online."));
}

#[tokio::test]
async fn an_interrupt_lets_answers_finish() {
    let gateway = GatewayProcess::of_stand_ins(1, 20).await;
    let mut client = gateway.asking(CHAT, &chat_with("stand-in", "Hi", &json!({ "stream": true }))).spawn().unwrap();
    let (mut stdout, mut seen) = (client.stdout.take().unwrap(), Vec::new());
    while !String::from_utf8_lossy(&seen).contains("You ") {
        within("a token", stdout.read_buf(&mut seen)).await.unwrap();
    }
    let ended = tokio::spawn(gateway.end("-TERM"));
    within("the end of the answer", stdout.read_to_end(&mut seen)).await.unwrap();
    assert!(String::from_utf8(seen).unwrap().contains("data: [DONE]"), "an answer was cut");
    assert_eq!(ended.await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_second_interrupt_ends_answers_and_says_so() {
    let gateway = GatewayProcess::of_stand_ins(1, 1).await;
    let mut client = gateway.asking(CHAT, &chat_with("stand-in", "Hi", &json!({ "stream": true }))).spawn().unwrap();
    let (mut stdout, mut seen) = (client.stdout.take().unwrap(), Vec::new());
    while !String::from_utf8_lossy(&seen).contains("You ") {
        within("a token", stdout.read_buf(&mut seen)).await.unwrap();
    }
    let began = Instant::now();
    gateway.interrupt().await;
    gateway.eventually("no new connections", async || TcpStream::connect(gateway.address()).await.is_err()).await;
    let ended = tokio::spawn(gateway.end("-INT"));
    within("the end of the answer", stdout.read_to_end(&mut seen)).await.unwrap();
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.contains("\"shutting_down\"") && !seen.contains("[DONE]"), "{seen}");
    assert_eq!(ended.await.unwrap(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "the grace was not cut short: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_taken_address_is_named_and_nothing_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = crate::support::command(&["--listen", &address]).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&address) && said.contains("--listen") && !said.contains("nats-server"), "{said}");
}
