//! Requests and token streams without a pause, and what became of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, Result};
use mlx_nats::{Client, Request};
use mlx_tests::{LIMIT, TestWorker, eventually};
use mlx_types::WorkerId;
use mlx_types::config::NatsConfig;
use mlx_types::messages::InferenceRequest;
use tokio::task::JoinHandle;

/// Longer than any request or stream of a healthy cluster, and shorter than what would be called hanging.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What became of all requests and streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) streams_complete: u64,
    pub(crate) streams_interrupted: u64,
    /// Neither answered nor refused within [`TIMEOUT`].
    pub(crate) unreported: u64,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    streams_complete: AtomicU64,
    streams_interrupted: AtomicU64,
    unreported: AtomicU64,
    stop: AtomicBool,
}

/// Two clients: one asks, the other answers.
pub(crate) struct Traffic {
    counts: Arc<Counts>,
    tasks: [JoinHandle<()>; 2],
    worker: TestWorker,
    _service: mlx_nats::Service,
}

impl Traffic {
    pub(crate) async fn start(config: &NatsConfig) -> Self {
        let [asks, answers] = [Client::connect(config).await.unwrap(), Client::connect(config).await.unwrap()];
        let double = async |number: Request<u64>| -> Result<u64> { Ok(*number * 2) };
        let service = answers.serve("lab.double", double).await.unwrap();
        let worker = super::worker(&answers).await;
        let counts = Arc::<Counts>::default();
        let requests = tokio::spawn(requests(asks.clone(), Arc::clone(&counts)));
        let streams = tokio::spawn(streams(asks, worker.id(), Arc::clone(&counts)));
        Self { counts, tasks: [requests, streams], worker, _service: service }
    }

    /// Waits for a request that is answered and a stream that is complete from now on.
    pub(crate) async fn is_answered_again(&self) {
        let counts = &self.counts;
        let so_far = || (counts.answered.load(Ordering::SeqCst), counts.streams_complete.load(Ordering::SeqCst));
        let before = so_far();
        // Two more streams: the next to end may have begun before.
        eventually("an answer and a stream", || so_far().0 > before.0 && so_far().1 > before.1 + 1).await;
    }

    pub(crate) async fn stop(self) -> Told {
        self.counts.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.worker.leave(LIMIT).await.unwrap();
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let Counts { answered, refused, streams_complete, streams_interrupted, unreported, .. } = &*self.counts;
        Told {
            answered: read(answered),
            refused: read(refused),
            streams_complete: read(streams_complete),
            streams_interrupted: read(streams_interrupted),
            unreported: read(unreported),
        }
    }
}

async fn requests(client: Client, counts: Arc<Counts>) {
    for number in 0_u64.. {
        if counts.stop.load(Ordering::SeqCst) {
            return;
        }
        let outcome = tokio::time::timeout(TIMEOUT, client.request::<_, _, u64>("lab.double", &number)).await;
        let counter = match outcome {
            Ok(Ok(answer)) => {
                assert_eq!(answer, 2 * number);
                &counts.answered
            }
            Ok(Err(_)) => &counts.refused,
            Err(_) => &counts.unreported,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await; // the traffic's own pace
    }
}

async fn streams(client: Client, worker: WorkerId, counts: Arc<Counts>) {
    const TOKENS: u64 = 30;
    while !counts.stop.load(Ordering::SeqCst) {
        let outcome = tokio::time::timeout(TIMEOUT, ask(&client, worker, TOKENS)).await;
        let counter = match outcome {
            Ok((TOKENS, None)) => &counts.streams_complete,
            Ok((_, Some(_))) => &counts.streams_interrupted,
            // Short, and nobody says so.
            Ok((_, None)) | Err(_) => &counts.unreported,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await; // likewise, and while the connection is down
    }
}

/// Has `worker` speak `tokens` tokens: how many came, one after another, and what the stream ended with if not its end.
pub(crate) async fn ask(client: &Client, worker: WorkerId, tokens: u64) -> (u64, Option<Error>) {
    let request = InferenceRequest::new("m", "p").max_tokens(tokens);
    let mut stream = match client.infer(worker, &request).await {
        Ok(stream) => stream,
        Err(error) => return (0, Some(error)),
    };
    let mut came = 0;
    while let Some(frame) = stream.next().await {
        match frame {
            Ok(frame) => assert_eq!(frame.index, came, "a token is missing, and nobody says so"),
            Err(error) => return (came, Some(error)),
        }
        came += 1;
    }
    (came, None)
}
