//! Requests and token streams in the storm.
//!
//! Each request ends with exactly one answer, the right one, or with an error, and is handled at most once. Each stream
//! brings its tokens in order and without a gap, and ends in exactly one way. Of those during which both connections
//! stood all the while, none fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use mlx_errors::{ErrorCode, Result};
use mlx_nats::{InferenceOptions, Request, ServeOptions};
use mlx_tests::ledger::Window;
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::node::Node;

const ASKERS: usize = 4;
const TOKENS: u64 = 100;

/// How a request may fail when a connection does.
const POSSIBLE: [ErrorCode; 3] = [ErrorCode::NatsDisconnected, ErrorCode::NatsNoResponders, ErrorCode::NatsTimeout];

/// How everything that was asked ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Those during which both connections stood.
    pub(crate) undisturbed: u64,
    pub(crate) endings: BTreeMap<String, u64>,
    pub(crate) violations: Vec<String>,
}

/// One request or stream.
struct Exchange {
    what: &'static str,
    began: Instant,
    ended: Instant,
    /// Unset if it went well.
    error: Option<ErrorCode>,
}

#[derive(Default)]
struct Notes {
    exchanges: Vec<Exchange>,
    violations: Vec<String>,
}

type Shared = Arc<Mutex<Notes>>;

/// Asks until it is over.
pub(crate) async fn run(
    asker: Node,
    answerer: Node,
    over: Arc<AtomicBool>,
    finished: watch::Receiver<bool>,
) -> Outcome {
    let notes = Shared::default();
    let handled = Arc::new(Mutex::new(HashMap::<u64, u32>::new()));
    let seen = Arc::clone(&handled);
    let echo = move |request: Request<u64>| {
        *seen.lock().unwrap().entry(*request).or_default() += 1;
        async move { Ok(*request) }
    };
    let options = ServeOptions::default().max_concurrent(1000);
    let _echo = answerer.client.serve_with::<_, u64, u64, _, _>("storm-echo", options, echo).await.unwrap();
    let worker = WorkerId::new();
    let options = InferenceOptions::default().max_concurrent(1000);
    let counting = |_request, mut tokens: mlx_nats::TokenSink| async move {
        for index in 0..TOKENS {
            tokens.send(index.to_string()).await?;
            if index % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(3)).await; // the model's own time
            }
        }
        Ok(FinishReason::Length)
    };
    let _inference = answerer.client.serve_inference(worker, options, counting).await.unwrap();

    let windows = join(asker.clone().windows(finished.clone()), answerer.clone().windows(finished));
    let windows = tokio::spawn(windows);
    let numbers = Arc::new(AtomicU64::new(0));
    let requests = (0..ASKERS).map(|_| {
        let (asker, over) = (asker.clone(), Arc::clone(&over));
        tokio::spawn(request(asker, Arc::clone(&numbers), over, Arc::clone(&notes)))
    });
    let streams =
        (0..ASKERS).map(|_| tokio::spawn(stream(asker.clone(), worker, Arc::clone(&over), Arc::clone(&notes))));
    let tasks: Vec<_> = requests.chain(streams).collect();
    join_all(tasks).await.into_iter().for_each(Result::unwrap);

    let (asker, answerer) = windows.await.unwrap();
    let Notes { exchanges, violations } = std::mem::take(&mut *notes.lock().unwrap());
    let mut outcome = Outcome { violations, ..Outcome::default() };
    for (number, times) in handled.lock().unwrap().iter().filter(|(_, times)| **times > 1) {
        outcome.violations.push(format!("request {number} was handled {times} times"));
    }
    for exchange in exchanges {
        let Exchange { what, began, ended, error } = exchange;
        let end = error.map_or("well", ErrorCode::as_str);
        *outcome.endings.entry(format!("{what}: {end}")).or_default() += 1;
        let stood = |windows: &[Window]| windows.iter().any(|window| window.covers(began, ended));
        if stood(&asker) && stood(&answerer) {
            outcome.undisturbed += 1;
            if error.is_some() {
                outcome.violations.push(format!("a {what} ended as {end} after {:?}, undisturbed", ended - began));
            }
        }
    }
    outcome
}

/// Waits for the end of the asking, which comes with the end of everything else.
pub(crate) async fn settle(asking: JoinHandle<Outcome>, finish: &watch::Sender<bool>) -> Outcome {
    let _ = finish.send(true);
    let outcome = asking.await.unwrap();
    assert!(outcome.undisturbed > 0, "nothing was proved of requests and streams");
    outcome
}

async fn request(asker: Node, numbers: Arc<AtomicU64>, over: Arc<AtomicBool>, notes: Shared) {
    while !over.load(Ordering::Relaxed) {
        asker.connected().await;
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let answer: Result<u64> = asker.client.request("storm-echo", &number).await;
        let wrong = match &answer {
            Ok(answer) => (*answer != number).then(|| format!("request {number} was answered {answer}")),
            Err(error) => (!POSSIBLE.contains(&error.code())).then(|| format!("request {number} failed as {error}")),
        };
        {
            let mut notes = notes.lock().unwrap();
            let error = answer.err().map(|error| error.code());
            notes.exchanges.push(Exchange { what: "request", began, ended: Instant::now(), error });
            notes.violations.extend(wrong);
        }
        tokio::time::sleep(Duration::from_millis(5)).await; // the askers' own pace
    }
}

async fn stream(asker: Node, worker: WorkerId, over: Arc<AtomicBool>, notes: Shared) {
    while !over.load(Ordering::Relaxed) {
        asker.connected().await;
        let began = Instant::now();
        let (error, wrong) = match asker.client.infer(worker, &InferenceRequest::new("m", "p")).await {
            Ok(mut stream) => {
                let (mut received, mut error, mut wrong) = (0, None, Vec::new());
                while let Some(frame) = stream.next().await {
                    if error.is_some() {
                        wrong.push(format!("something came after the end of a stream: {frame:?}"));
                    }
                    match frame {
                        Ok(frame) if frame.index == received && frame.text == received.to_string() => received += 1,
                        Ok(frame) => wrong.push(format!("{frame:?} instead of {received}")),
                        Err(end) => error = Some(end.code()),
                    }
                }
                if error.is_none() && received != TOKENS {
                    wrong.push(format!("a stream ended cleanly after {received} tokens"));
                }
                (error, wrong)
            }
            Err(error) => (Some(error.code()), Vec::new()),
        };
        let mut notes = notes.lock().unwrap();
        notes.exchanges.push(Exchange { what: "stream", began, ended: Instant::now(), error });
        notes.violations.extend(wrong);
    }
}
