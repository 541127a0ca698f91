//! From a server that is back to a client that is connected again.
//!
//! Each side waits between attempts as it does by default, but ours begins with 50 ms instead of 2 s: the default is
//! kind to a server that a whole fleet has lost, and would be all that this measures.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::{ConnectOptions, Event};
use mlx_embedded::{EmbeddedServer, ServerState};
use mlx_nats::{Client, ConnectionState};
use mlx_types::Millis;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use super::start_up::any_port;
use crate::arm::Side;
use crate::context::Context;
use crate::sample::{Latencies, Metric, Sample};

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    let mut latencies = Latencies::new()?;
    for _ in 0..context.work {
        let server = EmbeddedServer::start(&any_port()).await?;
        latencies.record(match context.arm.side {
            Side::Raw => reconnect_raw(&server).await?,
            _ => reconnect_ours(&server).await?,
        });
    }
    let median = latencies.quantile(0.5);
    Ok(Sample::default().with_latencies(&latencies).with(Metric::UnitTime, median))
}

async fn reconnect_ours(server: &EmbeddedServer) -> Result<Duration> {
    let wait = Millis::new(50).context("50 ms")?;
    let config = server.client_config().reconnect_time_wait(wait);
    let client = Client::connect(&config).await?;
    let ConnectionState::Connected { epoch: first } = client.state() else { bail!("the client is not connected") };
    let mut state = client.watch_state();
    let back = restart(server).await?;
    state.wait_for(|state| matches!(state, ConnectionState::Connected { epoch } if *epoch > first)).await?;
    Ok(back.elapsed())
}

async fn reconnect_raw(server: &EmbeddedServer) -> Result<Duration> {
    let (events, mut happened) = mpsc::unbounded_channel();
    let options = ConnectOptions::new().event_callback(move |event| {
        // The receiver outlives the client.
        let _ = events.send(event);
        std::future::ready(())
    });
    let _client = options.connect(server.client_addr().to_string()).await?;
    while happened.recv().await.context("the client ended")? != Event::Connected {}
    let back = restart(server).await?;
    while happened.recv().await.context("the client ended")? != Event::Connected {}
    Ok(back.elapsed())
}

/// Kills the server; when the one after it answers.
async fn restart(server: &EmbeddedServer) -> Result<Instant> {
    let mut state = server.watch_state();
    let killed = server.pid().context("the server is gone")?;
    let pid = Pid::from_raw(i32::try_from(killed)?).context("the server is gone")?;
    kill_process(pid, Signal::KILL)?;
    // A watcher may miss the state in between.
    let is_new = || server.pid().is_some_and(|pid| pid != killed);
    state.wait_for(|state| matches!(state, ServerState::Ready) && is_new()).await?;
    Ok(Instant::now())
}
