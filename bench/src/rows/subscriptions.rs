//! So many subscriptions on one client: each one made, sent one message through, and dropped.

use anyhow::{Context as _, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use mlx_types::Subject;
use mlx_types::messages::WorkerHeartbeat;

use super::heartbeats::heartbeat;
use super::raw;
use crate::arm::Side;
use crate::context::Context;
use crate::control::settle;
use crate::meter::{Meter, resident};
use crate::sample::{Metric, Sample};

/// Subscriptions made at the same time by ours, each of which waits for the server to have it.
const AT_ONCE: usize = 256;

/// Subscriptions measured at the least, in several passes where there are fewer at a time.
const ENOUGH: u64 = 20_000;

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    let count = context.arm.count;
    let passes = (ENOUGH.min(context.work * 20) / count).max(1);
    if context.arm.side == Side::Raw {
        let client = context.raw().await?;
        return measure(context, passes, async |count| pass_raw(&client, count).await).await;
    }
    let client = context.ours().await?;
    measure(context, passes, async |count| pass_ours(&client, count).await).await
}

/// `pass` returns the memory in use while all subscriptions are there.
async fn measure(context: &Context, passes: u64, mut pass: impl AsyncFnMut(u64) -> Result<f64>) -> Result<Sample> {
    pass(context.arm.count.min(1_000)).await?;
    let mut memory: f64 = 0.0;
    let meter = Meter::start(None, context.server).await?;
    for _ in 0..passes {
        memory = memory.max(pass(context.arm.count).await?);
    }
    Ok(meter.stop(passes * context.arm.count).await?.with(Metric::Memory, memory))
}

async fn pass_ours(client: &mlx_nats::Client, count: u64) -> Result<f64> {
    let subjects = subjects(count)?;
    let subscribe = |subject| async move { client.subscribe(subject).await };
    let mut subscriptions: Vec<_> = stream::iter(&subjects).map(subscribe).buffered(AT_ONCE).try_collect().await?;
    let beat = heartbeat(0);
    for subject in &subjects {
        client.publish(subject, &beat).await?;
    }
    for subscription in &mut subscriptions {
        subscription.next().await.context("a subscription ended")??;
    }
    resident()
}

async fn pass_raw(client: &async_nats::Client, count: u64) -> Result<f64> {
    let subjects = subjects(count)?;
    let mut subscriptions = Vec::new();
    for subject in &subjects {
        subscriptions.push(client.subscribe(subject.to_string()).await?);
    }
    settle(client).await?;
    let beat = heartbeat(0);
    for subject in &subjects {
        client.publish(subject.to_string(), raw::encode(&beat)?).await?;
    }
    for subscription in &mut subscriptions {
        raw::decode::<WorkerHeartbeat>(&subscription.next().await.context("a subscription ended")?)?;
    }
    resident()
}

fn subjects(count: u64) -> Result<Vec<Subject<WorkerHeartbeat>>> {
    (0..count).map(|index| Ok(Subject::new(format!("bench.subscriptions.{index}"))?)).collect()
}
