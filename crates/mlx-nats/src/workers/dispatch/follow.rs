//! Keeps a dispatcher's workers as the table of workers has them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::Shared;
use super::core::Core;
use crate::workers::{WorkerEvent, Workers};

/// How often a place is looked for while somebody waits, where nothing else tells of one.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn follow(shared: Arc<Shared>, workers: Workers) {
    let (mut updates, mut events) = (workers.updates(), workers.events());
    let mut cleanup = interval(shared.options.cleanup_interval.max(Duration::from_millis(1)));
    cleanup.set_missed_tick_behavior(MissedTickBehavior::Delay);
    all(&shared, &workers);
    loop {
        let next = next_look(&shared);
        tokio::select! {
            update = updates.recv() => match update {
                Ok(id) => {
                    if let Some(info) = workers.get(id) {
                        shared.change(|core, _| core.heard(&info));
                    }
                }
                Err(RecvError::Lagged(_)) => all(&shared, &workers),
                Err(RecvError::Closed) => return,
            },
            event = events.next() => match event {
                Some(WorkerEvent::Left(id) | WorkerEvent::Lost(id)) => shared.change(|core, _| core.gone(id)),
                Some(WorkerEvent::Missed(_)) => all(&shared, &workers),
                Some(_) => {}
                None => return,
            },
            _ = cleanup.tick() => shared.change(Core::clean),
            () = wait(next) => shared.change(|_, _| {}),
            // Somebody waits now: the next look is due by the clock.
            () = shared.waits.notified() => {}
        }
    }
}

/// Takes over the whole table.
fn all(shared: &Arc<Shared>, workers: &Workers) {
    let list = workers.list();
    shared.change(|core, _| {
        let mut gone = core.candidates.ids();
        for info in &list {
            gone.remove(&info.worker_id);
            core.heard(info);
        }
        for id in gone {
            core.gone(id);
        }
    });
}

/// When time alone may free a place for somebody who waits.
fn next_look(shared: &Shared) -> Option<Instant> {
    let state = shared.state.lock();
    let now = Instant::now();
    (state.core.waiting() > 0).then(|| state.core.candidates.next_chance(now).unwrap_or(now + LOOK).min(now + LOOK))
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}
