//! Health checks and their answers, so many in flight: a requester in one process, a responder in another.
//!
//! Each place in flight asks again as soon as it is answered. So a latency is that of a caller who waits, and there is no
//! schedule that a stall could make anyone miss.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use mlx_nats::{Request, ServeOptions};
use mlx_types::messages::{HealthCheck, HealthReport, WorkerStatus};
use mlx_types::{WorkerId, subjects};
use tokio::task::JoinSet;

use super::raw;
use crate::arm::Side;
use crate::context::Context;
use crate::control::settle;
use crate::meter::Meter;
use crate::sample::{Latencies, Sample};

/// More than are ever in flight: what `OVERLOADED` costs is not the question here.
const LIMIT: usize = 1024;

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    if context.arm.side == Side::Raw {
        let client = context.raw().await?;
        let ask = move |check: HealthCheck| {
            let client = client.clone();
            async move {
                let subject = subjects::HEALTH_CHECK.as_str();
                raw::decode::<HealthReport>(&client.request(subject, raw::encode(&check)?).await?)
            }
        };
        return measure(context, ask).await;
    }
    let client = context.ours().await?;
    let ask = move |check: HealthCheck| {
        let client = client.clone();
        async move { Ok(client.request(&subjects::HEALTH_CHECK, &check).await?) }
    };
    measure(context, ask).await
}

async fn measure<A, F>(context: &Context, ask: A) -> Result<Sample>
where
    A: Fn(HealthCheck) -> F + Clone + Send + 'static,
    F: Future<Output = Result<HealthReport>> + Send,
{
    let control = context.control().await?;
    let in_flight = context.arm.count;
    keep_in_flight(in_flight, context.warm_up().div_ceil(in_flight), &ask).await?;
    let each = context.work / in_flight;
    let meter = Meter::start(Some(&control), context.server).await?;
    let latencies = keep_in_flight(in_flight, each, &ask).await?;
    Ok(meter.stop(each * in_flight).await?.with_latencies(&latencies))
}

async fn keep_in_flight<A, F>(in_flight: u64, each: u64, ask: &A) -> Result<Latencies>
where
    A: Fn(HealthCheck) -> F + Clone + Send + 'static,
    F: Future<Output = Result<HealthReport>> + Send,
{
    let mut places = JoinSet::new();
    for _ in 0..in_flight {
        let ask = ask.clone();
        places.spawn(async move {
            let mut taken: Vec<Duration> = Vec::new();
            for _ in 0..each {
                let check = HealthCheck::new();
                let id = check.request_id;
                let begun = Instant::now();
                let report = ask(check).await?;
                taken.push(begun.elapsed());
                ensure!(report.request_id == Some(id), "the answer to another question came");
            }
            anyhow::Ok(taken)
        });
    }
    let mut latencies = Latencies::new()?;
    while let Some(taken) = places.join_next().await {
        taken??.into_iter().for_each(|latency| latencies.record(latency));
    }
    Ok(latencies)
}

pub(super) async fn respond(context: &Context) -> Result<()> {
    let control = context.control().await?;
    let worker_id = WorkerId::new();
    let answer =
        move |check: &HealthCheck| HealthReport::new(worker_id, WorkerStatus::Online).request_id(check.request_id);
    if context.arm.side == Side::Raw {
        let client = context.raw().await?;
        let mut checks = client.subscribe(subjects::HEALTH_CHECK.as_str()).await?;
        settle(&client).await?;
        tokio::try_join!(context.listen(&control), async {
            while let Some(message) = checks.next().await {
                let report = raw::encode(&answer(&raw::decode(&message)?))?;
                if let Some(reply) = message.reply {
                    client.publish(reply, report).await?;
                }
            }
            Ok(())
        })?;
        return Ok(());
    }
    let client = context.ours().await?;
    let options = ServeOptions::default().max_concurrent(LIMIT);
    let handler = move |check: Request<HealthCheck>| async move { Ok(answer(&check)) };
    let _service = client.serve_with(&subjects::HEALTH_CHECK, options, handler).await?;
    context.listen(&control).await
}
