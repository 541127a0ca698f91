//! Publish, wait until it has come, and again: publisher and subscriber have a connection each, in one process, so that
//! one clock times both ends.
//!
//! Nothing can be omitted from the latencies: the next message goes out when the last has come, so a stall is the
//! latency of the one message that it befell, and none is due meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt;
use mlx_types::messages::{InferenceRequest, Message};
use mlx_types::{Subject, WorkerId, subjects};

use super::heartbeats::heartbeat;
use super::raw;
use crate::arm::{Side, Workload};
use crate::context::Context;
use crate::control::settle;
use crate::meter::Meter;
use crate::sample::{Latencies, Metric, Sample, micros};

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    if context.arm.workload == Workload::Payloads {
        let bytes = usize::try_from(context.arm.count)?;
        let request = InferenceRequest::new("llama-3", "x".repeat(bytes));
        return connect(context, &subjects::worker_inference(WorkerId::new()), |_| request.clone()).await;
    }
    connect(context, &subjects::WORKER_HEARTBEAT, heartbeat).await
}

async fn connect<M: Message + PartialEq>(
    context: &Context,
    subject: &Subject<M>,
    message: impl Fn(u64) -> M,
) -> Result<Sample> {
    if context.arm.side == Side::Raw {
        let (publisher, subscriber) = (context.raw().await?, context.raw().await?);
        let mut messages = subscriber.subscribe(subject.to_string()).await?;
        settle(&subscriber).await?;
        let to = async_nats::Subject::from(subject.as_str());
        return trips(context, message, async |sent| {
            publisher.publish(to.clone(), raw::encode(sent)?).await?;
            raw::decode(&messages.next().await.context("the subscription ended")?)
        })
        .await;
    }
    let (publisher, subscriber) = (context.ours().await?, context.ours().await?);
    let mut messages = subscriber.subscribe(subject).await?;
    trips(context, message, async |sent| {
        publisher.publish(subject, sent).await?;
        Ok(messages.next().await.context("the subscription ended")??.into_payload())
    })
    .await
}

async fn trips<M: Message + PartialEq>(
    context: &Context,
    message: impl Fn(u64) -> M,
    mut trip: impl AsyncFnMut(&M) -> Result<M>,
) -> Result<Sample> {
    for index in 0..context.warm_up() {
        trip(&message(index)).await?;
    }
    let mut latencies = Latencies::new()?;
    let mut total = Duration::ZERO;
    let meter = Meter::start(None, context.server).await?;
    for index in 0..context.work {
        let sent = message(index);
        let begun = Instant::now();
        let received = trip(&sent).await?;
        let latency = begun.elapsed();
        latencies.record(latency);
        total += latency;
        ensure!(received == sent, "another message came back");
    }
    let sample = meter.stop(context.work).await?.with_latencies(&latencies);
    if context.arm.workload != Workload::Payloads {
        return Ok(sample);
    }
    // The time for a KiB, without that of making the message.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let kibibytes = (context.work * context.arm.count) as f64 / 1024.0;
    Ok(sample.with(Metric::UnitTime, micros(total) / kibibytes))
}
