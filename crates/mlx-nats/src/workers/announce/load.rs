//! What a worker counts of its own work, for its heartbeats.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mlx_types::messages::WorkerMetrics;
use parking_lot::Mutex;

use crate::stream::TokenMeter;

/// The figures so far.
pub(super) struct Load {
    handled: AtomicU64,
    busy_micros: AtomicU64,
    running: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// The requests under way, and where their tokens are counted.
    meters: HashMap<u64, TokenMeter>,
    /// Tokens of those that have ended.
    ended: u64,
    /// When the tokens were asked for last, and how many there were then.
    last: Option<(Instant, u64)>,
}

impl Load {
    pub(super) fn new() -> Self {
        let running = Table { last: Some((Instant::now(), 0)), ..Table::default() };
        Self { handled: AtomicU64::new(0), busy_micros: AtomicU64::new(0), running: Mutex::new(running) }
    }

    /// Counts a request, until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>, meter: TokenMeter) -> Running {
        let mut running = self.running.lock();
        let number = running.next;
        running.next += 1;
        running.meters.insert(number, meter);
        Running { load: Arc::clone(self), number, began: Instant::now() }
    }

    /// Fills in what the worker knows itself.
    #[expect(clippy::cast_precision_loss, reason = "figures for people and for comparison")]
    pub(super) fn fill(&self, metrics: WorkerMetrics) -> WorkerMetrics {
        let handled = self.handled.load(Ordering::Relaxed);
        let busy = Duration::from_micros(self.busy_micros.load(Ordering::Relaxed));
        metrics
            .active_requests(self.running.lock().meters.len() as u64)
            .total_requests_handled(handled)
            .avg_latency_ms(if handled == 0 { 0.0 } else { busy.as_secs_f64() * 1000.0 / handled as f64 })
    }

    /// Tokens in a second, a mean since the last call.
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    pub(super) fn tokens_per_second(&self, now: Instant) -> f64 {
        let mut running = self.running.lock();
        let tokens = running.ended + running.meters.values().map(TokenMeter::tokens).sum::<u64>();
        let (since, before) = running.last.replace((now, tokens)).unwrap_or((now, tokens));
        let elapsed = now.saturating_duration_since(since).as_secs_f64();
        if elapsed > 0.0 { tokens.saturating_sub(before) as f64 / elapsed } else { 0.0 }
    }
}

/// A request under way.
pub(super) struct Running {
    load: Arc<Load>,
    number: u64,
    began: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.load.handled.fetch_add(1, Ordering::Relaxed);
        self.load.busy_micros.fetch_add(micros, Ordering::Relaxed);
        let mut running = self.load.running.lock();
        if let Some(meter) = running.meters.remove(&self.number) {
            running.ended += meter.tokens();
        }
    }
}
