//! What happened of late: who came, who went, and what became of the bus.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use mlx_errors::Result;
use mlx_nats::WorkerEvent;
use mlx_types::{Timestamp, WorkerId, subjects};
use parking_lot::Mutex;

use super::Gateway;
use super::registry::name_of;

/// How many are remembered.
const REMEMBERED: usize = 20;

/// The latest events.
#[derive(Debug, Default)]
pub struct EventLog(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// Newest first.
    events: VecDeque<Event>,
    bus_gone_since: Option<Timestamp>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Of which kind: `good`, `bad` or `plain`.
    pub kind: &'static str,
    /// What.
    pub text: String,
}

impl EventLog {
    /// The latest ones, newest first.
    pub fn latest(&self) -> Vec<Event> {
        self.0.lock().events.iter().cloned().collect()
    }

    /// Since when the bus has been away, if it is.
    pub fn bus_gone_since(&self) -> Option<Timestamp> {
        self.0.lock().bus_gone_since
    }

    fn bus(&self, connected: bool) {
        self.0.lock().bus_gone_since = (!connected).then(Timestamp::now);
        let (kind, what) = if connected { ("good", "back") } else { ("bad", "gone") };
        self.tell(kind, format!("the message bus is {what}"));
    }

    fn tell(&self, kind: &'static str, text: String) {
        let events = &mut self.0.lock().events;
        events.push_front(Event { at: Timestamp::now(), kind, text });
        events.truncate(REMEMBERED);
    }
}

/// Follows the workers and the bus until the bus is given up, and says why then.
///
/// # Errors
/// A subscription that cannot be made.
pub async fn follow(front: Arc<Gateway>) -> Result<String> {
    let mut workers = front.registry.events();
    let mut beats = front.client.subscribe(&subjects::WORKER_HEARTBEAT).await?;
    let mut reports = front.client.subscribe(&subjects::METRICS_REPORT).await?;
    let mut bus = front.client.watch_state();
    let mut connected = bus.borrow_and_update().is_connected();
    let mut names = HashMap::new();
    for worker in front.registry.list() {
        names.insert(worker.worker_id, name_of(&worker).to_owned());
        joined(&front, worker.worker_id, &mut names);
    }
    loop {
        tokio::select! {
            event = workers.next() => match event {
                Some(WorkerEvent::Missed(count)) => front.news.tell("plain", format!("{count} events were missed")),
                Some(event) => note(&front, &event, &mut names),
                None => return Ok("the client is gone".to_owned()),
            },
            Some(beat) = beats.next() => {
                // A malformed one is the registry's to complain about.
                if let Ok(beat) = beat && front.registry.get(beat.worker_id).is_some() {
                    front.placement.heard(beat.worker_id, beat.metrics.active_requests);
                }
            }
            Some(report) = reports.next() => {
                if let Ok(report) = report && front.registry.get(report.worker_id).is_some() {
                    front.stats.reported(report.worker_id, report.tokens_per_second.unwrap_or_default(), Instant::now());
                }
            }
            changed = bus.changed() => {
                let state = bus.borrow_and_update().clone();
                if changed.is_err() || state.is_closed() {
                    return Ok(crate::worker::reason_of(&state));
                }
                // Every attempt to reconnect is a change of state, and no news.
                if state.is_connected() != connected {
                    connected = state.is_connected();
                    front.news.bus(connected);
                }
            }
        }
    }
}

fn note(front: &Gateway, event: &WorkerEvent, names: &mut HashMap<WorkerId, String>) {
    match event {
        WorkerEvent::Online(id) => joined(front, *id, names),
        WorkerEvent::Replaced(id) => {
            let name = called(front, *id, names);
            front.news.tell("plain", format!("{name} came back as a new process"));
        }
        WorkerEvent::Left(id) => gone(front, *id, "plain", "left", names),
        WorkerEvent::Lost(id) => gone(front, *id, "bad", "was lost", names),
        _ => {} // of a newer version, about which there is nothing to say
    }
}

fn joined(front: &Gateway, id: WorkerId, names: &mut HashMap<WorkerId, String>) {
    let name = called(front, id, names);
    front.news.tell("good", format!("{name} joined"));
}

fn gone(front: &Gateway, id: WorkerId, kind: &'static str, how: &str, names: &mut HashMap<WorkerId, String>) {
    let name = called(front, id, names);
    front.news.tell(kind, format!("{name} {how}"));
    names.remove(&id);
    front.placement.forget(id);
    front.stats.forget(id);
}

/// What a worker is called, as long as it is online; what it was called, after.
fn called(front: &Gateway, id: WorkerId, names: &mut HashMap<WorkerId, String>) -> String {
    if let Some(worker) = front.registry.get(id) {
        names.insert(id, name_of(&worker).to_owned());
    }
    let name = names.get(&id).map_or("a worker", String::as_str);
    format!("{name} ({})", short(id))
}

/// Enough of an id to tell workers apart.
pub fn short(id: WorkerId) -> String {
    id.to_string().chars().take(8).collect()
}
