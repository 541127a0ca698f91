//! The table of workers, without sockets and without a clock of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mlx_types::messages::{WorkerDeregistration, WorkerHeartbeat, WorkerMetrics, WorkerRegistration, WorkerStatus};
use mlx_types::{Epoch, Timestamp, WorkerId};

use super::departed::{Departed, Moment};
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

/// What there is to tell after a change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// To everybody.
    Event(WorkerEvent),
    /// To those who wait for this worker, which is gone. Others were never told that it was there.
    Gone(WorkerId),
}

impl News {
    /// The worker concerned, when what it was doing is over.
    pub(crate) fn departed(&self) -> Option<WorkerId> {
        match self {
            Self::Event(event) => event.departed(),
            Self::Gone(id) => Some(*id),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    workers: HashMap<WorkerId, Entry>,
    departed: Departed,
    offline_timeout: Duration,
    /// While the bus itself is down nobody can be heard, and silence means nothing.
    bus_down_since: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    info: WorkerInfo,
    last_heard: Instant,
    /// The latest of the worker's own times that were heard.
    timestamp: Option<Timestamp>,
    /// Expected by us, but not heard of yet: not shown to users.
    heard: bool,
}

impl Table {
    pub(crate) fn new(offline_timeout: Duration) -> Self {
        let departed = Departed::new(offline_timeout);
        Self { workers: HashMap::new(), departed, offline_timeout, bus_down_since: None }
    }

    pub(crate) fn registered(&mut self, registration: WorkerRegistration, now: Instant) -> Option<News> {
        let id = registration.worker_id;
        let moment = Moment::new(registration.epoch, registration.timestamp);
        if registration.status == WorkerStatus::Offline {
            return self.gone(id, moment, now);
        }
        // One of the same millisecond as the farewell may be a return, and none of these is missed.
        if self.departed.last_moment(id, now).is_some_and(|last| moment.order(last).is_lt()) {
            return None;
        }
        let (event, entry) = self.heard(id, moment, now)?;
        entry.info.status = registration.status;
        entry.info.registration = Some(registration);
        event.map(News::Event)
    }

    pub(crate) fn beat(&mut self, beat: WorkerHeartbeat, now: Instant) -> Option<News> {
        let id = beat.worker_id;
        let moment = Moment::new(beat.epoch, beat.timestamp);
        if beat.status == WorkerStatus::Offline {
            return self.gone(id, moment, now);
        }
        // One of the same millisecond as the farewell was the last.
        if self.departed.last_moment(id, now).is_some_and(|last| moment.order(last).is_le()) {
            return None;
        }
        let (event, entry) = self.heard(id, moment, now)?;
        entry.info.status = beat.status;
        entry.info.metrics = Some(beat.metrics);
        event.map(News::Event)
    }

    pub(crate) fn left(&mut self, farewell: &WorkerDeregistration, now: Instant) -> Option<News> {
        self.gone(farewell.worker_id, Moment::new(farewell.epoch, farewell.timestamp), now)
    }

    /// Counts the silence of a worker from now, should it never have been heard of.
    pub(crate) fn expect(&mut self, id: WorkerId, now: Instant) {
        self.workers.entry(id).or_insert_with(|| Entry::new(id, now));
    }

    /// The workers whose silence has lasted too long; they leave the table.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<News> {
        if self.bus_down_since.is_some() {
            return Vec::new();
        }
        let limit = self.offline_timeout;
        let gone = self.workers.extract_if(|_, entry| now.saturating_duration_since(entry.last_heard) > limit);
        let gone: Vec<_> = gone.collect();
        for (id, entry) in &gone {
            // Whoever was silent may be heard again at any time; a former incarnation may not.
            if entry.info.epoch.is_some() {
                self.departed.note(*id, Moment { epoch: entry.info.epoch, timestamp: None }, now);
            }
        }
        gone.into_iter().map(|(id, entry)| entry.news(WorkerEvent::Lost(id))).collect()
    }

    /// The moment at which [`expire`](Self::expire) may next find someone; none, where the timeout is longer than any clock
    /// runs.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        if self.bus_down_since.is_some() {
            return None;
        }
        self.workers.values().map(|entry| entry.last_heard).min()?.checked_add(self.offline_timeout)
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
    fn heard(&mut self, id: WorkerId, moment: Moment, now: Instant) -> Option<(Option<WorkerEvent>, &mut Entry)> {
        let entry = self.workers.entry(id).or_insert_with(|| Entry::new(id, now));
        let event = match (entry.info.epoch, moment.epoch) {
            (Some(known), Some(new)) if new < known => return None,
            _ if !entry.heard => Some(WorkerEvent::Online(id)),
            (Some(known), Some(new)) if new > known => Some(WorkerEvent::Replaced(id)),
            _ => None,
        };
        if moment.order(entry.last_moment()).is_gt() {
            entry.timestamp = moment.timestamp;
        }
        entry.heard = true;
        entry.info.epoch = moment.epoch.or(entry.info.epoch);
        entry.last_heard = now;
        self.departed.forget(id);
        Some((event, entry))
    }

    /// Notes a farewell, unless the worker has said something since, or another farewell.
    fn gone(&mut self, id: WorkerId, farewell: Moment, now: Instant) -> Option<News> {
        let last_heard = self.workers.get(&id).map(Entry::last_moment);
        let last_farewell = self.departed.last_moment(id, now);
        if last_heard.into_iter().chain(last_farewell).any(|last| farewell.order(last).is_lt()) {
            return None;
        }
        // Also of a worker that is not known: its first heartbeat may be what the farewell has overtaken.
        self.departed.note(id, farewell, now);
        Some(self.workers.remove(&id)?.news(WorkerEvent::Left(id)))
    }
}

impl Entry {
    fn new(worker_id: WorkerId, now: Instant) -> Self {
        let info =
            WorkerInfo { worker_id, epoch: None, status: WorkerStatus::Online, registration: None, metrics: None };
        Self { info, last_heard: now, timestamp: None, heard: false }
    }

    fn last_moment(&self) -> Moment {
        Moment { epoch: self.info.epoch, timestamp: self.timestamp }
    }

    /// What there is to tell of the end of this worker, which is `end` if anybody knows of it.
    fn news(&self, end: WorkerEvent) -> News {
        if self.heard { News::Event(end) } else { News::Gone(self.info.worker_id) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OFFLINE: Duration = Duration::from_secs(15);

    fn beat(id: WorkerId, epoch: u64) -> WorkerHeartbeat {
        let epoch = Some(Epoch::from_millis(epoch));
        WorkerHeartbeat { epoch, ..WorkerHeartbeat::new(id, WorkerStatus::Online, WorkerMetrics::default()) }
    }

    fn online(id: WorkerId) -> News {
        News::Event(WorkerEvent::Online(id))
    }

    fn lost(id: WorkerId) -> News {
        News::Event(WorkerEvent::Lost(id))
    }

    #[test]
    fn s4_silence_beyond_the_timeout_loses_a_worker_and_not_before() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        assert_eq!(table.beat(beat(id, 1), start), Some(online(id)));
        assert_eq!(table.expire(start + OFFLINE), []);
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [lost(id)]);
        assert!(table.list().is_empty());
    }

    #[test]
    fn s6_a_ghost_of_an_older_incarnation_is_ignored() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.beat(beat(id, 5), start);
        assert_eq!(table.beat(beat(id, 4), start + OFFLINE), None);
        let farewell = WorkerDeregistration { epoch: Some(Epoch::from_millis(4)), ..WorkerDeregistration::new(id) };
        assert_eq!(table.left(&farewell, start), None);
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [lost(id)]);
    }

    #[test]
    fn s4_a_new_incarnation_ends_what_the_former_one_did() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.beat(beat(id, 5), start);
        assert_eq!(table.beat(beat(id, 6), start), Some(News::Event(WorkerEvent::Replaced(id))));
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
        assert_eq!(table.expire(all_back + OFFLINE + Duration::from_millis(1)), [lost(id)]);
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
        assert_eq!(table.expire(after + OFFLINE + Duration::from_millis(1)), [lost(id)]);
    }

    #[test]
    fn an_expected_worker_is_not_shown_but_its_silence_counts() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.expect(id, start);
        assert!(table.list().is_empty() && table.get(id).is_none());
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [News::Gone(id)]);
    }

    #[test]
    fn the_farewell_of_an_expected_worker_is_told_to_those_who_wait_for_it_alone() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE);
        table.expect(id, start);
        assert_eq!(table.left(&WorkerDeregistration::new(id), start), Some(News::Gone(id)));
    }

    #[test]
    fn a_timeout_without_end_loses_nobody() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(Duration::MAX);
        table.beat(beat(id, 1), start);
        assert_eq!(table.next_expiry(), None);
        assert_eq!(table.expire(start + 1000 * OFFLINE), []);
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
