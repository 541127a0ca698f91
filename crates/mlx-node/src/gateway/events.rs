//! What happened of late: who came, who went, and what became of the bus.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use futures_util::StreamExt;
use mlx_errors::Result;
use mlx_nats::{ConnectionState, WorkerEvent};
use mlx_types::{Timestamp, WorkerId, subjects};
use parking_lot::Mutex;

use super::Gateway;

/// How many are remembered.
const REMEMBERED: usize = 20;

/// The latest events.
#[derive(Debug, Default)]
pub(super) struct EventLog(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// Newest first.
    events: VecDeque<Event>,
    bus_gone_since: Option<Timestamp>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// When.
    pub(super) at: Timestamp,
    /// Of which kind: `good`, `bad` or `plain`.
    pub(super) kind: &'static str,
    /// What.
    pub(super) text: String,
}

impl EventLog {
    /// The latest ones, newest first.
    pub(super) fn latest(&self) -> Vec<Event> {
        self.0.lock().events.iter().cloned().collect()
    }

    /// Since when the bus has been away, if it is.
    pub(super) fn bus_gone_since(&self) -> Option<Timestamp> {
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
pub(super) async fn follow(gateway: &Gateway) -> Result<String> {
    let mut workers = gateway.registry.events();
    let mut reports = gateway.client.subscribe(&subjects::METRICS_REPORT).await?;
    let mut bus = gateway.client.watch_state();
    let mut connected = bus.borrow_and_update().is_connected();
    let mut names = Names::default();
    for worker in gateway.registry.list() {
        joined(gateway, worker.worker_id, &mut names);
    }
    loop {
        tokio::select! {
            event = workers.next() => match event {
                Some(WorkerEvent::Missed(count)) => {
                    gateway.events.tell("plain", format!("{count} events were missed"));
                    reconcile(gateway, &mut names);
                }
                Some(event) => note(gateway, &event, &mut names),
                None => return Ok("the client is gone".to_owned()),
            },
            Some(report) = reports.next() => {
                if let Ok(report) = report && gateway.registry.get(report.worker_id).is_some() {
                    gateway.stats.reported(report.worker_id, report.tokens_per_second.unwrap_or_default(), Instant::now());
                }
            }
            changed = bus.changed() => {
                let state = bus.borrow_and_update().clone();
                if changed.is_err() || state.is_closed() {
                    return Ok(reason_of(&state));
                }
                // Every attempt to reconnect is a change of state, and no news.
                if state.is_connected() != connected {
                    connected = state.is_connected();
                    gateway.events.bus(connected);
                }
            }
        }
    }
}

/// What the workers that are online are called, and were called when they are no longer.
#[derive(Default)]
struct Names(HashMap<WorkerId, String>);

impl Names {
    fn of(&mut self, gateway: &Gateway, id: WorkerId) -> String {
        if let Some(worker) = gateway.registry.get(id) {
            self.0.insert(id, gateway.name_of(&worker));
        }
        let name = self.0.get(&id).map_or("a worker", String::as_str);
        format!("{name} ({})", short(id))
    }
}

/// After events that were missed: nothing is kept of those that are gone, and those that came are known.
fn reconcile(gateway: &Gateway, names: &mut Names) {
    let online: HashMap<WorkerId, String> =
        gateway.registry.list().iter().map(|worker| (worker.worker_id, gateway.name_of(worker))).collect();
    gateway.stats.keep(|id| online.contains_key(&id));
    names.0 = online;
}

fn note(gateway: &Gateway, event: &WorkerEvent, names: &mut Names) {
    match event {
        WorkerEvent::Online(id) => joined(gateway, *id, names),
        WorkerEvent::Replaced(id) => {
            let name = names.of(gateway, *id);
            gateway.events.tell("plain", format!("{name} came back as a new process"));
        }
        WorkerEvent::Left(id) => gone(gateway, *id, "plain", "left", names),
        WorkerEvent::Lost(id) => gone(gateway, *id, "bad", "was lost", names),
        _ => {} // of a newer version, about which there is nothing to say
    }
}

fn joined(gateway: &Gateway, id: WorkerId, names: &mut Names) {
    let name = names.of(gateway, id);
    gateway.events.tell("good", format!("{name} joined"));
}

fn gone(gateway: &Gateway, id: WorkerId, kind: &'static str, how: &str, names: &mut Names) {
    let name = names.of(gateway, id);
    gateway.events.tell(kind, format!("{name} {how}"));
    names.0.remove(&id);
    gateway.stats.forget(id);
}

/// Enough of an id to tell workers apart.
pub(super) fn short(id: WorkerId) -> String {
    id.to_string().chars().take(8).collect()
}

/// Why a client is closed, in words that follow "closed:".
fn reason_of(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Closed { reason } => reason.to_string(),
        state => state.to_string(),
    }
}
