//! Which models a worker has: what its engine lists, asked for again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlx_types::{Timestamp, WorkerId};
use tokio::sync::watch;

use crate::engine::Engine;

/// How long a list is good for. A model server may be restarted with other models.
const SCAN: Duration = Duration::from_secs(5);
/// How long until an engine that did not answer is asked again. A model server may take minutes to load its model.
const RETRY: Duration = Duration::from_secs(1);
/// Lists in a row that may be missing before there is no model any more: a busy server misses one.
const MISSES: u32 = 2;

/// What a worker has to offer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Models {
    /// The ids of the models.
    pub(super) available: Vec<String>,
    /// Why the worker is degraded: the engine does not answer, or lists no model.
    pub(super) trouble: Option<String>,
    /// When the list was made.
    pub(super) scanned: Timestamp,
}

impl Models {
    /// None yet.
    pub(super) fn none() -> Self {
        Self {
            available: Vec::new(),
            trouble: Some("its engine was not asked yet".to_owned()),
            scanned: Timestamp::now(),
        }
    }
}

/// The requests that an engine works on.
#[derive(Clone, Debug, Default)]
pub(super) struct Running(Arc<AtomicUsize>);

impl Running {
    /// Counts one until what is returned is dropped.
    pub(super) fn begin(&self) -> impl Drop + use<> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ended(self.clone())
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

struct Ended(Running);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks an engine for its models, and tells a worker of changes.
pub(super) struct Scanner {
    worker: WorkerId,
    engine: Arc<dyn Engine>,
    models: watch::Sender<Models>,
    running: Running,
    /// Lists missing in a row.
    missed: u32,
}

impl Scanner {
    /// A scanner, and what it will have found.
    pub(super) fn new(worker: WorkerId, engine: Arc<dyn Engine>, running: Running) -> (Self, watch::Receiver<Models>) {
        let (models, found) = watch::channel(Models::none());
        (Self { worker, engine, models, running, missed: 0 }, found)
    }

    /// Asks now and then, for ever; not while a request runs: an engine that answers is there, some are too busy to list anything
    /// meanwhile, and some (llama-cpp-python's server) break the answer off for it.
    pub(super) async fn follow(mut self) {
        loop {
            // Between two questions to what cannot tell of itself.
            tokio::time::sleep(if self.missed == 0 { SCAN } else { RETRY }).await;
            if !self.running.any() {
                self.scan().await;
            }
        }
    }

    /// Asks once.
    pub(super) async fn scan(&mut self) {
        let worker = self.worker;
        match self.engine.models().await {
            Ok(available) => {
                if available.is_empty() && self.missed == 0 {
                    tracing::warn!(%worker, "the engine lists no model");
                } else if self.missed > 0 {
                    // As loud as what it puts an end to.
                    tracing::warn!(%worker, models = ?available, "the engine answers now");
                }
                self.missed = 0;
                let trouble = available.is_empty().then(|| "its engine lists no model".to_owned());
                self.found(available, trouble);
            }
            Err(error) => {
                if self.missed == 0 {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%worker, error, "the engine does not list its models; asked again every second");
                }
                self.missed = self.missed.saturating_add(1);
                let still = if self.missed < MISSES { self.models.borrow().available.clone() } else { Vec::new() };
                // Without causes and addresses, which are for its own log.
                self.found(still, Some(error.to_remote().message().to_owned()));
            }
        }
    }

    fn found(&self, available: Vec<String>, trouble: Option<String>) {
        self.models.send_if_modified(|models| {
            let changed = models.available != available || models.trouble != trouble;
            if changed {
                *models = Models { available, trouble, scanned: Timestamp::now() };
            }
            changed
        });
    }
}
