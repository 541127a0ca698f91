//! The figures of this machine, for the heartbeats.

use mlx_types::messages::WorkerMetrics;
use parking_lot::Mutex;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// This machine. Unset on a system that the library cannot read.
pub struct Machine(Option<Mutex<System>>);

impl Default for Machine {
    fn default() -> Self {
        Self(System::new_with_specifics(refreshed()).ok().map(Mutex::new))
    }
}

impl Machine {
    /// The use of the processor, a mean since the last call, and of memory. That of the GPU is the engine's affair, which it does
    /// not tell.
    pub fn figures(&self) -> WorkerMetrics {
        const GIB: f64 = (1_u64 << 30) as f64;
        let Some(system) = &self.0 else { return WorkerMetrics::default() };
        let mut system = system.lock();
        system.refresh_specifics(refreshed());
        WorkerMetrics::default()
            .cpu_usage_percent(f64::from(system.global_cpu_usage()).clamp(0.0, 100.0))
            .memory_used_gb(system.used_memory() as f64 / GIB)
    }
}

fn refreshed() -> RefreshKind {
    RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram())
}
