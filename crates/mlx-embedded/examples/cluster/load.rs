//! What a worker counts of its own work, for its heartbeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mlx_types::messages::WorkerMetrics;
use parking_lot::Mutex;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// The figures so far.
pub struct Load {
    active: AtomicU64,
    handled: AtomicU64,
    busy_micros: AtomicU64,
    tokens: AtomicU64,
    /// When the tokens were asked for last, and how many there were then.
    counted: Mutex<(Instant, u64)>,
    /// Unset on a system that this library cannot read.
    system: Option<Mutex<System>>,
}

impl Default for Load {
    fn default() -> Self {
        let system = System::new_with_specifics(refreshed()).ok();
        Self {
            active: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            busy_micros: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            counted: Mutex::new((Instant::now(), 0)),
            system: system.map(Mutex::new),
        }
    }
}

impl Load {
    /// Counts a request, until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Measured {
        self.active.fetch_add(1, Ordering::Relaxed);
        Measured { load: Arc::clone(self), began: Instant::now() }
    }

    /// The figures of a heartbeat, and the tokens in a second. The latter and the processor's are means since the last call.
    pub fn metrics(&self, models: Vec<String>) -> (WorkerMetrics, f64) {
        const GIB: f64 = (1_u64 << 30) as f64;
        let (cpu, memory) = self.system.as_ref().map_or((0.0, 0), |system| {
            let mut system = system.lock();
            system.refresh_specifics(refreshed());
            (system.global_cpu_usage(), system.used_memory())
        });
        let handled = self.handled.load(Ordering::Relaxed);
        let busy = Duration::from_micros(self.busy_micros.load(Ordering::Relaxed));
        // The use of the GPU is the engine's affair, which it does not tell.
        let metrics = WorkerMetrics::default()
            .cpu_usage_percent(f64::from(cpu).clamp(0.0, 100.0))
            .memory_used_gb(memory as f64 / GIB)
            .active_requests(self.active.load(Ordering::Relaxed))
            .total_requests_handled(handled)
            .avg_latency_ms(if handled == 0 { 0.0 } else { busy.as_secs_f64() * 1000.0 / handled as f64 })
            .models_loaded(models);
        (metrics, self.tokens_per_second())
    }

    fn tokens_per_second(&self) -> f64 {
        let mut counted = self.counted.lock();
        let (now, tokens) = (Instant::now(), self.tokens.load(Ordering::Relaxed));
        let (since, before) = std::mem::replace(&mut *counted, (now, tokens));
        let elapsed = now.duration_since(since).as_secs_f64();
        if elapsed > 0.0 { (tokens - before) as f64 / elapsed } else { 0.0 }
    }
}

/// A request under way.
pub struct Measured {
    load: Arc<Load>,
    began: Instant,
}

impl Measured {
    /// Counts a token of it.
    pub fn token(&mut self) {
        self.load.tokens.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.load.active.fetch_sub(1, Ordering::Relaxed);
        self.load.handled.fetch_add(1, Ordering::Relaxed);
        self.load.busy_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

fn refreshed() -> RefreshKind {
    RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram())
}
