//! Headless Chromium, driven by its `DevTools` protocol.

use std::path::PathBuf;
use std::process::Stdio;

use data_encoding::BASE64;
use futures_util::{SinkExt, StreamExt};
use mlx_tests::within;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A browser with one page, gone with the value.
pub struct Browser {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    commands: u64,
    _process: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts one with an empty page.
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("chromium")
            // Root has no sandbox, and many a container none for anyone; it sees no page but ours.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--hide-scrollbars", "--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = within("the browser's address", said.next_line()).await.unwrap().expect("it goes on");
            if let Some((_, address)) = line.split_once("DevTools listening on ") {
                break address.to_owned();
            }
        };
        // Read to the end: it complains of much, and would wait for a reader some day.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let (socket, _) = within("the browser", connect_async(&address)).await.unwrap();
        let mut browser = Self { socket, session: None, commands: 0, _process: process, _profile: profile };
        let page = browser.command("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let session = browser.command("Target.attachToTarget", attach).await["sessionId"].as_str().unwrap().to_owned();
        browser.session = Some(session);
        browser.looks(1100, 760, "light").await;
        browser
    }

    /// Has a window of this size, in pixels, and a user who prefers `light` or `dark`.
    pub async fn looks(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", size).await;
        let preferred = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.command("Emulation.setEmulatedMedia", preferred).await;
    }

    /// Runs no script of any page from now on.
    pub async fn without_scripts(&mut self) {
        self.command("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    }

    /// Goes to a page.
    pub async fn open(&mut self, url: &str) {
        let opened = self.command("Page.navigate", json!({ "url": url })).await;
        assert!(opened.get("errorText").is_none(), "{opened}");
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "returnByValue": true });
        let answer = self.command("Runtime.evaluate", ask).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// What the page reads like; nothing, as long as something that it needs is still on its way, its style sheet for one.
    pub async fn text(&mut self) -> String {
        self.value("document.readyState === 'complete' ? document.body.innerText : ''")
            .await
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The text of the page, once `expected` holds of it.
    pub async fn shows(&mut self, what: &str, mut expected: impl FnMut(&str) -> bool) -> String {
        let mut text = String::new();
        mlx_tests::eventually_async(what, async || {
            text = self.text().await;
            expected(&text).then_some(())
        })
        .await;
        text
    }

    /// Writes what the window shows to `target/tests/gateway/NAME.png`.
    pub async fn screenshot(&mut self, name: &str) -> PathBuf {
        let picture = self.command("Page.captureScreenshot", json!({ "format": "png" })).await;
        let picture = BASE64.decode(picture["data"].as_str().unwrap().as_bytes()).unwrap();
        // This test is target/PROFILE/deps/NAME.
        let test = std::env::current_exe().unwrap();
        let folder = test.ancestors().nth(3).unwrap().join("tests/gateway");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, picture).unwrap();
        path
    }

    async fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.commands += 1;
        let mut command = json!({ "id": self.commands, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(command.to_string())).await.unwrap();
        loop {
            let said = within(method, self.socket.next()).await.expect("the browser is there").unwrap();
            // Events come in between.
            let Message::Text(text) = said else { continue };
            let said: Value = serde_json::from_str(&text).unwrap();
            if said["id"] == self.commands {
                assert!(said.get("error").is_none(), "{method}: {said}");
                return said["result"].clone();
            }
        }
    }
}
