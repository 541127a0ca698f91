//! The first token of a new request, beside so many token streams that go as fast as they can.
//!
//! Requests come on a schedule that takes no notice of the answers, kept by a thread of its own, and a latency counts
//! from when its request was due. So a stall delays every request that falls into it, and all of them are in the
//! figures: nothing is omitted because the side that stalls also stops asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::streams::Controller;
use crate::arm::TOKENS;
use crate::context::Context;
use crate::sample::{Latencies, Sample};

/// Between two requests.
const INTERVAL: Duration = Duration::from_millis(10);
/// Of each of these requests: few, so that they are no load.
const FEW: u64 = 4;

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    let controller = Controller::connect(context).await?;
    let load = Load::start(&controller, context.arm.count).await?;
    let requests = u32::try_from(context.work)?;
    let runtime = Handle::current();
    let answers = tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        let ask = |number: u32| {
            let due = begin + INTERVAL * (number + 1);
            std::thread::sleep(due.saturating_duration_since(Instant::now())); // the schedule
            let controller = controller.clone();
            runtime.spawn(async move { anyhow::Ok(controller.stream(FEW).await?.saturating_duration_since(due)) })
        };
        (0..requests).map(ask).collect::<Vec<_>>()
    });
    let mut latencies = Latencies::new()?;
    for answer in answers.await? {
        latencies.record(answer.await??);
    }
    load.stop().await?;
    Ok(Sample::default().with_latencies(&latencies))
}

/// Token streams without end.
struct Load {
    streams: JoinSet<Result<()>>,
    stopping: Arc<AtomicBool>,
}

impl Load {
    /// Returns when each place has had its first stream.
    async fn start(controller: &Controller, places: u64) -> Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let (first_done, mut firsts) = tokio::sync::mpsc::channel::<()>(1);
        let mut streams = JoinSet::new();
        for _ in 0..places {
            let (controller, stopping, first_done) = (controller.clone(), Arc::clone(&stopping), first_done.clone());
            streams.spawn(async move {
                controller.stream(TOKENS).await?;
                drop(first_done);
                while !stopping.load(Ordering::Relaxed) {
                    controller.stream(TOKENS).await?;
                }
                Ok(())
            });
        }
        drop(first_done);
        // It ends when the last sender is gone.
        let none = firsts.recv().await;
        debug_assert!(none.is_none());
        Ok(Self { streams, stopping })
    }

    async fn stop(mut self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.streams.join_next().await {
            ended??;
        }
        Ok(())
    }
}
