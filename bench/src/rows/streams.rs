//! Token streams: a controller in one process, a worker in another, so many streams of 256 tokens at a time, each begun
//! again when it ends.
//!
//! The worker's model is faster than the bus, as it has to be where the bus is measured: the next token is always there.
//! Raw async-nats is given the same contract: an acceptance, one frame a token, and a last frame that counts them, each with
//! the incarnation of the worker that sends it, by which the answers of two workers with one id are told apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt;
use mlx_nats::InferenceOptions;
use mlx_types::messages::{FinishReason, Frame, InferenceAcceptance, InferenceRequest, StreamingResponse};
use mlx_types::{Epoch, WorkerId, subjects};
use tokio::task::JoinSet;

use super::raw;
use crate::arm::Side;
use crate::arm::TOKENS;
use crate::context::Context;
use crate::control::settle;
use crate::meter::{Meter, resident};
use crate::sample::{Latencies, Metric, Sample};

/// More than are ever asked for at once.
const LIMIT: usize = 10_000;

/// Known to both processes.
fn worker() -> Result<WorkerId> {
    Ok("6f2c1b9e-3d4a-4b8e-9a51-0c6f1de2a7b3".parse()?)
}

/// The token of a place: some five bytes, as a tokenizer makes them.
fn token(index: u64) -> String {
    format!(" t{index:03}")
}

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    let (control, controller) = (context.control().await?, Controller::connect(context).await?);
    let places = context.arm.count;
    // One stream a place, whatever the measured work.
    keep_going(places, 1, &controller).await?;
    let each = (context.work / TOKENS / places).max(1);
    let meter = Meter::start(Some(&control), context.server).await?;
    let latencies = keep_going(places, each, &controller).await?;
    let sample = meter.stop(each * places * TOKENS).await?;
    Ok(sample.with_latencies(&latencies).with(Metric::Memory, resident()?))
}

/// The times to the first tokens.
async fn keep_going(places: u64, each: u64, controller: &Controller) -> Result<Latencies> {
    let mut streams = JoinSet::new();
    for _ in 0..places {
        let controller = controller.clone();
        streams.spawn(async move {
            let mut firsts: Vec<Duration> = Vec::new();
            for _ in 0..each {
                let begun = Instant::now();
                firsts.push(controller.stream(TOKENS).await? - begun);
            }
            anyhow::Ok(firsts)
        });
    }
    let mut latencies = Latencies::new()?;
    while let Some(firsts) = streams.join_next().await {
        firsts??.into_iter().for_each(|first| latencies.record(first));
    }
    Ok(latencies)
}

/// The asking side.
#[derive(Clone)]
pub(super) enum Controller {
    Ours(mlx_nats::Client, WorkerId),
    Raw(Arc<RawController>),
}

pub(super) struct RawController {
    client: async_nats::Client,
    worker: WorkerId,
    /// Where acceptances go.
    inbox: String,
    asked: AtomicU64,
}

impl Controller {
    pub(super) async fn connect(context: &Context) -> Result<Self> {
        let worker = worker()?;
        if context.arm.side != Side::Raw {
            return Ok(Self::Ours(context.ours().await?, worker));
        }
        let client = context.raw().await?;
        let inbox = client.new_inbox();
        let mut acceptances = client.subscribe(format!("{inbox}.*")).await?;
        tokio::spawn(async move { while acceptances.next().await.is_some() {} });
        settle(&client).await?;
        Ok(Self::Raw(Arc::new(RawController { client, worker, inbox, asked: AtomicU64::new(0) })))
    }

    /// One stream of so many tokens, read to its end; when the first one came.
    pub(super) async fn stream(&self, tokens: u64) -> Result<Instant> {
        let request =
            InferenceRequest::new("llama-3-8b-instruct", "Tell me about NATS").max_tokens(tokens).stream(true);
        match self {
            Self::Ours(client, worker) => stream_ours(client, *worker, &request, tokens).await,
            Self::Raw(raw) => raw.stream(&request, tokens).await,
        }
    }
}

async fn stream_ours(
    client: &mlx_nats::Client,
    worker: WorkerId,
    request: &InferenceRequest,
    tokens: u64,
) -> Result<Instant> {
    let mut frames = client.infer(worker, request).await?;
    let (mut first, mut received) = (None, 0);
    while let Some(frame) = frames.next().await {
        frame?;
        first.get_or_insert_with(Instant::now);
        received += 1;
    }
    ensure!(received == tokens, "{received} tokens came instead of {tokens}");
    first.context("a stream without tokens")
}

impl RawController {
    async fn stream(&self, request: &InferenceRequest, tokens: u64) -> Result<Instant> {
        let mut frames = self.client.subscribe(subjects::response(request.request_id).to_string()).await?;
        let to = subjects::worker_inference(self.worker).to_string();
        let reply = format!("{}.{}", self.inbox, self.asked.fetch_add(1, Ordering::Relaxed));
        let accept = raw::header("Mlx-Accept", "epoch");
        self.client.publish_with_reply_and_headers(to, reply, accept, raw::encode(request)?).await?;
        let (mut first, mut received, mut incarnation) = (None, 0, None);
        while let Some(message) = frames.next().await {
            let frame: Frame = raw::decode(&message)?;
            ensure!(*incarnation.get_or_insert(frame.epoch) == frame.epoch, "a frame of another worker");
            match frame.response {
                StreamingResponse::Token { .. } => {
                    first.get_or_insert_with(Instant::now);
                    received += 1;
                }
                StreamingResponse::Done { total_tokens, .. } => {
                    ensure!(received == tokens && total_tokens == tokens, "{received} tokens came instead of {tokens}");
                    break;
                }
                other => anyhow::bail!("a frame that was not asked for: {other:?}"),
            }
        }
        first.context("a stream without tokens")
    }
}

pub(super) async fn respond(context: &Context) -> Result<()> {
    let control = context.control().await?;
    let worker_id = worker()?;
    if context.arm.side == Side::Raw {
        let (client, epoch) = (context.raw().await?, Epoch::now().as_millis());
        let mut requests = client.subscribe(subjects::worker_inference(worker_id).to_string()).await?;
        settle(&client).await?;
        tokio::try_join!(context.listen(&control), async {
            let mut running = JoinSet::new();
            while let Some(message) = requests.next().await {
                running.spawn(answer_raw(client.clone(), worker_id, epoch, message));
                while let Some(ended) = running.try_join_next() {
                    ended??;
                }
            }
            Ok(())
        })?;
        return Ok(());
    }
    let client = context.ours().await?;
    let options = InferenceOptions::default().max_concurrent(LIMIT);
    let handler = async |request: InferenceRequest, mut tokens: mlx_nats::TokenSink| {
        for index in 0..request.max_tokens.unwrap_or(TOKENS) {
            tokens.send(token(index)).await?;
        }
        Ok(FinishReason::Length)
    };
    let handler = move |request, tokens| handler(request, tokens);
    let _service = client.serve_inference(worker_id, options, handler).await?;
    context.listen(&control).await
}

async fn answer_raw(
    client: async_nats::Client,
    worker_id: WorkerId,
    epoch: u64,
    message: async_nats::Message,
) -> Result<()> {
    let begun = Instant::now();
    let request: InferenceRequest = raw::decode(&message)?;
    let request_id = request.request_id;
    if let Some(reply) = message.reply {
        let acceptance = raw::encode(&InferenceAcceptance::new(request_id, worker_id))?;
        client.publish_with_headers(reply, raw::header("Mlx-Epoch", &epoch.to_string()), acceptance).await?;
    }
    let to = async_nats::Subject::from(subjects::response(request_id).to_string());
    let tokens = request.max_tokens.unwrap_or(TOKENS);
    for index in 0..tokens {
        let frame = StreamingResponse::Token { request_id, token: token(index), index };
        client.publish(to.clone(), raw::encode_marked(&frame, epoch)?).await?;
    }
    let done = StreamingResponse::Done {
        request_id,
        total_tokens: tokens,
        latency_ms: begun.elapsed().as_secs_f64() * 1000.0,
        finish_reason: Some(FinishReason::Length),
        usage: None,
    };
    Ok(client.publish(to, raw::encode_marked(&done, epoch)?).await?)
}
