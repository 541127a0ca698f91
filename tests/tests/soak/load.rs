//! The work: token streams that are read, dropped, stopped and killed; requests to one worker and to all.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode};
use mlx_nats::{RequestManyOptions, TokenStream};
use mlx_tests::{LIMIT, TEST_MODEL, within};
use mlx_types::messages::{FinishReason, InferenceRequest, ModelCommand, ModelState, ModelStatus};
use mlx_types::{WorkerId, subjects};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::chaos::pause;
use crate::cluster::Cluster;

/// So many take about a fifth of a core, in a debug build.
const REQUESTERS: usize = 10;

/// How a stream may end, beside well.
const STREAM_ENDINGS: [ErrorCode; 7] = [
    ErrorCode::StreamDisconnected,      // our connection broke
    ErrorCode::WorkerLost,              // the worker left, died, or came back as another process
    ErrorCode::NatsNoResponders,        // it was gone, or disconnected, when we asked
    ErrorCode::StreamFirstTokenTimeout, // its connection broke: none of its frames came
    ErrorCode::StreamInterTokenTimeout, // likewise: the rest of them did not
    ErrorCode::StreamGap,               // likewise: those of a moment did not
    ErrorCode::NatsDisconnected,        // likewise, and the worker says so itself
];

/// How a request may end, beside well.
const REQUEST_ENDINGS: [ErrorCode; 3] =
    [ErrorCode::NatsDisconnected, ErrorCode::NatsNoResponders, ErrorCode::NatsTimeout];

/// What a requester does with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Read,
    Drop,
    Stop,
    Kill,
}

pub fn start(tasks: &mut JoinSet<()>, cluster: &Arc<Cluster>, over: &watch::Receiver<bool>, random: &mut Rng) {
    for _ in 0..REQUESTERS {
        tasks.spawn(infer(Arc::clone(cluster), over.clone(), random.fork()));
    }
    tasks.spawn(load_models(Arc::clone(cluster), over.clone()));
}

/// Opens one stream after another, with a pause in between that keeps the whole at a part of a core.
async fn infer(cluster: Arc<Cluster>, mut over: watch::Receiver<bool>, mut random: Rng) {
    while !pause(&mut over, random.u64(50..500)).await {
        cluster.controller().wait_connected(LIMIT).await.expect("the controller comes back");
        let workers = cluster.workers().list();
        let Some(worker) = random.choice(&workers) else { continue };
        let intent = match random.u8(..10) {
            0 => Intent::Drop,
            1 => Intent::Stop,
            2 => Intent::Kill,
            _ => Intent::Read,
        };
        let (tokens, after) = (random.u64(5..150), random.u64(..20));
        match ask(&cluster, worker.worker_id, tokens).await {
            Ok(stream) => {
                cluster.figures().count("streams");
                one_stream(&cluster, stream, tokens, intent, after).await;
            }
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::NatsDisconnected, "{error}");
                cluster.figures().count("streams that could not be opened");
            }
        }
    }
}

/// A stream on a cluster at which nothing is wrong.
pub async fn calm_stream(cluster: &Cluster, worker: WorkerId) {
    cluster.figures().count("streams");
    let stream = ask(cluster, worker, 50).await.unwrap();
    let error = one_stream(cluster, stream, 50, Intent::Read, 0).await;
    assert!(error.is_none(), "a stream failed in a cluster at peace: {error:?}");
}

async fn ask(cluster: &Cluster, worker: WorkerId, tokens: u64) -> Result<TokenStream, Error> {
    let request = InferenceRequest::new(TEST_MODEL, "p").max_tokens(tokens);
    cluster.controller().infer(worker, &request).await
}

/// Reads a stream, acts on its intent `after` so many tokens, and holds everything that it brings against the promises.
async fn one_stream(
    cluster: &Cluster,
    mut stream: TokenStream,
    tokens: u64,
    intent: Intent,
    after: u64,
) -> Option<Error> {
    let (mut received, mut end) = (0, None);
    let (mut stopped, mut killed) = (false, false);
    loop {
        if received >= after && end.is_none() && stream.summary().is_none() {
            match intent {
                Intent::Drop => {
                    cluster.figures().ended("streams", "dropped");
                    return None;
                }
                Intent::Kill => {
                    killed = true;
                    let _ = stream.kill().await; // which ends here whatever becomes of the message
                }
                Intent::Stop if !stopped => stopped = stream.stop().await.is_ok(),
                Intent::Stop | Intent::Read => {}
            }
        }
        let Some(frame) = within("the next frame of a stream", stream.next()).await else { break };
        assert!(end.is_none(), "something came after the end: {frame:?}");
        match frame {
            Ok(frame) => {
                assert_eq!((frame.index, frame.text), (received, received.to_string()));
                received += 1;
            }
            Err(error) => end = Some(error),
        }
    }
    let summary = stream.summary().expect("an ended stream has a summary");
    assert_eq!(summary.tokens, received);
    cluster.figures().tokens(received);
    if end.is_none() && killed {
        cluster.figures().ended("streams", "killed");
        return None;
    }
    if end.is_none() {
        let whole = received == tokens && summary.finish_reason == Some(FinishReason::Length);
        let cut_short = stopped && summary.finish_reason == Some(FinishReason::Cancelled);
        assert!(whole || cut_short, "a stream of {tokens} tokens ended cleanly after {received}: {summary:?}");
    }
    cluster.figures().outcome("streams", end.as_ref(), &STREAM_ENDINGS);
    end
}

/// Asks whoever answers first four times a second, and every fourth time everybody.
async fn load_models(cluster: Arc<Cluster>, mut over: watch::Receiver<bool>) {
    let mut round = 0_u64;
    while !pause(&mut over, 250).await {
        let command = ModelCommand::new(TEST_MODEL);
        let asked = cluster.controller().request(&subjects::MODEL_LOAD, &command);
        cluster.figures().count("requests");
        let status = within("the outcome of a request", asked).await;
        cluster.figures().outcome("requests", status.as_ref().err(), &REQUEST_ENDINGS);
        assert!(status.is_err() || is_loaded(&status.unwrap()));

        round += 1;
        if round.is_multiple_of(4) {
            let options = RequestManyOptions::default().stall(Duration::from_millis(300));
            let asked = mlx_tests::ask_all(cluster.controller(), &subjects::MODEL_LOAD, &command, options);
            cluster.figures().count("gatherings");
            let answers = within("the outcome of a request to all", asked).await;
            cluster.figures().outcome("gatherings", answers.as_ref().err(), &REQUEST_ENDINGS);
            for answer in answers.into_iter().flatten() {
                cluster.figures().count("gathered answers");
                assert!(is_loaded(&answer.unwrap()));
            }
        }
    }
}

fn is_loaded(status: &ModelStatus) -> bool {
    status.model_id == TEST_MODEL && status.state == ModelState::Loaded
}
