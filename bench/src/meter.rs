//! What a measured phase took: time, and processor time of everyone who took part.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::control::Control;
use crate::processor::processor_time;
use crate::sample::{Metric, Sample, micros};

/// Runs while something is measured.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    control: Option<&'a Control>,
    server: u32,
    begun: Instant,
    clients: Duration,
    of_server: Duration,
}

impl<'a> Meter<'a> {
    /// Begins, with the responder at the other end of `control` where there is one, and the server of that process id.
    pub(crate) async fn start(control: Option<&'a Control>, server: u32) -> Result<Self> {
        let clients = clients(control).await?;
        Ok(Self { control, server, of_server: processor_time_of(server)?, begun: Instant::now(), clients })
    }

    /// Ends, after so many units.
    pub(crate) async fn stop(self, units: u64) -> Result<Sample> {
        let elapsed = self.begun.elapsed();
        let clients = clients(self.control).await?.saturating_sub(self.clients);
        let server = processor_time_of(self.server)?.saturating_sub(self.of_server);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let units = units as f64;
        Ok(Sample::of(Metric::Rate, units / elapsed.as_secs_f64())
            .with(Metric::UnitTime, micros(elapsed) / units)
            .with(Metric::ClientCpu, micros(clients) / units)
            .with(Metric::ServerCpu, micros(server) / units))
    }
}

/// Of this process and of its responder.
async fn clients(control: Option<&Control>) -> Result<Duration> {
    let peer = match control {
        Some(control) => control.processor_time_of_peer().await?,
        None => Duration::ZERO,
    };
    Ok(processor_time() + peer)
}

/// Of another process; to the ms, and on Linux to its clock tick.
fn processor_time_of(process: u32) -> Result<Duration> {
    let system = look_at(process, ProcessRefreshKind::nothing().with_cpu())?;
    let process = system.process(Pid::from_u32(process)).context("the server is gone")?;
    Ok(Duration::from_millis(process.accumulated_cpu_time()))
}

/// Resident memory of this process, in MiB.
pub(crate) fn resident() -> Result<f64> {
    let own = std::process::id();
    let system = look_at(own, ProcessRefreshKind::nothing().with_memory())?;
    let process = system.process(Pid::from_u32(own)).context("this process is not to be found")?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let bytes = process.memory() as f64;
    Ok(bytes / f64::from(1 << 20))
}

fn look_at(process: u32, what: ProcessRefreshKind) -> Result<System> {
    let mut system = System::new()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[Pid::from_u32(process)]), true, what.without_tasks());
    Ok(system)
}
