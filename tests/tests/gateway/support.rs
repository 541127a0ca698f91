//! `mlx-node demo --listen`, as a process.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};

use mlx_tests::{ModelServer, mlx_node, shipped_config, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A controller that serves HTTP on a free port, with worker processes.
pub struct GatewayProcess {
    controller: Child,
    address: String,
    /// The process ids of its workers, by their ids.
    pub workers: BTreeMap<String, u32>,
}

impl GatewayProcess {
    /// One whose workers have the stand-in for an engine, at this many tokens a second.
    pub async fn of_stand_ins(workers: u16, tokens_per_second: u32) -> Self {
        Self::start(workers, &["--tokens-per-second", &tokens_per_second.to_string()], &[]).await
    }

    /// One whose workers ask a model server.
    pub async fn before(models: &ModelServer, workers: u16) -> Self {
        Self::start(workers, &["--engine", &format!("openai={}", models.url())], &[]).await
    }

    /// One with these arguments and this environment, once its workers are online.
    pub async fn start(workers: u16, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_at("127.0.0.1:0", workers, arguments, environment).await
    }

    /// The same, at an address.
    pub async fn start_at(listen: &str, workers: u16, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let gateway = Self::begin(listen, workers, arguments, environment).await;
        let all_online = async || gateway.get("/healthz").await.1["workers"]["online"].as_u64() >= Some(workers.into());
        gateway.eventually("its workers online", all_online).await;
        gateway
    }

    /// One whose workers are there, and have no model yet.
    pub async fn start_degraded(workers: u16, arguments: &[&str]) -> Self {
        let gateway = Self::begin("127.0.0.1:0", workers, arguments, &[]).await;
        let there = async || gateway.get("/healthz").await.1["workers"]["degraded"].as_u64() >= Some(workers.into());
        gateway.eventually("its workers", there).await;
        gateway
    }

    async fn begin(listen: &str, workers: u16, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut controller = command(arguments)
            .args(["--listen", listen, "--workers", &workers.to_string()])
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(controller.stderr.take().unwrap()).lines();
        let (mut seen, mut pids) = (Vec::new(), BTreeMap::new());
        let address = loop {
            let line = within("the gateway's address", said.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended at once: {seen:?}"));
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.to_owned();
            }
            if let Some((worker, id)) = line.split_once(", id ") {
                pids.insert(id.to_owned(), worker.rsplit(' ').next().unwrap().parse().unwrap());
            }
            seen.push(line);
        };
        // Read to the end, or a worker that complains would wait for a reader some day.
        tokio::spawn(async move {
            while let Ok(Some(line)) = said.next_line().await {
                eprintln!("{line}");
            }
        });
        Self { controller, address, workers: pids }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address of a page.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The status of a page, and its JSON.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.fetch(path).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {status} {text}")))
    }

    /// The text of a page.
    pub async fn text(&self, path: &str) -> String {
        self.fetch(path).await.1
    }

    /// Without curl, for the tests of other clients. HTTP/1.0 knows no chunks.
    async fn fetch(&self, path: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(&self.address).await.unwrap();
        connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        within("a page", connection.read_to_string(&mut text)).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {text:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// What curl gets for a request.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        status_and_json(&self.asking(path, body).output().await.unwrap())
    }

    /// What curl gets for a page with these arguments.
    pub async fn curl(&self, path: &str, arguments: &[&str]) -> (u16, String) {
        status_and_text(&curl(arguments).arg(self.url(path)).output().await.unwrap())
    }

    /// The status of a page for a request with this header `host`.
    pub async fn status_as(&self, host: &str, path: &str) -> u16 {
        self.curl(path, &["--header", &format!("host: {host}")]).await.0
    }

    /// curl with a request, to be started.
    pub fn asking(&self, path: &str, body: &Value) -> Command {
        let mut command = curl(&["--json", &body.to_string()]);
        command.arg(self.url(path));
        command
    }

    /// The events of a streamed answer.
    pub async fn stream(&self, path: &str, body: &Value) -> Vec<String> {
        let output = within("the end of a stream", self.asking(path, body).output()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let (_, text) = status_and_text(&output);
        let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
        events.map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}")).to_owned()).collect()
    }

    /// A sample of `/metrics`.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let page = self.text("/metrics").await;
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// The memory that it has, in KiB, without that of its workers and its bus.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.controller.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The worker that has a request now, once one has.
    pub async fn worker_at_work(&self) -> String {
        let mut found = None;
        self.eventually("a worker at work", async || {
            let page = self.text("/metrics").await;
            let busy =
                page.lines().find(|line| line.starts_with("mlx_worker_active_requests{") && line.ends_with(" 1"));
            found = busy.map(|line| line.split('"').nth(1).unwrap().to_owned());
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Kills a worker (SIGKILL).
    pub async fn kill(&self, worker: &str) {
        signal("-KILL", self.workers[worker]).await;
    }

    /// Interrupts the controller, as Ctrl-C would.
    pub async fn interrupt(&self) {
        signal("-INT", self.controller.id().unwrap()).await;
    }

    /// Sends a signal to the controller, and returns how it ended.
    pub async fn end(mut self, name: &str) -> Option<i32> {
        signal(name, self.controller.id().unwrap()).await;
        within("the controller's end", self.controller.wait()).await.unwrap().code()
    }

    /// Waits for a condition that takes asking.
    pub async fn eventually(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        mlx_tests::eventually_async(what, async || condition().await.then_some(())).await;
    }
}

/// A chat with the words of one user.
pub fn chat(model: &str, text: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": text }] })
}

/// The same, with some members more.
pub fn chat_with(model: &str, text: &str, members: &Value) -> Value {
    let mut chat = chat(model, text);
    chat.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    chat
}

/// The example with the shipped configuration; the silence of the dead is noticed within 2 s.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::from(mlx_node(&shipped_config()));
    command
        .arg("demo")
        .args(arguments)
        .env("MLX_DISCOVERY__HEARTBEAT_INTERVAL_MS", "400")
        .env("MLX_DISCOVERY__OFFLINE_TIMEOUT_MS", "2000")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// curl, which closes with the status on a line of its own.
fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--no-buffer", "--write-out", "\n%{http_code}"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

fn status_and_text(output: &Output) -> (u16, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let (text, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (status.parse().unwrap(), text.to_owned())
}

fn status_and_json(output: &Output) -> (u16, Value) {
    let (status, text) = status_and_text(output);
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {status} {text}")))
}

async fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().await.unwrap().success());
}
