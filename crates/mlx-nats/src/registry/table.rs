//! The table of workers, without sockets and without a clock of its own.

mod asking;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use mlx_types::messages::{WorkerDeregistration, WorkerMetrics, WorkerRegistration, WorkerStatus};
use mlx_types::{Epoch, Timestamp, WorkerId};

use super::beat::Beat;
use super::departed::{Departed, Moment};
use super::probe::Probe;
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
    /// The bus says that nobody listens for this worker any more: it is dead, and not only silent.
    Dead {
        worker_id: WorkerId,
        /// Whether it was known to everybody.
        heard: bool,
    },
}

impl News {
    /// The worker concerned, when what it was doing is over.
    pub(crate) fn departed(&self) -> Option<WorkerId> {
        match self {
            Self::Event(event) => event.departed(),
            Self::Gone(id) | Self::Dead { worker_id: id, .. } => Some(*id),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    workers: HashMap<WorkerId, Entry>,
    departed: Departed,
    offline_timeout: Duration,
    /// Between two heartbeats of a worker of which none are known yet.
    heartbeat_interval: Duration,
    /// Everybody, by when they were last heard.
    by_silence: BTreeSet<(Instant, WorkerId)>,
    /// When to see about a worker next, of those that can be asked.
    by_probe: BTreeSet<(Instant, WorkerId)>,
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
    /// When its last heartbeat came, and the usual time between two of them.
    last_beat: Option<Instant>,
    interval: Option<Duration>,
    /// What it says when it is asked for a sign of life.
    probe: Probe,
    /// It may be asked: it has said its epoch, or accepted a request with it, as only those do that answer.
    may_be_asked: bool,
    /// Its place in `by_probe`.
    probe_at: Option<Instant>,
    /// Streams that wait for it and hear nothing.
    suspicions: usize,
}

/// A heartbeat that is overdue by this has its worker asked, which leaves half a second in all for two questions.
const OVERDUE: Duration = Duration::from_millis(120);

impl Table {
    pub(crate) fn new(offline_timeout: Duration, heartbeat_interval: Duration) -> Self {
        Self {
            workers: HashMap::new(),
            departed: Departed::new(offline_timeout),
            offline_timeout,
            heartbeat_interval,
            by_silence: BTreeSet::new(),
            by_probe: BTreeSet::new(),
            bus_down_since: None,
        }
    }

    pub(crate) fn registered(&mut self, mut registration: WorkerRegistration, now: Instant) -> Option<News> {
        let id = registration.worker_id;
        let moment = Moment::new(registration.epoch, registration.timestamp).heard_at(Timestamp::now());
        if registration.status == WorkerStatus::Offline {
            return self.gone(id, moment, now);
        }
        // One of the same millisecond as the farewell may be a return, and none of these is missed.
        if self.departed.last_moment(id, now).is_some_and(|last| moment.order(last).is_lt()) {
            return None;
        }
        let (event, entry) = self.heard(id, moment, now)?;
        entry.info.status = registration.status;
        // What is known of the incarnation is never forgotten for a message that does not tell.
        registration.epoch = entry.info.epoch;
        entry.info.registration = Some(registration);
        event.map(News::Event)
    }

    pub(crate) fn beat(&mut self, beat: impl Into<Beat>, now: Instant) -> Option<News> {
        let beat = beat.into();
        let id = beat.worker_id;
        let moment = Moment::new(beat.epoch, beat.timestamp).heard_at(Timestamp::now());
        if beat.status == WorkerStatus::Offline {
            return self.gone(id, moment, now);
        }
        // One of the same millisecond as the farewell was the last.
        if self.departed.last_moment(id, now).is_some_and(|last| moment.order(last).is_le()) {
            return None;
        }
        let (event, entry) = self.heard(id, moment, now)?;
        entry.info.status = beat.status;
        entry.info.metrics = beat.metrics;
        if let Some(gap) = entry.last_beat.map(|last| now.saturating_duration_since(last)) {
            // A shorter one is believed at once, a longer one by and by: it may be one that was missed.
            entry.interval = Some(match entry.interval {
                Some(known) if gap > known => known + gap.saturating_sub(known) / 8,
                _ => gap,
            });
        }
        entry.last_beat = Some(now);
        self.see_about(id, now);
        event.map(News::Event)
    }

    pub(crate) fn left(&mut self, farewell: &WorkerDeregistration, now: Instant) -> Option<News> {
        let moment = Moment::new(farewell.epoch, farewell.timestamp).heard_at(Timestamp::now());
        self.gone(farewell.worker_id, moment, now)
    }

    /// Counts the silence of a worker from now, should it never have been heard of.
    pub(crate) fn expect(&mut self, id: WorkerId, now: Instant) {
        if self.workers.contains_key(&id) {
            return;
        }
        self.workers.insert(id, Entry::new(id, now));
        self.by_silence.insert((now, id));
    }

    /// The workers whose silence has lasted too long; they leave the table.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<News> {
        if self.bus_down_since.is_some() {
            return Vec::new();
        }
        let limit = self.offline_timeout;
        let mut lost = Vec::new();
        while let Some((last_heard, id)) = self.by_silence.first().copied()
            && now.saturating_duration_since(last_heard) > limit
        {
            let Some(entry) = self.remove(id) else { break };
            // Whoever was silent may be heard again at any time; a former incarnation may not.
            if entry.info.epoch.is_some() {
                self.departed.note(id, Moment { epoch: entry.info.epoch, timestamp: None }, now);
            }
            lost.push(entry.news(WorkerEvent::Lost(id)));
        }
        lost
    }

    /// The moment at which [`expire`](Self::expire) may next find someone; none, where the timeout is longer than any clock
    /// runs.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        if self.bus_down_since.is_some() {
            return None;
        }
        self.by_silence.first()?.0.checked_add(self.offline_timeout)
    }

    /// Follows the connection: an outage stops the clock. After it everybody has a full timeout to be heard, which begins
    /// once even the one whose attempt to reconnect is due last has made it.
    pub(crate) fn bus(&mut self, up: bool, now: Instant) {
        if !up {
            self.bus_down_since.get_or_insert(now);
        } else if let Some(since) = self.bus_down_since.take() {
            let everybody_is_back = now + Backoff::longest_wait_after(now.saturating_duration_since(since));
            self.by_probe.clear();
            for entry in self.workers.values_mut() {
                entry.last_heard = everybody_is_back;
                // Whether it is on the bus again is not known before it has been heard.
                entry.probe = Probe::new(now);
                entry.probe_at = None;
                entry.last_beat = None;
            }
            self.count_silence_anew();
        }
    }

    /// This process slept, and nobody's silence counts for that time.
    pub(crate) fn slept(&mut self, time: Duration) {
        for entry in self.workers.values_mut() {
            entry.last_heard += time;
            entry.last_beat = entry.last_beat.map(|last| last + time);
        }
        self.count_silence_anew();
    }

    fn count_silence_anew(&mut self) {
        self.by_silence = self.workers.iter().map(|(id, entry)| (entry.last_heard, *id)).collect();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The id in the case in which the worker says it, which subjects are made of.
    pub(crate) fn said(&self, id: WorkerId) -> Option<WorkerId> {
        self.workers.get_key_value(&id).map(|(said, _)| *said)
    }

    /// Whether the worker says its incarnation.
    pub(crate) fn has_epoch(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|entry| entry.info.epoch.is_some())
    }

    fn remove(&mut self, id: WorkerId) -> Option<Entry> {
        let entry = self.workers.remove(&id)?;
        self.by_silence.remove(&(entry.last_heard, id));
        if let Some(at) = entry.probe_at {
            self.by_probe.remove(&(at, id));
        }
        Some(entry)
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
        // The key keeps the case in which the worker says its id, which who only expected it need not know.
        if self.workers.get(&id).is_some_and(|entry| !entry.heard)
            && let Some(expected) = self.workers.remove(&id)
        {
            self.workers.insert(id, expected);
        }
        let entry = self.workers.entry(id).or_insert_with(|| {
            self.by_silence.insert((now, id));
            Entry::new(id, now)
        });
        let event = match (entry.info.epoch, moment.epoch) {
            (Some(known), Some(new)) if new < known => return None,
            _ if !entry.heard => Some(WorkerEvent::Online(id)),
            (Some(known), Some(new)) if new > known => Some(WorkerEvent::Replaced(id)),
            _ => None,
        };
        if moment.order(entry.last_moment()).is_gt() {
            entry.timestamp = moment.timestamp;
        }
        if !entry.heard {
            entry.info.worker_id = id;
        }
        entry.heard = true;
        entry.info.epoch = moment.epoch.or(entry.info.epoch);
        entry.may_be_asked |= entry.info.epoch.is_some();
        if matches!(event, Some(WorkerEvent::Replaced(_))) {
            entry.probe = Probe::new(now);
            entry.last_beat = None;
        }
        entry.probe.alive(now);
        self.by_silence.remove(&(entry.last_heard, id));
        self.by_silence.insert((now, id));
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
        Some(self.remove(id)?.news(WorkerEvent::Left(id)))
    }
}

impl Entry {
    fn new(worker_id: WorkerId, now: Instant) -> Self {
        let info =
            WorkerInfo { worker_id, epoch: None, status: WorkerStatus::Online, registration: None, metrics: None };
        Self {
            info,
            last_heard: now,
            timestamp: None,
            heard: false,
            last_beat: None,
            interval: None,
            probe: Probe::new(now),
            may_be_asked: false,
            probe_at: None,
            suspicions: 0,
        }
    }

    /// When its next heartbeat is late.
    fn overdue_at(&self, default: Duration) -> Instant {
        let from = self.last_beat.unwrap_or(self.last_heard);
        let due = from.checked_add(self.interval.unwrap_or(default).saturating_add(OVERDUE));
        due.unwrap_or_else(|| from + Duration::from_hours(24))
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
    use mlx_types::messages::WorkerHeartbeat;
    use proptest::prelude::*;

    use super::*;

    const OFFLINE: Duration = Duration::from_secs(15);
    const INTERVAL: Duration = Duration::from_secs(5);

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
        let mut table = Table::new(OFFLINE, INTERVAL);
        assert_eq!(table.beat(beat(id, 1), start), Some(online(id)));
        assert_eq!(table.expire(start + OFFLINE), []);
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [lost(id)]);
        assert!(table.list().is_empty());
    }

    #[test]
    fn s6_a_ghost_of_an_older_incarnation_is_ignored() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.beat(beat(id, 5), start);
        assert_eq!(table.beat(beat(id, 4), start + OFFLINE), None);
        let farewell = WorkerDeregistration { epoch: Some(Epoch::from_millis(4)), ..WorkerDeregistration::new(id) };
        assert_eq!(table.left(&farewell, start), None);
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [lost(id)]);
    }

    #[test]
    fn s4_a_new_incarnation_ends_what_the_former_one_did() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.beat(beat(id, 5), start);
        assert_eq!(table.beat(beat(id, 6), start), Some(News::Event(WorkerEvent::Replaced(id))));
        assert_eq!(table.beat(beat(id, 6), start), None);
    }

    #[test]
    fn a_bus_wide_outage_marks_nobody_dead() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
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
        let mut table = Table::new(OFFLINE, INTERVAL);
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
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.expect(id, start);
        assert!(table.list().is_empty() && table.get(id).is_none());
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [News::Gone(id)]);
    }

    #[test]
    fn the_farewell_of_an_expected_worker_is_told_to_those_who_wait_for_it_alone() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.expect(id, start);
        assert_eq!(table.left(&WorkerDeregistration::new(id), start), Some(News::Gone(id)));
    }

    #[test]
    fn a_timeout_without_end_loses_nobody() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(Duration::MAX, INTERVAL);
        table.beat(beat(id, 1), start);
        assert_eq!(table.next_expiry(), None);
        assert_eq!(table.expire(start + 1000 * OFFLINE), []);
    }

    proptest! {
        #[test]
        fn a_worker_is_lost_only_after_a_full_timeout_of_silence(gaps in prop::collection::vec(0u64..40_000, 1..40)) {
            let id = WorkerId::new();
            let mut now = Instant::now();
            let mut table = Table::new(OFFLINE, INTERVAL);
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
