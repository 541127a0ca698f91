//! What stands between the gateway and its clients: nginx as it comes, and `HAProxy` that looks after it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use mlx_tests::{Answer, ModelServer, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};

use crate::support::{GatewayProcess, chat};

/// A proxy that runs, before a gateway.
struct Proxy {
    _process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Proxy {
    async fn start(program: &str, arguments: &[&str], config: impl Fn(&str, u16) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let path = folder.path().join("config");
        std::fs::write(&path, config(&folder.path().display().to_string(), port)).unwrap();
        let process = Command::new(program).args(arguments).arg(&path).stdin(Stdio::null()).kill_on_drop(true).spawn();
        let proxy = Self { _process: process.unwrap(), folder, port };
        mlx_tests::eventually_async("a proxy that listens", async || proxy.connect().await.ok()).await;
        proxy
    }

    /// Nothing of its defaults is changed but where it keeps its files, and that it is one process, which ends with the test.
    async fn nginx(gateway: &str) -> Self {
        Self::start("nginx", &["-c"], |folder, port| {
            let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let places = places.map(|place| format!("{place}_temp_path {folder}/{place};")).join(" ");
            format!(
                "daemon off; master_process off; pid {folder}/pid; error_log stderr; worker_processes 1; events {{}}\n\
                 http {{ access_log off; {places}\n\
                 server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{gateway}; }} }} }}\n"
            )
        })
        .await
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.port)).await
    }

    /// The lines of a streamed answer, as they come.
    async fn stream(&self, model: &str) -> Lines<BufReader<TcpStream>> {
        let mut body = chat(model, "hi");
        body["stream"] = true.into();
        let (body, mut connection) = (body.to_string(), self.connect().await.unwrap());
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        connection.write_all(request.as_bytes()).await.unwrap();
        BufReader::new(connection).lines()
    }
}

/// The content of the next event that has some; nothing at the end.
async fn next_token(lines: &mut Lines<BufReader<TcpStream>>) -> Option<String> {
    loop {
        let line = lines.next_line().await.unwrap()?;
        if line == "data: [DONE]" {
            return None;
        }
        let Some(event) = line.strip_prefix("data: ") else { continue };
        let event: Value = serde_json::from_str(event).unwrap();
        match event["choices"][0]["delta"]["content"].as_str() {
            Some(text) if !text.is_empty() => return Some(text.to_owned()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn p4_tokens_come_through_nginx_as_they_are_made() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 1).await;
    let proxy = Proxy::nginx(gateway.address()).await;
    // The second token is made only when the first one has been seen.
    models.answer_next(Answer::stream().chat_token("first").silence());
    let mut lines = proxy.stream("tiny").await;
    assert_eq!(within("the first token", next_token(&mut lines)).await.as_deref(), Some("first"));
}

#[tokio::test]
async fn p4_a_first_token_after_seventy_seconds_comes_through_nginx() {
    let models = ModelServer::start();
    let engine = format!("openai={}", models.url());
    let patience =
        [("MLX_STREAMING__FIRST_TOKEN_TIMEOUT_MS", "100000"), ("MLX_REQUEST_ROUTING__STREAMING_TIMEOUT_MS", "100000")];
    let gateway = GatewayProcess::start(1, &["--engine", &engine], &patience).await;
    let proxy = Proxy::nginx(gateway.address()).await;
    let late = Answer::stream().pause(Duration::from_secs(70)); // the server's own time: nginx waits for 60 s
    models.answer_next(late.chat_token("late").chat_finish("stop").done());
    let mut lines = proxy.stream("tiny").await;
    let began = Instant::now();
    let first = tokio::time::timeout(Duration::from_secs(95), next_token(&mut lines)).await.expect("a token");
    assert_eq!(first.as_deref(), Some("late"));
    assert!(began.elapsed() > Duration::from_secs(69), "{:?}", began.elapsed());
    assert_eq!(within("the end", next_token(&mut lines)).await, None);
}

#[tokio::test]
async fn p4_the_health_check_of_haproxy_follows_the_gateway() {
    let models = ModelServer::start();
    let gateway = GatewayProcess::before(&models, 1).await;
    let address = gateway.address().to_owned();
    let proxy = Proxy::start("haproxy", &["-f"], |folder, port| {
        format!(
            "global\n stats socket {folder}/socket level user\n\
             defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
             frontend f\n bind 127.0.0.1:{port}\n default_backend b\n\
             backend b\n option httpchk GET /healthz\n server g {address} check inter 200ms\n"
        )
    })
    .await;
    let is = async |state: &str| {
        let mut socket = UnixStream::connect(proxy.folder.path().join("socket")).await.unwrap();
        socket.write_all(b"show stat\n").await.unwrap();
        let mut table = String::new();
        socket.read_to_string(&mut table).await.unwrap();
        let line = table.lines().find(|line| line.starts_with("b,g,")).unwrap();
        line.split(',').any(|cell| cell == state)
    };
    gateway.eventually("a gateway that is well", async || is("UP").await).await;
    let mut lines = proxy.stream("tiny").await;
    assert_eq!(within("a token", next_token(&mut lines)).await.as_deref(), Some("You "));
    let worker = gateway.workers.keys().next().unwrap().clone();
    gateway.kill(&worker).await;
    gateway.eventually("a gateway without workers", async || is("DOWN").await).await;
    assert_eq!(gateway.get("/healthz").await.0, 503, "{}", json!(gateway.workers));
}
