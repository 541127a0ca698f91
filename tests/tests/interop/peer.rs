//! Starts the node that is not ours, and talks with it over its standard input and output.

use std::path::Path;
use std::process::Stdio;

use mlx_tests::{TestServer, within};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A process of `peer.py`, gone with the value.
pub(crate) struct Peer {
    process: Child,
    orders: ChildStdin,
    heard: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Starts one in a role, and returns when the server knows it.
    pub(crate) async fn start(server: &TestServer, role: &str, arguments: &[&str]) -> Self {
        let python_path = std::env::var("MLX_TEST_PYTHONPATH")
            .expect("MLX_TEST_PYTHONPATH names a folder with nats-py; `cargo xtask test` sees to it");
        let mut process = Command::new("python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/peer.py"))
            .arg(role)
            .arg(server.embedded().client_url().to_string())
            .args(arguments)
            .env("PYTHONPATH", python_path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let heard = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut peer = Self { process, orders, heard };
        assert_eq!(peer.line().await.as_deref(), Some("ready"));
        peer
    }

    /// What it is to do next.
    pub(crate) async fn tell(&mut self, order: Value) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }

    /// The next thing that it heard.
    pub(crate) async fn hears(&mut self) -> Value {
        let line = self.line().await.expect("the peer ended");
        serde_json::from_str(&line).unwrap()
    }

    /// The body of the next message that it heard, which has to be JSON, and the message.
    pub(crate) async fn hears_json(&mut self) -> (Value, Value) {
        let message = self.hears().await;
        let body = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        (body, message)
    }

    /// Lets it leave in peace; what it had still heard.
    pub(crate) async fn leave(mut self) -> Vec<Value> {
        drop(self.orders);
        let mut rest = Vec::new();
        while let Some(line) = within("the peer's last words", self.heard.next_line()).await.unwrap() {
            rest.push(serde_json::from_str(&line).unwrap());
        }
        assert!(within("the peer's end", self.process.wait()).await.unwrap().success());
        rest
    }

    async fn line(&mut self) -> Option<String> {
        within("a line of the peer", self.heard.next_line()).await.unwrap()
    }
}
