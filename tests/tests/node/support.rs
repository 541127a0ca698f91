//! A node as a process, in a folder of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use mlx_nats::{Client, Workers};
use mlx_tests::{LIMIT, eventually, node_program};
use mlx_types::NatsUrl;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a node is started with, beside its file: nothing of this machine's own, ports that are free, a quick end of the dead.
pub const QUICK: &str = "discovery: { heartbeatIntervalMs: 200, offlineTimeoutMs: 2000 }\n";

/// A process `mlx-node run`, killed when it is dropped.
pub struct RunningNode {
    child: Child,
    said: Arc<Mutex<String>>,
    logged: Arc<Mutex<String>>,
}

/// A folder with a configuration, which is a home too.
pub struct Home(TempDir);

impl Home {
    /// One whose `cluster.yaml` is this.
    pub fn with(yaml: &str) -> Self {
        let home = Self::empty();
        std::fs::write(home.path().join("cluster.yaml"), yaml).unwrap();
        home
    }

    /// One without a configuration.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// `mlx-node` with these arguments, there.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(node_program());
        command
            .args(arguments)
            .current_dir(self.path())
            .env("HOME", self.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("OPENAI_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What a command says, once it has ended.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// `mlx-node run`, there.
    pub fn run(&self, arguments: &[&str]) -> RunningNode {
        RunningNode::spawn(&mut self.command(&[&["run"], arguments].concat()))
    }
}

impl RunningNode {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let said = collect(child.stdout.take().unwrap());
        let logged = collect(child.stderr.take().unwrap());
        Self { child, said, logged }
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        self.logged.lock().unwrap().clone()
    }

    /// The rest of the line that these words begin, once it has said it.
    pub async fn says(&self, words: &str) -> String {
        let mut found = None;
        eventually(&format!("{words:?}"), || {
            found = self.said().lines().find_map(|line| Some(line.split_once(words)?.1.to_owned()));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Where its gateway listens.
    pub async fn gateway(&self) -> String {
        self.says("listening on http://").await
    }

    /// Where its bus is.
    pub async fn bus(&self) -> NatsUrl {
        self.says(", at ").await.parse().unwrap()
    }

    /// A client of its bus, and the workers there.
    pub async fn client(&self) -> (Client, Workers) {
        let client = Client::builder().url(self.bus().await.to_string()).connect().await.unwrap();
        let workers = client.workers().await.unwrap();
        (client, workers)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap().success());
    }

    /// How it ended, once it has.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("its end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code()
    }

    /// Sends a signal, and returns how it ended.
    pub async fn end(mut self, name: &str) -> Option<i32> {
        self.signal(name);
        self.ended().await
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            eprintln!("{line}");
            kept.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    text
}

/// A port that is free now, which no other test is given.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The status and the body of a request.
pub async fn curl(arguments: &[&str]) -> (u16, String) {
    let output = curl_command(arguments).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (text, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (status.parse().unwrap(), text.to_owned())
}

pub fn curl_command(arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("curl");
    command
        .args(["--silent", "--show-error", "--no-buffer", "--max-time", "60", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The body of a chat that the stand-in answers.
pub fn chat(stream: bool) -> String {
    let messages = json!([{ "role": "user", "content": "one two three" }]);
    json!({ "model": "stand-in", "messages": messages, "stream": stream }).to_string()
}

/// So many streams of one answer each, under way at a gateway; what each client has once it has ended.
pub struct Streams(Vec<tokio::task::JoinHandle<Output>>);

impl Streams {
    /// Starts them, and returns once all have begun at a worker.
    pub async fn start(gateway: &str, count: usize) -> Self {
        let url = format!("http://{gateway}/v1/chat/completions");
        let asking = (0..count).map(|_| tokio::spawn(curl_command(&["--json", &chat(true), &url]).output()));
        let streams = asking.map(|asking| tokio::spawn(async { asking.await.unwrap().unwrap() })).collect();
        let metrics = format!("http://{gateway}/metrics");
        mlx_tests::eventually_async("streams under way", async || {
            let page = curl(&[&metrics]).await.1;
            let running = metric(&page, "mlx_gateway_active_requests").unwrap_or_default();
            (running.to_string() == count.to_string()).then_some(())
        })
        .await;
        Self(streams)
    }

    /// How many were answered whole, and what the others got.
    pub async fn ended(self) -> (usize, Vec<String>) {
        let (mut whole, mut broken) = (0, Vec::new());
        for stream in self.0 {
            let output = tokio::time::timeout(LIMIT * 2, stream).await.expect("an end of each stream").unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if text.contains("data: [DONE]") && text.contains("\"finish_reason\":\"stop\"") {
                whole += 1;
            } else {
                broken.push(text);
            }
        }
        (whole, broken)
    }
}

/// A sample of a page of metrics.
pub fn metric(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

pub fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until a gateway says that no worker is online: it has heard the farewell of the last one, long before its silence counts.
pub async fn nobody_is_left(gateway: &str) {
    let began = std::time::Instant::now();
    let health = format!("http://{gateway}/healthz");
    mlx_tests::eventually_async("no worker", async || {
        (json_of(&curl(&[&health]).await.1)["reason"] == "no worker is online").then_some(())
    })
    .await;
    assert!(began.elapsed() < std::time::Duration::from_millis(1900), "by its silence: {:?}", began.elapsed());
    let (status, answer) = curl(&["--json", &chat(false), &format!("http://{gateway}/v1/chat/completions")]).await;
    assert_eq!((status, &json_of(&answer)["error"]["code"]), (503, &"no_workers".into()), "{answer}");
}
