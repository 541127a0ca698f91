//! Where and when the figures come from. They mean little without.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The machine, and the versions that were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processor cores that programs see.
    pub cores: usize,
    /// In MiB.
    pub memory: u64,
    /// The operating system.
    pub system: String,
    /// The kernel.
    pub kernel: String,
    /// The nats-server that was run.
    pub nats_server: String,
    /// This package.
    pub mlx_bench: String,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// On a system that tells nothing of itself.
    pub fn here(nats_server: String) -> Result<Self> {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(what)?;
        let unknown = || "unknown".to_owned();
        Ok(Self {
            processor: system.cpus().first().map_or_else(unknown, |cpu| cpu.brand().to_owned()),
            cores: system.cpus().len(),
            memory: system.total_memory() >> 20,
            system: System::long_os_version().unwrap_or_else(|_| unknown()),
            kernel: System::kernel_version().unwrap_or_else(|_| unknown()),
            nats_server,
            mlx_bench: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

/// A moment, and how busy the machine was in the minute before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// RFC 3339, UTC.
    pub time: String,
    /// Processes that ran or wanted to, on average.
    pub load: f64,
}

impl Moment {
    /// This one.
    pub fn now() -> Result<Self> {
        let load = System::load_average().map_or(f64::NAN, |load| load.one);
        Ok(Self { time: OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?, load })
    }
}
