//! `mlx-node demo` as its users run it: real processes, a real server, real signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mlx_embedded::EmbeddedServer;
use mlx_types::config::NatsConfig;
use serde_json::{Value, json};

/// Far longer than anything here takes, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

const PROGRAM: &str = env!("CARGO_BIN_EXE_mlx-node");

/// The demo, on free ports, with the shipped configuration.
fn cluster(arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(PROGRAM);
    command
        .arg("demo")
        .args(["--config", root.join("config/cluster.yaml").to_str().unwrap()])
        .args(arguments)
        .env("MLX_NATS__EMBEDDED__PORT", "0")
        .env("MLX_NATS__EMBEDDED__HTTP_PORT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str], stdin: &str) -> Output {
    let mut child = cluster(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_prompt_is_answered_and_summed_up() {
    let output = run(&["--tokens-per-second", "1000", "Tell me about NATS"], "");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("backwards it reads: NATS about me Tell"), "{stdout}");
    assert!(stdout.contains("first token") && stdout.contains("1 of 1 prompts answered"), "{stdout}");
}

#[test]
fn fifty_prompts_are_answered_once_each_by_three_processes() {
    let prompts: String = (1..=50).fold(String::new(), |text, number| text + &format!("prompt number {number}\n"));
    let output = run(&["--workers", "3", "--tokens-per-second", "2000"], &prompts);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}{}", text(&output.stderr));
    let mut pids = BTreeSet::new();
    for number in 1..=50 {
        let heading = format!("[{number}] prompt number {number}  -> worker ");
        assert_eq!(stdout.matches(&heading).count(), 1, "{heading}");
        let answer = format!("You said: prompt number {number} There");
        assert_eq!(stdout.matches(&answer).count(), 1, "{answer}");
        let pid = stdout.split_once(&heading).unwrap().1.split_once("(pid ").unwrap().1;
        pids.insert(pid.split_once(')').unwrap().0.to_owned());
    }
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(stdout.contains("50 of 50 prompts answered"), "{stdout}");
}

#[test]
fn s4_a_killed_worker_ends_its_stream_with_a_typed_error_and_the_others_finish() {
    let started = Instant::now();
    let output = run(&["--kill-worker"], "first\nsecond\nthird\n");
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{stdout}{}", text(&output.stderr));
    assert_eq!(stdout.matches("[WORKER_LOST: ").count(), 1, "{stdout}");
    assert!(stdout.contains("was lost after 3 tokens"), "{stdout}");
    assert!(stdout.contains("2 of 3 prompts answered"), "{stdout}");
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
}

#[test]
fn m5_a_taken_port_is_named_with_the_setting_to_change_and_nothing_is_left() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = cluster(&["p"]).env("MLX_NATS__EMBEDDED__PORT", &port).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&port) && stderr.contains("nats.embedded.port"), "{stderr}");
}

#[test]
fn a_misspelt_key_is_pointed_at() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.yaml");
    std::fs::write(&file, "nats:\n  embedded:\n    prot: 4222\n").unwrap();
    let output = Command::new(PROGRAM).args(["demo", "--config", file.to_str().unwrap(), "p"]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(":3:5") && stderr.contains("prot") && stderr.contains("port"), "{stderr}");
}

#[test]
fn m1_an_interrupted_cluster_leaves_no_process() {
    for signal in ["-INT", "-TERM"] {
        let mut running = Running::start();
        running.signal(signal);
        let status = running.controller.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{signal}");
        running.assert_all_gone();
    }
}

#[test]
fn m1_a_killed_controller_takes_the_server_and_the_workers_with_it() {
    let mut running = Running::start();
    running.signal("-KILL");
    running.controller.wait().unwrap();
    running.assert_all_gone();
}

/// A cluster in the middle of an answer, and the processes that belong to it.
struct Running {
    controller: Child,
    others: Vec<u32>,
    /// Held open; standard error is not, which must not trouble anyone.
    _stdout: ChildStdout,
}

impl Running {
    fn start() -> Self {
        let mut controller = cluster(&["--tokens-per-second", "1", "a prompt that takes a while"]).spawn().unwrap();
        let mut stderr = BufReader::new(controller.stderr.take().unwrap());
        let mut others = Vec::new();
        while others.len() < 3 {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the cluster ended at once");
            if let Some((_, rest)) = line.split_once("is process ") {
                others.push(rest.split(',').next().unwrap().trim().parse().unwrap());
            }
        }
        // The first token has arrived, so everything is up.
        let mut stdout = controller.stdout.take().unwrap();
        let mut seen = String::new();
        while !seen.contains("You ") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            seen.push(char::from(byte[0]));
        }
        Self { controller, others, _stdout: stdout }
    }

    fn signal(&self, name: &str) {
        let pid = self.controller.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn assert_all_gone(&self) {
        // The promise is 2 s; the rest is for a busy machine.
        let deadline = Instant::now() + Duration::from_secs(5);
        for pid in &self.others {
            while is_running(*pid) {
                assert!(Instant::now() < deadline, "process {pid} is still there");
                std::thread::sleep(Duration::from_millis(20)); // between two looks at the process table
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

/// Whether a process exists and is not merely waiting to be collected.
fn is_running(pid: u32) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = text(&state.stdout);
    !state.trim().is_empty() && !state.starts_with('Z')
}

/// What a client that is not ours hears of a cluster is the contract, to the letter.
#[tokio::test]
async fn the_wire_contract_is_what_nats_py_sees() {
    let python_path = std::env::var("MLX_TEST_PYTHONPATH")
        .expect("MLX_TEST_PYTHONPATH names a folder with nats-py; `cargo xtask test` sees to it");
    let mut config = NatsConfig::default();
    config.embedded.port = 0;
    config.embedded.http_port = 0;
    let server = EmbeddedServer::start(&config).await.unwrap();
    let url = server.client_url().to_string();

    let mut tap = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tap.py"))
        .arg(&url)
        .env("PYTHONPATH", python_path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = BufReader::new(tap.stdout.take().unwrap()).lines();
    assert_eq!(heard.next().unwrap().unwrap(), "ready");
    let output = cluster(&["--workers", "1", "--tokens-per-second", "500", "--max-tokens", "4", "Hello there"])
        .env("MLX_NATS__MODE", "external")
        .env("MLX_NATS__SERVER_URL", &url)
        // One frame a token, whatever the machine is busy with.
        .env("MLX_STREAMING__COALESCE", "false")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    drop(tap.stdin.take());
    let heard: Vec<Value> = heard.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(tap.wait().unwrap().success());
    check_against_the_contract(&heard);
    server.stop(LIMIT).await.unwrap();
}

fn check_against_the_contract(heard: &[Value]) {
    let mut by_subject: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for message in heard {
        let subject = message["subject"].as_str().unwrap();
        // One frame a token, but with the incarnation of the worker in it.
        let reason = if subject.ends_with(".inference") { json!({ "Mlx-Accept": "delta" }) } else { json!({}) };
        assert_eq!(message["headers"], reason, "no header without a reason: {message}");
        by_subject.entry(subject).or_default().push(message);
    }
    let first = |subject: &str| by_subject.get(subject).unwrap_or_else(|| panic!("nothing on {subject}"))[0];

    let registration = &first("worker.register")["body"];
    let worker = registration["workerId"].as_str().unwrap();
    assert_eq!(members(registration), "capabilities epoch hostname ip port skills status timestamp workerId");
    assert_eq!(members(&registration["skills"]), "availableModels lastScanned modelPaths totalModelSize");
    assert_eq!(registration["status"], "online");

    let beat = &first("worker.heartbeat")["body"];
    assert_eq!(members(beat), "epoch metrics status timestamp workerId");
    assert_eq!(
        members(&beat["metrics"]),
        "activeRequests avgLatencyMs cpuUsagePercent gpuUtilizationPercent memoryUsedGB modelsLoaded totalRequestsHandled"
    );

    let asked = first(&format!("worker.{worker}.inference"));
    assert!(asked["reply"].as_str().unwrap().starts_with("_INBOX."), "{asked}");
    let request = asked["body"]["requestId"].as_str().unwrap();
    assert_eq!(
        asked["body"],
        json!({ "requestId": request, "modelId": "stand-in", "prompt": "Hello there", "maxTokens": 4 })
    );

    let frames: Vec<&Value> =
        by_subject[format!("response.{request}").as_str()].iter().map(|frame| &frame["body"]).collect();
    let epoch = frames[0]["epoch"].as_u64().unwrap();
    for (index, token) in ["You ", "said: ", "Hello ", "there "].iter().enumerate() {
        let frame = json!({ "requestId": request, "type": "token", "token": token, "index": index, "epoch": epoch });
        assert_eq!(*frames[index], frame);
    }
    let latency = frames[4]["latencyMs"].as_f64().unwrap();
    let done = json!({
        "requestId": request, "type": "done", "totalTokens": 4, "latencyMs": latency, "finishReason": "length",
        "epoch": epoch
    });
    assert_eq!(*frames[4], done);
    assert_eq!(frames.len(), 5, "nothing follows the end");

    assert_eq!(first("worker.deregister")["body"]["workerId"], worker);
    assert_eq!(members(&first("cluster.announce")["body"]), "event timestamp");
    assert!(!by_subject.contains_key("cluster.shutdown"), "this bus is not its own to shut down");
}

fn members(object: &Value) -> String {
    let names: BTreeSet<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.into_iter().collect::<Vec<_>>().join(" ")
}
