//! The durable promise at large: a thousand requests, and workers that are killed at random.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use futures_util::{StreamExt, stream};
use mlx_errors::ErrorCode;
use mlx_nats::Client;
use mlx_tests::{WorkerProcess, number_from_env};
use mlx_types::RequestId;
use mlx_types::messages::{InferenceRequest, StreamingResponse};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Server, drain, frames, held, indexes, queued};

const REQUESTS: u64 = 1000;
/// Asked at once.
const UNDER_WAY: usize = 48;
const TOKENS: u64 = 5;
const WORKERS: usize = 4;

#[tokio::test]
async fn each_of_a_thousand_requests_is_answered_while_workers_are_killed() {
    let seed = number_from_env("MLX_TEST_SEED", || fastrand::u64(..));
    println!("MLX_TEST_SEED={seed}");
    let server = Arc::new(Server::start().await);
    let client = server.client().await;
    let observer = observe(&server.client().await).await;
    let deaths = Arc::new(AtomicU64::new(0));
    let killer = tokio::spawn(kill_at_random(Arc::clone(&server), seed, Arc::clone(&deaths)));

    let begun = Instant::now();
    let asked = stream::iter(0..REQUESTS).map(|_| until_answered(&client)).buffer_unordered(UNDER_WAY);
    let sums = asked.fold(Sums::default(), |sums, one| async move { sums + one }).await;
    let took = begun.elapsed();
    killer.abort();
    let _ = killer.await; // the processes die with it
    queued(&client, 0).await;
    let letters = letters(&client).await;
    let runs = observer.so_far(&client).await;

    let taken_over = runs.values().filter(|attempts| attempts.last() > Some(&1)).count();
    let second = runs.values().filter(|attempts| attempts.len() > 1).count();
    println!(
        "{} asked: {} answered, {} cut short by a death after the first token, {} dead letters; {} taken over, {} of \
         them begun before; {} workers killed; {:.1} s",
        sums.asked,
        sums.answered,
        sums.cut_short.len(),
        sums.dead.len(),
        taken_over,
        second,
        deaths.load(Ordering::Relaxed),
        took.as_secs_f64()
    );
    assert_eq!(sums.answered, REQUESTS, "each is answered");
    let reported = (sums.cut_short.len() + sums.dead.len()) as u64;
    assert_eq!(sums.asked, sums.answered + reported, "each end is one of these, and reported");
    assert!(letters.is_superset(&sums.dead), "a request reported as dead is not kept");
    // One whose first worker died between its first token and the acknowledgement may be begun, and given up, after its
    // requester was told of that death.
    let told = &sums.dead | &sums.cut_short;
    assert!(letters.is_subset(&told), "a dead letter that nobody was told of: {letters:?}");
    assert!(deaths.load(Ordering::Relaxed) >= 10, "too few deaths to prove anything");
    assert!(taken_over > 0, "no worker took over from a dead one");
    let begun = u64::try_from(runs.len()).unwrap();
    assert!(begun >= sums.answered + sums.cut_short.len() as u64, "an answer that nobody saw begin");
}

/// The requests that were given up.
async fn letters(client: &Client) -> BTreeSet<RequestId> {
    let mut letters = BTreeSet::new();
    for sequence in 1..=held(client, "MLX_INFERENCE_DEAD").await {
        let get = json!({ "seq": sequence });
        let found: Value = client.request("$JS.API.STREAM.MSG.GET.MLX_INFERENCE_DEAD", &get).await.unwrap();
        let data = found["message"]["data"].as_str().unwrap_or_else(|| panic!("{found}"));
        let request: InferenceRequest = serde_json::from_slice(&BASE64.decode(data.as_bytes()).unwrap()).unwrap();
        assert!(letters.insert(request.request_id), "a dead letter twice: {}", request.request_id);
    }
    letters
}

#[derive(Default)]
struct Sums {
    asked: u64,
    answered: u64,
    cut_short: BTreeSet<RequestId>,
    dead: BTreeSet<RequestId>,
}

impl std::ops::Add for Sums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            asked: self.asked + other.asked,
            answered: self.answered + other.answered,
            cut_short: &self.cut_short | &other.cut_short,
            dead: &self.dead | &other.dead,
        }
    }
}

/// Asks, and asks again under a new id where the answer is reported not to come, as a user would.
async fn until_answered(client: &Client) -> Sums {
    let mut sums = Sums::default();
    loop {
        sums.asked += 1;
        let request = indexes(TOKENS);
        let answer = drain(client.infer_durable(&request).await.unwrap()).await;
        let Some(error) = answer.error else {
            assert_eq!(answer.tokens, ["0", "1", "2", "3", "4"]);
            sums.answered = 1;
            return sums;
        };
        match error.code() {
            ErrorCode::WorkerLost => {
                assert!(!answer.tokens.is_empty(), "a request is not lost with a worker that had not begun: {error}");
                sums.cut_short.insert(request.request_id);
            }
            ErrorCode::RequestDead => drop(sums.dead.insert(request.request_id)),
            _ => panic!("an end that nothing here explains: {error}"),
        }
    }
}

/// Kills one of the workers every now and then, and has another take its place.
async fn kill_at_random(server: Arc<Server>, seed: u64, deaths: Arc<AtomicU64>) {
    let start = || server.worker(&["--max-concurrent", "4", "--preparation-ms", "30", "--pause-ms", "8"]);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut workers: Vec<WorkerProcess> = (0..WORKERS).map(|_| start()).collect();
    loop {
        tokio::time::sleep(Duration::from_millis(random.u64(50..250))).await; // the pace of the deaths
        let victim = random.usize(..WORKERS);
        workers[victim].kill();
        workers[victim] = start();
        deaths.fetch_add(1, Ordering::Relaxed);
    }
}

/// The attempts at each request that brought a first token.
type Runs = HashMap<RequestId, BTreeSet<u64>>;

struct Observer(JoinHandle<Runs>);

/// Listens to every answer, whoever asked.
async fn observe(client: &Client) -> Observer {
    let mut frames = frames(client).await;
    Observer(tokio::spawn(async move {
        let (mut runs, end) = (Runs::new(), END.parse::<RequestId>().unwrap());
        while let Some(frame) = frames.next().await {
            let frame = frame.unwrap();
            let attempt = frame.header("Mlx-Attempt").map_or(1, |attempt| attempt.parse().unwrap());
            match *frame {
                StreamingResponse::Token { request_id, index: 0, .. } => {
                    let new = runs.entry(request_id).or_default().insert(attempt);
                    assert!(new, "two runs of {request_id} that cannot be told apart: attempt {attempt}");
                }
                StreamingResponse::Done { request_id, .. } if request_id == end => break,
                _ => {}
            }
        }
        runs
    }))
}

/// No request's id: its frame ends the observation.
const END: &str = "00000000-0000-4000-8000-000000000000";

impl Observer {
    /// What was seen up to now.
    async fn so_far(self, client: &Client) -> Runs {
        let request_id = END.parse().unwrap();
        let end =
            StreamingResponse::Done { request_id, total_tokens: 0, latency_ms: 0.0, finish_reason: None, usage: None };
        client.publish(&mlx_types::subjects::response(request_id), &end).await.unwrap();
        self.0.await.unwrap()
    }
}
