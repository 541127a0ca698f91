//! The figures of this machine, for the heartbeats.

use mlx_types::messages::WorkerMetrics;
use parking_lot::Mutex;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// This machine. Unset on a system that the library cannot read.
pub(super) struct Machine(Option<Mutex<System>>);

impl Default for Machine {
    fn default() -> Self {
        Self(System::new_with_specifics(refreshed()).ok().map(Mutex::new))
    }
}

impl Machine {
    /// The use of the processor, a mean since the last call, and of memory. That of the GPU is the engine's affair, which it does
    /// not tell.
    pub(super) fn figures(&self) -> WorkerMetrics {
        let Some(system) = &self.0 else { return WorkerMetrics::default() };
        let mut system = system.lock();
        system.refresh_specifics(refreshed());
        WorkerMetrics::default()
            .cpu_usage_percent(f64::from(system.global_cpu_usage()).clamp(0.0, 100.0))
            .memory_used_gb(in_gigabytes(system.used_memory()))
    }

    /// Memory in use, in GB; 0 on a system that the library cannot read.
    pub(super) fn memory_used_gb(&self) -> f64 {
        let Some(system) = &self.0 else { return 0.0 };
        let mut system = system.lock();
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        in_gigabytes(system.used_memory())
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn in_gigabytes(bytes: u64) -> f64 {
    bytes as f64 / GIB
}

/// A GB, as memory is sold.
#[expect(clippy::cast_precision_loss, reason = "a power of two")]
const GIB: f64 = (1_u64 << 30) as f64;

fn refreshed() -> RefreshKind {
    RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram())
}
