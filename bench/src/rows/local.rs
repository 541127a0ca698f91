//! What needs no server: loading the configuration, writing log lines, checking a decoded message.

use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, ensure};
use mlx_log::{LogConfig, Setup};
use mlx_types::ClusterConfig;
use mlx_types::messages::{Message as _, WorkerHeartbeat};
use tracing::Dispatch;

use super::heartbeats::heartbeat;
use crate::arm::Side;
use crate::context::Context;
use crate::meter::Meter;
use crate::sample::Sample;

/// The default file, as it is shipped.
const CLUSTER_YAML: &str = include_str!("../../../config/cluster.yaml");

/// Ours with positions, variables, rules and suggestions; beside it, plain serde into the same type.
pub(super) async fn configuration(context: &Context) -> Result<Sample> {
    let loader = mlx_config::Loader::new().text("cluster.yaml", CLUSTER_YAML).without_env();
    measure(context, || {
        if context.arm.side == Side::Raw {
            black_box(serde_yaml::from_str::<ClusterConfig>(CLUSTER_YAML)?);
        } else {
            black_box(loader.load()?);
        }
        Ok(())
    })
    .await
}

/// Decoded and checked by ours, decoded only beside it.
pub(super) async fn validation(context: &Context) -> Result<Sample> {
    let json = serde_json::to_vec(&heartbeat(1))?;
    measure(context, || {
        let beat: WorkerHeartbeat = serde_json::from_slice(black_box(&json))?;
        if context.arm.side == Side::Ours {
            ensure!(beat.check().is_ok(), "a good heartbeat is refused");
        }
        black_box(beat);
        Ok(())
    })
    .await
}

async fn measure(context: &Context, mut unit: impl FnMut() -> Result<()>) -> Result<Sample> {
    for _ in 0..context.warm_up() {
        unit()?;
    }
    let meter = Meter::start(None, context.server).await?;
    for _ in 0..context.work {
        unit()?;
    }
    meter.stop(context.work).await
}

/// Long before the queue of ours is full: a lost line costs next to nothing, and would flatter us.
const FLUSH_EVERY: u64 = 10_000;

/// To a sink that takes everything at once, which leaves the cost of making a line and handing it over.
pub(super) async fn log_lines(context: &Context) -> Result<Sample> {
    if context.arm.side == Side::Raw {
        let subscriber = tracing_subscriber::fmt().json().with_writer(Mutex::new(Nowhere)).finish();
        return log(context, &Dispatch::new(subscriber), || Ok(())).await;
    }
    let (dispatch, guard) = Setup::new(&LogConfig::default()).writer(Nowhere).build()?;
    let handle = guard.handle();
    let sample = log(context, &dispatch, || Ok(handle.flush(Duration::from_mins(1))?)).await?;
    ensure!(handle.lost() == 0, "lines were lost");
    Ok(sample)
}

async fn log(context: &Context, dispatch: &Dispatch, flush: impl Fn() -> Result<()>) -> Result<Sample> {
    let lines = |count: u64| {
        tracing::dispatcher::with_default(dispatch, || {
            for index in 1..=count {
                tracing::info!(subject = "worker.heartbeat", index, latency_ms = 0.25, retry = false, "published");
                if index % FLUSH_EVERY == 0 {
                    flush()?;
                }
            }
            flush()
        })
    };
    lines(context.warm_up())?;
    let meter = Meter::start(None, context.server).await?;
    lines(context.work)?;
    meter.stop(context.work).await
}

struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        black_box(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
