//! What the tests of this crate share.
#![allow(dead_code, reason = "no test uses all of it")]

use std::path::Path;
use std::time::{Duration, Instant};

use mlx_embedded::{EmbeddedServer, ServerState};
use mlx_types::config::NatsConfig;

/// A configuration with free ports.
pub(crate) fn any_port() -> NatsConfig {
    let mut config = NatsConfig::default();
    config.embedded.port = 0;
    config.embedded.http_port = 0;
    config
}

/// [`any_port`] with JetStream in `folder`.
pub(crate) fn with_jetstream(folder: &Path) -> NatsConfig {
    let mut config = any_port();
    config.embedded.jetstream.enabled = true;
    config.embedded.jetstream.store_dir = folder.to_path_buf();
    config
}

/// Waits until `condition` holds; `what` is told if it does not within `limit`.
pub(crate) fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {} ms in vain: {what}", limit.as_millis());
        std::thread::sleep(Duration::from_millis(5)); // between two looks at something that cannot wake us
    }
}

/// Waits until the server's state is one that `wanted` accepts.
pub(crate) async fn until_state(server: &EmbeddedServer, wanted: impl Fn(&ServerState) -> bool) -> ServerState {
    let mut state = server.watch_state();
    let reached = tokio::time::timeout(Duration::from_secs(30), state.wait_for(wanted)).await;
    reached.expect("the state is reached").expect("the server is still watched").clone()
}

/// Whether there is a process `pid` that has not ended; one that nobody has waited for yet has.
pub(crate) fn is_running(pid: u32) -> bool {
    let number = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process id");
    if rustix::process::test_kill_process(number).is_err() {
        return false;
    }
    // The state follows the name, which is in parentheses and may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
}

/// Kills `pid` as the kernel would for lack of memory.
pub(crate) fn sigkill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Sends `signal` to `pid`.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let number = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process id");
    rustix::process::kill_process(number, signal).expect("it is there to be signalled");
}

/// A program in `folder` that says it is a nats-server, and otherwise runs `script`.
///
/// It is written by another process: a file that a thread of this one has open for writing, and that a fork inherits,
/// cannot be run.
pub(crate) fn program(folder: &Path, script: &str) -> std::path::PathBuf {
    let path = folder.join("nats-server");
    let text = format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'nats-server: v2.12.8'; exit; fi\n{script}\n");
    let written = std::process::Command::new("sh")
        .args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .arg(text)
        .status()
        .expect("sh");
    assert!(written.success());
    path
}

/// A nats-server of somebody else.
pub(crate) struct Stranger {
    pub(crate) process: tokio::process::Child,
    pub(crate) port: u16,
    pub(crate) monitoring_port: u16,
    _folder: tempfile::TempDir,
}

/// Starts one on a free port, with monitoring on another.
pub(crate) fn stranger() -> Stranger {
    let folder = tempfile::tempdir().expect("it works");
    let process = tokio::process::Command::new(mlx_embedded::Binary::find(None).expect("it works").path)
        .args(["-a", "127.0.0.1", "-p", "-1", "-m", "-1", "--ports_file_dir"])
        .arg(folder.path())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it works");
    let mut ports = None;
    until(Duration::from_secs(10), "the stranger listens", || {
        let mut files = std::fs::read_dir(folder.path()).expect("a folder").flatten();
        let text = files.find_map(|file| std::fs::read_to_string(file.path()).ok()).unwrap_or_default();
        let file: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let port = |list: &str| file[list][0].as_str()?.rsplit_once(':')?.1.parse().ok();
        ports = port("nats").zip(port("monitoring"));
        ports.is_some()
    });
    let (port, monitoring_port) = ports.expect("until it listens");
    Stranger { process, port, monitoring_port, _folder: folder }
}

/// A request of JetStream, made again while the connection or the stream's leader is on its way back.
///
/// Each has an id, so that a message whose answer was lost is not stored twice.
pub(crate) async fn ask(client: &async_nats::Client, subject: &str, body: &serde_json::Value) -> serde_json::Value {
    // JetStream is temporarily unavailable, and no suitable peers for placement.
    const PASSING: [u64; 2] = [10_008, 10_005];
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("{subject} {:?}", Instant::now()));
    // A new leader takes up to ten seconds to be elected, and longer on a busy machine.
    let deadline = Instant::now() + Duration::from_mins(1);
    while Instant::now() < deadline {
        let payload = serde_json::to_vec(body).expect("JSON").into();
        let request = client.request_with_headers(subject.to_owned(), headers.clone(), payload);
        match tokio::time::timeout(Duration::from_secs(2), request).await {
            Ok(Ok(answer)) => {
                let answer: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
                if !answer["error"]["err_code"].as_u64().is_some_and(|code| PASSING.contains(&code)) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(50)).await; // between two requests, as below
            }
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(_) => {}
        }
    }
    panic!("no answer on {subject}");
}
