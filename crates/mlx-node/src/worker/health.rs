//! How a worker feels: its engine's models, the memory of its machine, and whether it is still loading.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mlx_nats::WorkerControl;
use mlx_types::messages::WorkerStatus;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use super::loaded::Loaded;
use super::machine::Machine;
use super::models::Models;
use crate::plan::MemoryLimits;

/// What a worker knows of itself.
pub(super) struct Health {
    models: watch::Receiver<Models>,
    memory: Option<watch::Receiver<Use>>,
    warming: AtomicBool,
    warmed: Notify,
    loaded: Arc<Loaded>,
}

impl Health {
    pub(super) fn new(
        models: watch::Receiver<Models>,
        memory: Option<watch::Receiver<Use>>,
        warming: bool,
        loaded: Arc<Loaded>,
    ) -> Self {
        Self { models, memory, warming: AtomicBool::new(warming), warmed: Notify::new(), loaded }
    }

    pub(super) fn models(&self) -> Vec<String> {
        self.models.borrow().available.clone()
    }

    pub(super) fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// Why it is degraded, if it is: its engine does not answer, memory is short, or models are still loaded.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(used) = self.memory.as_ref().map(|memory| *memory.borrow()).filter(|used| used.level != Level::Fine)
        {
            return Some(format!(
                "{:.1} GB of its machine's memory are in use; the limit is {:.1} GB",
                used.gigabytes, used.limit
            ));
        }
        if self.warming.load(Ordering::Relaxed) {
            return Some("it is loading its models".to_owned());
        }
        self.models.borrow().trouble.clone()
    }

    /// The memory in use and the limit, where it is over the hard one.
    pub(super) fn memory_over(&self) -> Option<(f64, f64)> {
        let used = *self.memory.as_ref()?.borrow();
        (used.level == Level::Over).then_some((used.gigabytes, used.limit))
    }

    /// All models have been loaded, or given up.
    pub(super) fn warmed(&self) {
        self.warming.store(false, Ordering::Relaxed);
        self.warmed.notify_one();
    }

    /// Tells the cluster of every change.
    pub(super) async fn tell(&self, control: WorkerControl) {
        let (mut models, mut memory) = (self.models.clone(), self.memory.clone());
        loop {
            control.set_models(self.models());
            match self.trouble() {
                Some(why) => control.degrade(why),
                None => control.set_status(WorkerStatus::Online),
            }
            control.set_loaded_models(self.loaded.now(Instant::now()));
            tokio::select! {
                changed = models.changed() => if changed.is_err() { return },
                () = changed(&mut memory) => {}
                () = self.warmed.notified() => {}
                () = self.loaded.changed() => {}
            }
        }
    }
}

async fn changed(memory: &mut Option<watch::Receiver<Use>>) {
    let changed = match memory {
        Some(memory) => memory.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

/// How much memory of the machine is in use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Use {
    level: Level,
    gigabytes: f64,
    limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Fine,
    /// Over the soft limit.
    Short,
    /// Over the hard limit.
    Over,
}

/// Measures the memory of the machine.
pub(super) struct Memory {
    limits: MemoryLimits,
    machine: Arc<Machine>,
    used: watch::Sender<Use>,
}

impl Memory {
    pub(super) fn new(limits: MemoryLimits, machine: Arc<Machine>) -> Self {
        let used = watch::Sender::new(judge(limits, machine.memory_used_gb()));
        Self { limits, machine, used }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Use> {
        self.used.subscribe()
    }

    /// Measures, for ever.
    pub(super) async fn follow(self) {
        let mut clock = tokio::time::interval(self.limits.interval);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            clock.tick().await;
            let now = judge(self.limits, self.machine.memory_used_gb());
            self.used.send_if_modified(|used| {
                let changed = used.level != now.level;
                if changed {
                    tracing::warn!(level = ?now.level, used_gb = now.gigabytes, "the machine's memory: {:?} -> {:?}", used.level, now.level);
                }
                *used = now;
                changed
            });
        }
    }
}

fn judge(limits: MemoryLimits, gigabytes: f64) -> Use {
    let level = match gigabytes {
        used if used >= limits.hard => Level::Over,
        used if used >= limits.soft => Level::Short,
        _ => Level::Fine,
    };
    Use { level, gigabytes, limit: limits.hard }
}
