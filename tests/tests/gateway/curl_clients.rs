//! Clients as they are: slow, half, hostile, behind proxies, and with a base URL that is not quite right.

use std::time::{Duration, Instant};

use mlx_tests::{Answer, ModelServer, within};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{GatewayProcess, chat, chat_with};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

#[tokio::test]
async fn a_streamed_answer_takes_no_longer_than_a_whole_one() {
    let gateway = GatewayProcess::of_stand_ins(1, 100_000).await;
    let asked = async |stream: bool| {
        let body = chat_with("stand-in", "Hi", &json!({ "stream": stream })).to_string();
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        // One connection for all, as clients have it: the system then holds acknowledgements back.
        let mut connection = BufReader::new(TcpStream::connect(gateway.address()).await.unwrap());
        let mut times = Vec::new();
        for _ in 0..21 {
            let began = Instant::now();
            connection.write_all(request.as_bytes()).await.unwrap();
            let end = if stream { "0\r\n\r\n" } else { "}}" };
            let mut answer = Vec::new();
            while !answer.ends_with(end.as_bytes()) {
                let more = within("more of an answer", connection.fill_buf()).await.unwrap().to_vec();
                assert!(!more.is_empty(), "{}", String::from_utf8_lossy(&answer));
                connection.consume(more.len());
                answer.extend(more);
            }
            times.push(began.elapsed());
        }
        times.sort_unstable();
        times[10]
    };
    let (whole, streamed) = (asked(false).await, asked(true).await);
    // A write that waits for the acknowledgement of the one before is 40 ms late.
    assert!(streamed < whole + Duration::from_millis(30), "streamed {streamed:?}, whole {whole:?}");
}

#[tokio::test]
async fn a_stream_without_a_token_shows_that_it_is_alive_and_fails_by_an_event() {
    let models = ModelServer::start();
    let engine = format!("openai={}", models.url());
    let limited = [("MLX_STREAMING__FIRST_TOKEN_TIMEOUT_MS", "13000")];
    let gateway = GatewayProcess::start(1, &["--engine", &engine], &limited).await;
    models.answer_next(Answer::stream().silence());
    let began = Instant::now();
    let mut asking = gateway.asking(CHAT, &chat_with("tiny", "Hi", &json!({ "stream": true })));
    let mut client = asking.arg("--include").spawn().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut head = [0; 1024];
    let read = within("the head", stdout.read(&mut head)).await.unwrap();
    seen.extend_from_slice(&head[..read]);
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    within("its end", stdout.read_to_end(&mut seen)).await.unwrap();
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 200") && seen.contains("x-accel-buffering: no"), "{seen}");
    assert!(seen.contains("cache-control: no-cache") && seen.contains("\n:"), "a comment: {seen}");
    assert!(seen.contains("STREAM_FIRST_TOKEN_TIMEOUT") && !seen.contains("[DONE]"), "{seen}");
    // What fails quickly keeps its status.
    let (status, _) = gateway.post(CHAT, &chat_with("gpt-17", "Hi", &json!({ "stream": true }))).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn half_a_head_is_not_waited_for() {
    let gateway = GatewayProcess::of_stand_ins(1, 1000).await;
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut half = TcpStream::connect(gateway.address()).await.unwrap();
        half.write_all(b"GET /healthz HTTP/1.1\r\nhost: local").await.unwrap();
        halves.push(half);
    }
    assert_eq!(gateway.post(CHAT, &chat("stand-in", "Hi")).await.0, 200);
    let began = Instant::now();
    for mut half in halves {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_mins(1), half.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "it is still open after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_health_check_follows_whether_anything_can_be_answered() {
    let mut models = ModelServer::not_yet();
    let engine = format!("openai={}", models.url());
    let gateway = GatewayProcess::start(0, &["--engine", &engine], &[]).await;
    let (status, health) = gateway.get("/healthz").await;
    assert_eq!((status, &health["reason"]), (503, &json!("no worker is online")), "{health}");
    drop(gateway);
    let gateway = GatewayProcess::start_degraded(1, &["--engine", &engine]).await;
    let (status, health) = gateway.get("/healthz").await;
    assert_eq!((status, &health["reason"]), (503, &json!("no worker has a model")), "{health}");
    models.bring_up();
    gateway.eventually("a model", async || gateway.get("/healthz").await.0 == 200).await;
}

#[tokio::test]
async fn what_is_not_quite_right_is_told_in_words_that_help() {
    let gateway = GatewayProcess::of_stand_ins(1, 1000).await;
    for (path, words) in [
        ("/v1/v1/chat/completions", "`/v1` twice"),
        ("/chat/completions", "at `/v1/chat/completions`"),
        ("/models", "at `/v1/models`"),
        ("/v2/models", "below `/v1`"),
    ] {
        let (status, answer) = gateway.get(path).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status == 404 && message.contains(words), "{path}: {answer}");
    }
    let (status, answer) = gateway.get("/v1/models/%ff").await;
    assert!(status == 400 && answer["error"]["code"] == "invalid_request", "{answer}");

    let json = chat("stand-in", "Hi").to_string();
    let asked = async |arguments: &[&str]| {
        gateway.curl(CHAT, &[&["--header", "content-type: application/json"][..], arguments].concat()).await
    };
    let (status, answer) = asked(&["--header", "content-encoding: gzip", "--data", &json]).await;
    assert!(status == 415 && answer.contains("content-encoding: gzip"), "{answer}");
    let (status, answer) = asked(&["--data", &format!("{json} and more")]).await;
    assert!(status == 400 && answer.contains("goes on behind"), "{answer}");
    let (status, answer) = gateway.post(CHAT, &chat_with("stand-in", "Hi", &json!({ "max_tokens": 3.0 }))).await;
    assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(3)), "{answer}");
    let (status, answer) = gateway.post(CHAT, &chat_with("stand-in", "Hi", &json!({ "max_tokens": -1 }))).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(status == 400 && message.contains("`-1` is no count of tokens") && !message.contains("u64"), "{answer}");
    let (status, answer) = gateway.post(TEXT, &json!({ "model": "stand-in", "prompt": "" })).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("prompt")), "{answer}");
}
