//! Heartbeats as fast as they go, from so many workers in one process to one subscriber in another.
//!
//! The subscriber grants the workers a window of messages, so that neither its own queue nor the server's overflows:
//! a side that loses messages would look fast. Each one's number is checked.

use anyhow::{Context as _, Result, ensure};
use futures_util::{Stream, StreamExt, TryStreamExt};
use mlx_nats::Client;
use mlx_types::messages::{WorkerHeartbeat, WorkerMetrics, WorkerStatus};
use mlx_types::{WorkerId, subjects};
use tokio::task::JoinSet;

use super::raw;
use crate::arm::Side;
use crate::context::Context;
use crate::control::{Control, settle};
use crate::meter::{Meter, resident};
use crate::sample::{Metric, Sample};

/// Messages granted at once; two such grants are open at a time.
const GRANT: u64 = 20_000;

/// The heartbeat of a number: the same bytes on either side, and different ones each time.
pub(super) fn heartbeat(number: u64) -> WorkerHeartbeat {
    let metrics = WorkerMetrics::default()
        .cpu_usage_percent(42.5)
        .memory_used_gb(61.25)
        .gpu_utilization_percent(87.5)
        .active_requests(3)
        .total_requests_handled(number)
        .avg_latency_ms(182.75)
        .models_loaded(vec!["llama-3-8b-instruct".to_owned(), "mistral-7b-v0.3".to_owned()]);
    WorkerHeartbeat::new(WorkerId::new(), WorkerStatus::Online, metrics)
}

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    let control = context.control().await?;
    if context.arm.side == Side::Raw {
        let client = context.raw().await?;
        let beats = client.subscribe(subjects::WORKER_HEARTBEAT.as_str()).await?;
        settle(&client).await?;
        return receive(context, &control, beats.map(|message| raw::decode(&message))).await;
    }
    let beats = context.ours().await?.subscribe(&subjects::WORKER_HEARTBEAT).await?;
    receive(context, &control, beats.map_ok(mlx_nats::Received::into_payload).map_err(Into::into)).await
}

async fn receive(
    context: &Context,
    control: &Control,
    mut beats: impl Stream<Item = Result<WorkerHeartbeat>> + Unpin,
) -> Result<Sample> {
    flow(context, control, &mut beats, context.warm_up()).await?;
    let meter = Meter::start(Some(control), context.server).await?;
    flow(context, control, &mut beats, context.work).await?;
    let sample = meter.stop(context.work).await?;
    Ok(sample.with(Metric::Memory, resident()?))
}

/// Has `count` heartbeats sent, and reads them all.
async fn flow(
    context: &Context,
    control: &Control,
    beats: &mut (impl Stream<Item = Result<WorkerHeartbeat>> + Unpin),
    count: u64,
) -> Result<()> {
    let (mut granted, mut numbers) = (0, 0_u64);
    for received in 0..count {
        while granted < count && granted < received + 2 * GRANT && received % GRANT == 0 {
            let grant = GRANT.min(count - granted);
            control.order(grant).await?;
            granted += grant;
        }
        let beat = beats.next().await.context("the subscription ended")??;
        // The heartbeats of several workers come in any order, those of one do not.
        let number = beat.metrics.total_requests_handled;
        ensure!(context.arm.count > 1 || number == received % GRANT, "heartbeat {number} came as number {received}");
        numbers += number;
    }
    let full = (count / GRANT) * (GRANT * (GRANT - 1) / 2);
    let rest = count % GRANT;
    ensure!(numbers == full + rest * rest.saturating_sub(1) / 2, "some heartbeats came twice, and others never");
    Ok(())
}

pub(super) async fn respond(context: &Context) -> Result<()> {
    let control = context.control().await?;
    let mut orders = control.orders().await?;
    let publishers = Publishers::connect(context).await?;
    tokio::try_join!(context.listen(&control), async {
        while let Some(count) = orders.next().await {
            publishers.publish(count).await?;
        }
        Ok(())
    })?;
    Ok(())
}

enum Publishers {
    Ours(Vec<Client>),
    Raw(Vec<async_nats::Client>),
}

impl Publishers {
    async fn connect(context: &Context) -> Result<Self> {
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for _ in 0..context.arm.count {
            match context.arm.side {
                Side::Raw => raw.push(context.raw().await?),
                _ => ours.push(context.ours().await?),
            }
        }
        Ok(if context.arm.side == Side::Raw { Self::Raw(raw) } else { Self::Ours(ours) })
    }

    /// Numbers 0 to `count`, dealt out to all workers, which publish at the same time.
    async fn publish(&self, count: u64) -> Result<()> {
        let mut lanes = JoinSet::new();
        match self {
            Self::Ours(clients) => {
                for (first, client) in clients.iter().cloned().enumerate() {
                    let numbers = (first as u64..count).step_by(clients.len());
                    lanes.spawn(async move { publish_ours(&client, numbers).await });
                }
            }
            Self::Raw(clients) => {
                for (first, client) in clients.iter().cloned().enumerate() {
                    let numbers = (first as u64..count).step_by(clients.len());
                    lanes.spawn(async move { publish_raw(&client, numbers).await });
                }
            }
        }
        while let Some(ended) = lanes.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn publish_ours(client: &Client, numbers: impl Iterator<Item = u64>) -> Result<()> {
    let mut beat = heartbeat(0);
    for number in numbers {
        beat.metrics.total_requests_handled = number;
        client.publish(&subjects::WORKER_HEARTBEAT, &beat).await?;
    }
    Ok(())
}

async fn publish_raw(client: &async_nats::Client, numbers: impl Iterator<Item = u64>) -> Result<()> {
    let mut beat = heartbeat(0);
    for number in numbers {
        beat.metrics.total_requests_handled = number;
        client.publish("worker.heartbeat", raw::encode(&beat)?).await?;
    }
    Ok(())
}
