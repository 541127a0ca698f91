//! Death is known in milliseconds, and nobody is accused who only cannot be heard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use mlx_embedded::EmbeddedCluster;
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_nats::{Client, ClientOptions, InferenceOptions, RequestManyOptions, RequestOptions, TokenStream, WorkerEvent};
use mlx_tests::{
    FaultProxy, LIMIT, TEST_MODEL, TestServer, WorkerProcess, arrived, eventually, number_from_env, within,
};
use mlx_types::config::NatsConfig;
use mlx_types::messages::{FinishReason, InferenceRequest, WorkerHeartbeat, WorkerMetrics, WorkerStatus};
use mlx_types::{ClusterConfig, NatsUrl, WorkerId, subjects};
use tempfile::TempDir;

/// A silence of a minute: whatever is found out sooner is found out otherwise.
const PATIENT: &str = "discovery: { heartbeatIntervalMs: 500, offlineTimeoutMs: 60000 }";

/// Rounds of each kind: `MLX_TEST_ROUNDS=50` for the figures that are published.
fn rounds() -> u32 {
    number_from_env("MLX_TEST_ROUNDS", || 4)
}

/// The promise. A machine that does much else at the same time gets more, unless it is asked for the figures.
fn bound() -> Duration {
    Duration::from_millis(if rounds() >= 50 { 500 } else { 2_000 })
}

struct Folder {
    _folder: TempDir,
}

impl Folder {
    fn with(yaml: &str) -> (Self, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster.yaml");
        let whole = format!(
            "nats: {{ mode: external, serverUrl: \"nats://127.0.0.1:1\", reconnectTimeWait: 20, maxReconnectAttempts: 1000 }}\n{yaml}\nlogging: {{ level: warn, format: text }}\n"
        );
        std::fs::write(&file, whole).unwrap();
        (Self { _folder: folder }, file)
    }
}

fn options(yaml: &str) -> ClientOptions {
    let config: ClusterConfig =
        mlx_config::Loader::new().text("cluster.yaml", yaml).without_env().load().unwrap().into_config();
    ClientOptions::from(&config)
}

async fn controller(config: &NatsConfig, yaml: &str) -> Client {
    Client::connect_with(config, options(yaml)).await.unwrap()
}

fn worker(file: &std::path::Path, url: &NatsUrl, pause_ms: &str) -> WorkerProcess {
    WorkerProcess::start(env!("CARGO_BIN_EXE_test-worker"), file, url, WorkerId::new(), &["--pause-ms", pause_ms])
}

async fn known(client: &Client, id: WorkerId) {
    let workers = client.workers().await.unwrap();
    workers.wait_until(LIMIT, |online| online.iter().any(|worker| worker.worker_id == id)).await.unwrap();
}

async fn begun(client: &Client, id: WorkerId) -> TokenStream {
    let request = InferenceRequest::new(TEST_MODEL, "count").max_tokens(1_000_000);
    let mut tokens = client.infer(id, &request).await.unwrap();
    for _ in 0..3 {
        within("a token", tokens.next()).await.unwrap().unwrap();
    }
    tokens
}

/// How long after the kill the stream ended.
async fn killed(victim: &mut WorkerProcess, mut tokens: TokenStream) -> Duration {
    victim.kill();
    let killed = Instant::now();
    loop {
        match within("the end of the stream", tokens.next()).await.expect("an end with an error") {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::WorkerLost, "{error}");
                let ErrorKind::WorkerLost { tokens: counted, .. } = error.kind() else { panic!("{error}") };
                assert!(*counted >= 3);
                return killed.elapsed();
            }
        }
    }
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {} ms, maximum {} ms of {}", median.as_millis(), last.as_millis(), times.len());
    assert!(last <= bound(), "{what}: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_the_streams_of_a_killed_worker_end_in_half_a_second() {
    let server = TestServer::start().await;
    let (_folder, file) = Folder::with(PATIENT);
    let client = controller(&server.config(), PATIENT).await;
    let mut times = Vec::new();
    for round in 0..rounds() {
        // In the middle of tokens, and in the middle of a long silence.
        let mut victim = worker(&file, &server.embedded().client_url(), if round % 2 == 0 { "10" } else { "250" });
        known(&client, victim.id()).await;
        let tokens = begun(&client, victim.id()).await;
        times.push(killed(&mut victim, tokens).await);
    }
    tell("one server", times);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_the_same_where_the_worker_is_on_another_node_of_a_cluster() {
    let cluster = EmbeddedCluster::start(2).await.unwrap();
    let (_folder, file) = Folder::with(PATIENT);
    let urls = cluster.client_urls();
    let own = cluster.client_config().servers(vec![urls[0].clone()]);
    let client = controller(&own, PATIENT).await;
    let mut times = Vec::new();
    for _ in 0..rounds() {
        let mut victim = worker(&file, &urls[1], "10");
        known(&client, victim.id()).await;
        let tokens = begun(&client, victim.id()).await;
        times.push(killed(&mut victim, tokens).await);
    }
    tell("two nodes", times);
    cluster.stop(LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_all_streams_of_a_worker_end_and_a_request_without_a_token_may_be_tried_elsewhere() {
    let server = TestServer::start().await;
    let (_folder, file) = Folder::with(PATIENT);
    let client = controller(&server.config(), PATIENT).await;
    let id = WorkerId::new();
    let arguments = ["--preparation-ms", "600000"];
    let mut victim =
        WorkerProcess::start(env!("CARGO_BIN_EXE_test-worker"), &file, &server.embedded().client_url(), id, &arguments);
    known(&client, id).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(client.infer(id, &InferenceRequest::new(TEST_MODEL, "count")).await.unwrap());
    }
    client.flush(LIMIT).await.unwrap();
    // Until it has accepted them: from then on it is known to answer.
    let mut first = streams.pop().unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(400), first.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    victim.kill();
    streams.push(first);
    for mut stream in streams {
        let error = within("the end", stream.next()).await.unwrap().unwrap_err();
        assert_eq!(error.code(), ErrorCode::WorkerLost, "{error}");
        assert!(error.is_retryable());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_a_stopped_worker_is_judged_by_its_silence_alone() {
    let server = TestServer::start().await;
    let (_folder, file) = Folder::with(PATIENT);
    let client = controller(&server.config(), PATIENT).await;
    let mut events = client.workers().await.unwrap().events();
    let victim = worker(&file, &server.embedded().client_url(), "10");
    known(&client, victim.id()).await;
    let mut tokens = begun(&client, victim.id()).await;
    for _ in 0..rounds() {
        signal(victim.pid(), "-STOP");
        // For so long nothing may be said of it; its tokens lie in the socket.
        let stopped = Instant::now();
        while stopped.elapsed() < Duration::from_secs(2) {
            if let Ok(next) = tokio::time::timeout(Duration::from_millis(100), tokens.next()).await {
                next.unwrap().unwrap();
            }
        }
        signal(victim.pid(), "-CONT");
        within("a token", tokens.next()).await.unwrap().unwrap();
    }
    while let Some(event) = events.next().now_or_never().flatten() {
        assert!(!matches!(event, WorkerEvent::Lost(_)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_a_worker_that_is_cut_off_is_judged_by_its_silence_alone() {
    let server = TestServer::start().await;
    let proxy = FaultProxy::start(&server).await;
    let (_folder, file) = Folder::with(PATIENT);
    let client = controller(&server.config(), PATIENT).await;
    let mut events = client.workers().await.unwrap().events();
    let cut_off = worker(&file, &proxy.url(), "10");
    known(&client, cut_off.id()).await;
    let mut tokens = begun(&client, cut_off.id()).await;
    for _ in 0..rounds() {
        proxy.stall();
        let stalled = Instant::now();
        while stalled.elapsed() < Duration::from_secs(2) {
            if let Ok(next) = tokio::time::timeout(Duration::from_millis(100), tokens.next()).await {
                next.unwrap().unwrap();
            }
        }
        proxy.resume();
        within("a token", tokens.next()).await.unwrap().unwrap();
    }
    while let Some(event) = events.next().now_or_never().flatten() {
        assert!(!matches!(event, WorkerEvent::Lost(_)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_a_worker_that_connects_again_is_not_called_dead() {
    let server = TestServer::start().await;
    let proxy = FaultProxy::start(&server).await;
    let client = controller(&server.config(), PATIENT).await;
    let id = WorkerId::new();
    let connection = Client::connect(&proxy.in_front(server.config())).await.unwrap();
    let _worker = connection
        .serve_inference(id, InferenceOptions::default(), |_, mut tokens| async move {
            tokens.cancelled().await;
            Ok(FinishReason::Stop)
        })
        .await
        .unwrap();
    // Nothing is lost with a connection on which no token was sent, so that this stream goes on.
    let mut tokens = client.infer(id, &InferenceRequest::new(TEST_MODEL, "p")).await.unwrap();
    for _ in 0..rounds().max(5) {
        let quiet = tokio::time::timeout(Duration::from_millis(600), tokens.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        let before = proxy.accepted();
        proxy.cut();
        eventually("the return", || proxy.accepted() > before && connection.state().is_connected()).await;
    }
    let quiet = tokio::time::timeout(Duration::from_secs(1), tokens.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d2_a_controller_that_slept_reads_before_it_judges() {
    const SLEEPY: &str =
        "discovery: { heartbeatIntervalMs: 300, offlineTimeoutMs: 1000 }\nstreaming: { interTokenTimeoutMs: 1000 }";
    let server = TestServer::start().await;
    let (_folder, file) = Folder::with(SLEEPY);
    let _worker = worker(&file, &server.embedded().client_url(), "10");
    let mut controller = Command::new(env!("CARGO_BIN_EXE_test-controller"))
        .arg(&file)
        .args(["10", "600"])
        .env("MLX_NATS__SERVER_URL", server.embedded().client_url().as_str_without_credentials())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = controller.id();
    let mut lines = BufReader::new(controller.stdout.take().unwrap()).lines();
    let (asked, wait) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            let _ = asked.send(());
            said.push(line);
        }
        said
    });
    tokio::task::spawn_blocking(move || wait.recv_timeout(Duration::from_secs(30)).unwrap()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await; // in the middle of its streams
    signal(pid, "-STOP");
    tokio::time::sleep(Duration::from_secs(3)).await; // asleep for three offline timeouts, which is what is tested
    signal(pid, "-CONT");
    let said = tokio::task::spawn_blocking(move || reader.join().unwrap()).await.unwrap();
    assert!(controller.wait().unwrap().success());
    assert_eq!(said[1..], vec!["whole 600".to_owned(); 10], "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d3_a_killed_worker_is_offline_within_a_heartbeat_and_half_a_second() {
    let server = TestServer::start().await;
    let (_folder, file) = Folder::with(PATIENT);
    let client = controller(&server.config(), PATIENT).await;
    let workers = client.workers().await.unwrap();
    let mut times = Vec::new();
    for _ in 0..rounds() {
        let mut victim = worker(&file, &server.embedded().client_url(), "10");
        known(&client, victim.id()).await;
        let id = victim.id();
        // Some heartbeats, so that their pace is known, and that it answers.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(workers.get(id).is_some());
        victim.kill();
        let killed = Instant::now();
        eventually("the loss", || workers.get(id).is_none()).await;
        times.push(killed.elapsed());
    }
    times.sort();
    println!("offline: median {:?}, maximum {:?}", times[times.len() / 2], times[times.len() - 1]);
    let limit = if rounds() >= 50 { Duration::from_secs(1) } else { Duration::from_secs(3) };
    assert!(times[times.len() - 1] <= limit, "{times:?}");
}

#[tokio::test]
async fn d2_who_only_beats_and_serves_nothing_is_judged_by_its_silence_alone() {
    let server = TestServer::start().await;
    let client = controller(&server.config(), PATIENT).await;
    let workers = client.workers().await.unwrap();
    let id = WorkerId::new();
    let mut beat = WorkerHeartbeat::new(id, WorkerStatus::Online, WorkerMetrics::default());
    for epoch in [None, Some(mlx_types::Epoch::now())] {
        beat.epoch = epoch;
        client.publish(&subjects::WORKER_HEARTBEAT, &beat).await.unwrap();
    }
    known(&client, id).await;
    tokio::time::sleep(Duration::from_secs(2)).await; // four heartbeats too late, which is what is tested
    assert!(workers.get(id).is_some());
}

#[tokio::test]
async fn what_comes_from_the_future_takes_nobody_out_and_a_bad_figure_is_a_sign_of_life() {
    let server = TestServer::start().await;
    let client = controller(&server.config(), PATIENT).await;
    let workers = client.workers().await.unwrap();
    let (id, epoch) = (WorkerId::new(), mlx_types::Epoch::now());
    let mut beat = WorkerHeartbeat::new(id, WorkerStatus::Online, WorkerMetrics::default());
    beat.epoch = Some(epoch);
    let say = async |subject: &str, value: serde_json::Value| client.publish(subject, &value).await.unwrap();
    client.publish(&subjects::WORKER_HEARTBEAT, &beat).await.unwrap();
    known(&client, id).await;
    let mut events = workers.events();
    let future = 9_000_000_000_000_000_u64;
    let mut strange = serde_json::to_value(&beat).unwrap();
    strange["epoch"] = future.into();
    say("worker.heartbeat", strange.clone()).await;
    strange["epoch"] = epoch.as_millis().into();
    strange["timestamp"] = future.into();
    say("worker.heartbeat", strange.clone()).await;
    strange["metrics"]["cpuUsagePercent"] = 100.1.into();
    strange["timestamp"] = beat.timestamp.as_millis().into();
    say("worker.heartbeat", strange).await;
    within("figures that are none", async {
        while workers.get(id).unwrap().metrics.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(events.next().now_or_never().flatten().is_none(), "neither replaced nor lost");
    // A farewell of an incarnation that cannot have begun is nobody's; one behind it, of another worker, shows that it was read.
    let (other, mut witness) = (WorkerId::new(), beat.clone());
    witness.worker_id = other;
    client.publish(&subjects::WORKER_HEARTBEAT, &witness).await.unwrap();
    known(&client, other).await;
    say("worker.deregister", serde_json::json!({ "workerId": id, "timestamp": future, "epoch": future })).await;
    say("worker.deregister", serde_json::json!({ "workerId": id, "timestamp": future })).await;
    say("worker.deregister", serde_json::json!({ "workerId": other, "timestamp": future, "epoch": epoch })).await;
    // Which leaves as well by a clock that is ahead, since it says its own epoch.
    eventually("the farewell", || workers.get(other).is_none()).await;
    assert!(workers.get(id).is_some());
    while let Some(event) = events.next().now_or_never().flatten() {
        assert!(matches!(event, WorkerEvent::Online(told) | WorkerEvent::Left(told) if told == other), "{event:?}");
    }
}

/// A client on a runtime of one thread, and whoever answers it on another.
struct Apart {
    server: TestServer,
    _answering: tokio::task::JoinHandle<()>,
}

impl Apart {
    async fn start() -> Self {
        let server = TestServer::start().await;
        let nats = server.foreign_client().await;
        let mut questions = nats.subscribe("lab.question").await.unwrap();
        arrived(&nats).await;
        let answering = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                // After the client has fallen asleep, and long before it wakes.
                tokio::time::sleep(Duration::from_millis(300)).await;
                nats.publish(question.reply.unwrap(), "7".into()).await.unwrap();
                arrived(&nats).await;
            }
        });
        Self { server, _answering: answering }
    }

    /// What `ask` comes to in a process that sleeps from soon after its question until well past its timeout.
    async fn asleep<T: Send + 'static>(&self, ask: impl AsyncFnOnce(Client) -> T + Send + 'static) -> T {
        let config = self.server.config();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = Client::connect(&config).await.unwrap();
                tokio::spawn(async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    // Nothing else runs meanwhile: no socket is read and no timer fires, as in a stopped process.
                    std::thread::sleep(Duration::from_secs(2));
                });
                ask(client).await
            })
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_an_answer_that_came_while_the_process_slept_is_the_answer() {
    let apart = Apart::start().await;
    let ask = async |client: Client| {
        let options = RequestOptions::default().timeout(Duration::from_secs(1));
        client.request_with::<_, _, u64>("lab.question", &0, options).await
    };
    assert_eq!(apart.asleep(ask).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_answers_of_many_that_came_while_the_process_slept_are_gathered() {
    let (apart, _other) = {
        let apart = Apart::start().await;
        let nats = apart.server.foreign_client().await;
        let mut questions = nats.subscribe("lab.question").await.unwrap();
        arrived(&nats).await;
        let other = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                tokio::time::sleep(Duration::from_millis(400)).await; // as the first one
                nats.publish(question.reply.unwrap(), "8".into()).await.unwrap();
                arrived(&nats).await;
            }
        });
        (apart, other)
    };
    let ask = async |client: Client| {
        let options = RequestManyOptions::default().timeout(Duration::from_secs(1));
        mlx_tests::ask_all::<_, _, u64>(&client, "lab.question", &0, options).await
    };
    let answers: Vec<u64> = apart.asleep(ask).await.unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, [7, 8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_a_request_without_an_answer_times_out_after_a_sleep_as_well() {
    let apart = Apart::start().await;
    let nats = apart.server.foreign_client().await;
    let _silent = nats.subscribe("lab.silent").await.unwrap();
    arrived(&nats).await;
    let ask = async |client: Client| {
        let options = RequestOptions::default().timeout(Duration::from_secs(1));
        client.request_with::<_, _, u64>("lab.silent", &0, options).await
    };
    assert_eq!(apart.asleep(ask).await.unwrap_err().code(), ErrorCode::NatsTimeout);
}

#[tokio::test]
async fn waiting_for_workers_ends_with_the_client_and_says_what_was_waited_for() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let workers = client.workers().await.unwrap();
    let error = workers.wait_until(Duration::from_millis(50), |_| false).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsTimeout);
    assert!(error.to_string().contains("workers") && !error.to_string().contains("no reply"), "{error}");
    let waiting = workers.wait_until(Duration::from_mins(10), |_| false);
    let (ended, ()) =
        within("the end", async { tokio::join!(waiting, async { client.shutdown(LIMIT).await.unwrap() }) }).await;
    assert_eq!(ended.unwrap_err().code(), ErrorCode::NatsClosed);
    let again = within("the end", workers.wait_until(Duration::from_mins(10), |_| false)).await;
    assert_eq!(again.unwrap_err().code(), ErrorCode::NatsClosed);
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}
