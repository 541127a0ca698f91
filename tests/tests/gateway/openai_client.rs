//! What OpenAI's own Python client sees.

use std::path::Path;
use std::process::Stdio;

use mlx_tests::{Answer, ModelServer, RealModelServer, eventually, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::GatewayProcess;

#[tokio::test]
async fn openai_client_lists_the_models_and_is_answered_whole_and_in_parts() {
    let models = ModelServer::start();
    models.set_models(["tiny", "org/other"]);
    let gateway = GatewayProcess::before(&models, 2).await;
    assert_eq!(
        Client::run(&gateway, "models", "org/other").await,
        [json!(["org/other", "tiny"]), json!("mlx-serving")]
    );
    assert_eq!(Client::run(&gateway, "chat", "tiny").await, [json!(["You said: hello there", "stop", 4])]);
    assert_eq!(Client::run(&gateway, "streamed", "tiny").await, [json!(["You said: hello there", "stop", 4])]);
    assert_eq!(Client::run(&gateway, "text", "tiny").await, [json!(["You said: hello ", "length"])]);
    assert_eq!(Client::run(&gateway, "streamed_text", "org/other").await, [json!(["You said: hello there", "stop"])]);
    let seen = models.requests().remove(0).body;
    assert_eq!(seen["messages"][0], json!({ "role": "system", "content": "Be brief." }), "{seen}");
    assert_eq!((&seen["temperature"], &seen["max_tokens"]), (&json!(0.2), &json!(64)));
}

#[tokio::test]
async fn openai_client_takes_refusals_for_what_they_are() {
    let models = ModelServer::start();
    let engine = format!("openai={}", models.url());
    let limited = [("MLX_REQUEST_ROUTING__TIMEOUT_MS", "1000"), ("MLX_REQUEST_ROUTING__STREAMING_TIMEOUT_MS", "1000")];
    let gateway = GatewayProcess::start(1, &["--engine", &engine], &limited).await;
    let said = Client::run(&gateway, "refused", "gpt-17").await.remove(0);
    assert_eq!((&said[0], &said[1], &said[2]), (&json!("NotFoundError"), &json!(404), &json!("model_not_found")));
    assert!(said[3].as_str().unwrap().contains("`tiny`"), "{said}");

    models.answer_next(Answer::refusal(400, "the prompt is too long"));
    let said = Client::run(&gateway, "refused", "tiny").await.remove(0);
    assert_eq!((&said[0], &said[1]), (&json!("BadRequestError"), &json!(400)), "{said}");
    assert!(said[3].as_str().unwrap().contains("the prompt is too long"), "{said}");

    // It is asked again while there is time.
    (0..50).for_each(|_| models.answer_next(Answer::refusal(429, "too many requests")));
    let said = Client::run(&gateway, "refused", "tiny").await.remove(0);
    assert_eq!((&said[0], &said[1]), (&json!("RateLimitError"), &json!(429)), "{said}");
}

#[tokio::test]
async fn openai_client_that_closes_its_stream_stops_the_generation_at_the_model_server() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;
    models.answer_next(Answer::endless());
    let mut client = Client::start(&gateway, "given_up", "tiny");
    assert_eq!(client.next().await, Some(json!(3)));
    eventually("a generation given up", || models.abandoned() == 1 && models.generating() == 0).await;
    assert!(client.process.try_wait().unwrap().is_none(), "the client itself is still there");
}

#[tokio::test]
async fn openai_client_does_not_notice_a_worker_that_dies_before_its_first_token() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;
    models.answer_next(Answer::stream().silence());
    let mut client = Client::start(&gateway, "streamed", "tiny");
    eventually("a generation", || models.generating() == 1).await;
    gateway.kill(&gateway.worker_at_work().await).await;
    assert_eq!(client.next().await, Some(json!(["You said: hello there", "stop", 4])));
}

#[tokio::test]
async fn openai_client_raises_an_error_where_a_worker_dies_after_its_first_token() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 2).await;
    models.answer_next(Answer::stream().chat_token("Hel").silence());
    let mut client = Client::start(&gateway, "watched", "tiny");
    assert_eq!(client.next().await, Some(json!("Hel")));
    gateway.kill(&gateway.worker_at_work().await).await;
    assert_eq!(client.next().await, Some(json!(["APIError", "WORKER_LOST"])));
    assert_eq!(models.requests().len(), 1, "what was shown in part is not asked for again");
}

#[tokio::test]
async fn openai_client_speaks_through_two_workers_with_a_real_model_server() {
    let server = RealModelServer::start().await;
    let gateway = GatewayProcess::start(2, &["--engine", &format!("openai={}", server.url())], &[]).await;
    let model = server.model();
    assert_eq!(Client::run(&gateway, "models", model).await, [json!([model]), json!("mlx-serving")]);
    let answer = Client::run(&gateway, "chat", model).await.remove(0);
    assert_eq!(answer[1], "length", "{}", server.log());
    assert!(is_all_there_is(&answer[2]), "{answer}: {}", server.log());
    assert!(!answer[0].as_str().unwrap().is_empty(), "what it says is left to chance: {answer}");
    let answer = Client::run(&gateway, "text", model).await.remove(0);
    assert!(!answer[0].as_str().unwrap().is_empty() && answer[1] == "length", "{answer}");

    let mut client = Client::start(&gateway, "given_up", model);
    assert_eq!(client.next().await, Some(json!(3)));
    server.comes_to_rest().await;

    let mut client = Client::start(&gateway, "watched", model);
    assert!(client.next().await.unwrap().is_string());
    gateway.kill(&gateway.worker_at_work().await).await;
    let end = loop {
        match client.next().await.expect("an end") {
            Value::String(_) => {}
            end => break end,
        }
    };
    assert_eq!(end, json!(["APIError", "WORKER_LOST"]));
    server.comes_to_rest().await;
    // The other worker is still there.
    let answer = Client::run(&gateway, "chat", model).await.remove(0);
    assert!(is_all_there_is(&answer[2]), "{answer}");
}

/// Whether so many are the 64 tokens that were asked for. The model draws its tokens from its own vocabulary by chance, and
/// one that ends in the middle of a character brings no text until the next: the two are streamed, and counted, as one.
fn is_all_there_is(tokens: &Value) -> bool {
    tokens.as_u64().is_some_and(|tokens| (56..=64).contains(&tokens))
}

/// The client, as a process that does one thing.
struct Client {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(gateway: &GatewayProcess, what: &str, model: &str) -> Self {
        let python_path = std::env::var("MLX_TEST_OPENAI_PYTHONPATH")
            .expect("MLX_TEST_OPENAI_PYTHONPATH names a folder with openai; `cargo xtask test` sees to it");
        let mut process = Command::new("python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/openai_client.py"))
            .args([&gateway.url("/v1"), what, model])
            .env("PYTHONPATH", python_path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, said }
    }

    async fn next(&mut self) -> Option<Value> {
        let line = within("a word of the client", self.said.next_line()).await.unwrap()?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// All that it says.
    async fn run(gateway: &GatewayProcess, what: &str, model: &str) -> Vec<Value> {
        let mut client = Self::start(gateway, what, model);
        let mut said = Vec::new();
        while let Some(value) = client.next().await {
            said.push(value);
        }
        assert!(within("the client's end", client.process.wait()).await.unwrap().success(), "{what}: {said:?}");
        said
    }
}
