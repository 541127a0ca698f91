//! The table of workers, without sockets and without a clock of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mlx_types::messages::{WorkerHeartbeat, WorkerMetrics, WorkerRegistration, WorkerStatus};
use mlx_types::{Epoch, WorkerId};

use crate::connection::Backoff;

/// What is known of a worker.
#[derive(Clone, Debug)]
pub struct WorkerInfo {
    /// Its id.
    pub worker_id: WorkerId,
    /// The incarnation last heard of; unset for a node that does not tell.
    pub epoch: Option<Epoch>,
    /// What it said of itself last.
    pub status: WorkerStatus,
    /// Its registration, once one was seen.
    pub registration: Option<WorkerRegistration>,
    /// The metrics of its last heartbeat.
    pub metrics: Option<WorkerMetrics>,
}

/// A change in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// A worker is there that was not.
    Online(WorkerId),
    /// A worker came back as a new process: whatever its former one was doing is lost.
    Replaced(WorkerId),
    /// A worker said goodbye.
    Left(WorkerId),
    /// A worker fell silent for longer than the offline timeout.
    Lost(WorkerId),
}

impl WorkerEvent {
    /// The worker concerned, when what it was doing is over.
    pub(crate) fn departed(&self) -> Option<WorkerId> {
        match self {
            Self::Online(_) => None,
            Self::Replaced(id) | Self::Left(id) | Self::Lost(id) => Some(*id),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    workers: HashMap<WorkerId, Entry>,
    offline_timeout: Duration,
    /// While the bus itself is down nobody can be heard, and silence means nothing.
    bus_down_since: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    info: WorkerInfo,
    last_heard: Instant,
    /// Expected by us, but not heard of yet: not shown to users.
    heard: bool,
}

impl Table {
    pub(crate) fn new(offline_timeout: Duration) -> Self {
        Self { workers: HashMap::new(), offline_timeout, bus_down_since: None }
    }

    pub(crate) fn registered(&mut self, registration: WorkerRegistration, now: Instant) -> Option<WorkerEvent> {
        let id = registration.worker_id;
        if registration.status == WorkerStatus::Offline {
            return self.left(id, registration.epoch);
        }
        let (event, entry) = self.heard(id, registration.epoch, now)?;
        entry.info.status = registration.status;
        entry.info.registration = Some(registration);
        event
    }

    pub(crate) fn beat(&mut self, beat: WorkerHeartbeat, now: Instant) -> Option<WorkerEvent> {
        let id = beat.worker_id;
        if beat.status == WorkerStatus::Offline {
            return self.left(id, beat.epoch);
        }
        let (event, entry) = self.heard(id, beat.epoch, now)?;
        entry.info.status = beat.status;
        entry.info.metrics = Some(beat.metrics);
        event
    }

    pub(crate) fn left(&mut self, id: WorkerId, epoch: Option<Epoch>) -> Option<WorkerEvent> {
        let entry = self.workers.get(&id)?;
        if is_ghost(epoch, entry.info.epoch) {
            return None;
        }
        self.workers.remove(&id);
        Some(WorkerEvent::Left(id))
    }

    /// Counts the silence of a worker from now, should it never have been heard of.
    pub(crate) fn expect(&mut self, id: WorkerId, now: Instant) {
        self.workers.entry(id).or_insert_with(|| Entry::new(id, now));
    }

    /// The workers whose silence has lasted too long, and whether they had been heard of; they leave the table.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(WorkerId, bool)> {
        if self.bus_down_since.is_some() {
            return Vec::new();
        }
        let limit = self.offline_timeout;
        let gone = self.workers.extract_if(|_, entry| now.saturating_duration_since(entry.last_heard) > limit);
        gone.map(|(id, entry)| (id, entry.heard)).collect()
    }

    /// The moment at which [`expire`](Self::expire) may next find someone.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        if self.bus_down_since.is_some() {
            return None;
        }
        self.workers.values().map(|entry| entry.last_heard).min().map(|heard| heard + self.offline_timeout)
    }

    /// Follows the connection: an outage stops the clock. After it everybody has a full timeout to be heard, which begins
    /// once even the one whose attempt to reconnect is due last has made it.
    pub(crate) fn bus(&mut self, up: bool, now: Instant) {
        if !up {
            self.bus_down_since.get_or_insert(now);
        } else if let Some(since) = self.bus_down_since.take() {
            let everybody_is_back = now + Backoff::longest_wait_after(now.saturating_duration_since(since));
            for entry in self.workers.values_mut() {
                entry.last_heard = everybody_is_back;
            }
        }
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&WorkerInfo> {
        self.workers.get(&id).filter(|entry| entry.heard).map(|entry| &entry.info)
    }

    /// Whether the table holds the worker, heard of or only expected.
    pub(crate) fn contains(&self, id: WorkerId) -> bool {
        self.workers.contains_key(&id)
    }

    pub(crate) fn list(&self) -> Vec<WorkerInfo> {
        let mut list: Vec<_> =
            self.workers.values().filter(|entry| entry.heard).map(|entry| entry.info.clone()).collect();
        list.sort_by_key(|info| info.worker_id);
        list
    }

    /// Notes a sign of life; nothing, when it is one of an incarnation that has been replaced already.
    fn heard(&mut self, id: WorkerId, epoch: Option<Epoch>, now: Instant) -> Option<(Option<WorkerEvent>, &mut Entry)> {
        let entry = self.workers.entry(id).or_insert_with(|| Entry::new(id, now));
        if is_ghost(epoch, entry.info.epoch) {
            return None;
        }
        let event = match (entry.info.epoch, epoch) {
            _ if !entry.heard => Some(WorkerEvent::Online(id)),
            (Some(known), Some(new)) if new > known => Some(WorkerEvent::Replaced(id)),
            _ => None,
        };
        entry.heard = true;
        entry.info.epoch = epoch.or(entry.info.epoch);
        entry.last_heard = now;
        Some((event, entry))
    }
}

impl Entry {
    fn new(worker_id: WorkerId, now: Instant) -> Self {
        let info =
            WorkerInfo { worker_id, epoch: None, status: WorkerStatus::Online, registration: None, metrics: None };
        Self { info, last_heard: now, heard: false }
    }
}

fn is_ghost(epoch: Option<Epoch>, known: Option<Epoch>) -> bool {
    matches!((epoch, known), (Some(epoch), Some(known)) if epoch < known)
}

#[cfg(test)]
mod tests {
    use mlx_types::Timestamp;
    use proptest::prelude::*;

    use super::*;

    const OFFLINE: Duration = Duration::from_secs(15);

    fn beat(id: WorkerId, epoch: u64) -> WorkerHeartbeat {
        let metrics = WorkerMetrics {
            cpu_usage_percent: 1.0,
            memory_used_gb: 1.0,
            gpu_utilization_percent: 1.0,
            active_requests: 0,
            total_requests_handled: 0,
            avg_latency_ms: 0.0,
            models_loaded: Vec::new(),
        };
        let epoch = Some(Epoch::from_millis(epoch));
        WorkerHeartbeat { worker_id: id, status: WorkerStatus::Online, metrics, timestamp: Timestamp::now(), epoch }
    }

    #[test]
    fn s4_silence_beyond_the_timeout_loses_a_worker_and_not_before() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        assert_eq!(table.beat(beat(id, 1), start), Some(WorkerEvent::Online(id)));
        assert_eq!(table.expire(start + OFFLINE), []);
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [(id, true)]);
        assert!(table.list().is_empty());
    }

    #[test]
    fn s6_a_ghost_of_an_older_incarnation_is_ignored() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.beat(beat(id, 5), start);
        assert_eq!(table.beat(beat(id, 4), start + OFFLINE), None);
        assert_eq!(table.left(id, Some(Epoch::from_millis(4))), None);
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [(id, true)]);
    }

    #[test]
    fn s4_a_new_incarnation_ends_what_the_former_one_did() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.beat(beat(id, 5), start);
        assert_eq!(table.beat(beat(id, 6), start), Some(WorkerEvent::Replaced(id)));
        assert_eq!(table.beat(beat(id, 6), start), None);
    }

    #[test]
    fn a_bus_wide_outage_marks_nobody_dead() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.beat(beat(id, 1), start);
        table.bus(false, start);
        let after = start + 4 * OFFLINE;
        assert_eq!(table.expire(after), []);
        table.bus(true, after);
        // A worker that has backed off for so long may wait for 45 s yet, and needs a heartbeat's time then.
        let all_back = after + Duration::from_secs(45);
        assert_eq!(table.expire(all_back + OFFLINE), []);
        assert_eq!(table.expire(all_back + OFFLINE + Duration::from_millis(1)), [(id, true)]);
    }

    #[test]
    fn who_is_heard_again_after_an_outage_has_the_usual_timeout() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.beat(beat(id, 1), start);
        table.bus(false, start);
        table.bus(false, start + OFFLINE); // from disconnected to reconnecting
        let after = start + 2 * OFFLINE;
        table.bus(true, after);
        table.beat(beat(id, 1), after);
        assert_eq!(table.expire(after + OFFLINE), []);
        assert_eq!(table.expire(after + OFFLINE + Duration::from_millis(1)), [(id, true)]);
    }

    #[test]
    fn an_expected_worker_is_not_shown_but_its_silence_counts() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.expect(id, start);
        assert!(table.list().is_empty() && table.get(id).is_none());
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [(id, false)]);
    }

    proptest! {
        #[test]
        fn a_worker_is_lost_only_after_a_full_timeout_of_silence(gaps in prop::collection::vec(0u64..40_000, 1..40)) {
            let id = WorkerId::new();
            let mut now = Instant::now();
            let mut table = Table::new(OFFLINE);
            table.beat(beat(id, 1), now);
            for gap in gaps {
                now += Duration::from_millis(gap);
                let lost = !table.expire(now).is_empty();
                prop_assert_eq!(lost, Duration::from_millis(gap) > OFFLINE);
                table.beat(beat(id, 1), now);
            }
        }
    }
}
