//! The table of workers, without sockets and without a clock of its own.

mod asking;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use mlx_types::messages::{WorkerDeregistration, WorkerRegistration, WorkerStatus};
use mlx_types::{Timestamp, WorkerId};

use super::beat::Beat;
use super::departed::{Departed, Moment};
use super::entry::Entry;
use super::news::{News, WorkerEvent, WorkerInfo};
use super::probe::Probe;
use crate::connection::Backoff;

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
    /// Entries made so far.
    generations: u64,
    /// Questions asked so far, by which each has its number.
    questions: u64,
}

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
            generations: 0,
            questions: 0,
        }
    }

    /// Takes a registration that came at `now`, which is `wall` by the clock that epochs and timestamps are of.
    pub(crate) fn registered(
        &mut self,
        mut registration: WorkerRegistration,
        now: Instant,
        wall: Timestamp,
    ) -> Option<News> {
        let id = registration.worker_id;
        let said = Moment::new(registration.epoch, registration.timestamp);
        if registration.status == WorkerStatus::Offline {
            return self.gone(id, said, now, wall);
        }
        let moment = said.heard_at(wall);
        // One of the same millisecond as the farewell may be a return, and none of these is missed.
        if self.departed.last_moment(id, now).is_some_and(|last| moment.order(last).is_lt()) {
            return None;
        }
        let (event, entry) = self.heard(id, moment, now)?;
        entry.info.status = registration.status;
        entry.is_ahead = entry.info.epoch.is_some_and(|epoch| epoch.as_millis() > wall.as_millis());
        // What is known of the incarnation is never forgotten for a message that does not tell.
        registration.epoch = entry.info.epoch;
        entry.info.registration = Some(registration);
        event.map(News::Event)
    }

    /// Takes a heartbeat, as [`registered`](Self::registered) does a registration.
    pub(crate) fn beat(&mut self, beat: impl Into<Beat>, now: Instant, wall: Timestamp) -> Option<News> {
        let beat = beat.into();
        let id = beat.worker_id;
        let said = Moment::new(beat.epoch, beat.timestamp);
        if beat.status == WorkerStatus::Offline {
            return self.gone(id, said, now, wall);
        }
        let moment = said.heard_at(wall);
        // One of the same millisecond as the farewell was the last.
        if self.departed.last_moment(id, now).is_some_and(|last| moment.order(last).is_le()) {
            return None;
        }
        let (event, entry) = self.heard(id, moment, now)?;
        entry.info.status = beat.status;
        entry.is_ahead = entry.info.epoch.is_some_and(|epoch| epoch.as_millis() > wall.as_millis());
        entry.info.metrics = beat.metrics.ok();
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

    /// Takes a farewell, as [`registered`](Self::registered) does a registration.
    pub(crate) fn left(&mut self, farewell: &WorkerDeregistration, now: Instant, wall: Timestamp) -> Option<News> {
        self.gone(farewell.worker_id, Moment::new(farewell.epoch, farewell.timestamp), now, wall)
    }

    /// Counts the silence of a worker from now, should it never have been heard of.
    pub(crate) fn expect(&mut self, id: WorkerId, now: Instant) {
        if self.workers.contains_key(&id) {
            return;
        }
        self.generations += 1;
        self.workers.insert(id, Entry::new(id, self.generations, now));
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
            // Whoever was silent may be heard again at any time; a former incarnation may not. An epoch that had not come yet
            // is no proof of a former one: it may have been a slip, or somebody else's word.
            if entry.info.epoch.is_some() && !entry.is_ahead {
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
            self.generations += 1;
            Entry::new(id, self.generations, now)
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
    fn gone(&mut self, id: WorkerId, farewell: Moment, now: Instant, wall: Timestamp) -> Option<News> {
        let last_heard = self.workers.get(&id).map(Entry::last_moment);
        let last_farewell = self.departed.last_moment(id, now);
        let known = last_heard.into_iter().chain(last_farewell).find_map(|last| last.epoch);
        let farewell = farewell.farewell_at(wall, known)?;
        if last_heard.into_iter().chain(last_farewell).any(|last| farewell.order(last).is_lt()) {
            return None;
        }
        // Also of a worker that is not known: its first heartbeat may be what the farewell has overtaken.
        self.departed.note(id, farewell, now);
        Some(self.remove(id)?.news(WorkerEvent::Left(id)))
    }
}

#[cfg(test)]
mod tests {
    use mlx_types::Epoch;
    use mlx_types::messages::{WorkerHeartbeat, WorkerMetrics};
    use proptest::prelude::*;

    use super::super::probe::Outcome;
    use super::*;

    const OFFLINE: Duration = Duration::from_secs(15);

    fn wall() -> Timestamp {
        Timestamp::now()
    }
    const INTERVAL: Duration = Duration::from_secs(5);

    fn beat(id: WorkerId, epoch: u64) -> WorkerHeartbeat {
        let epoch = Some(Epoch::from_millis(epoch));
        WorkerHeartbeat { epoch, ..WorkerHeartbeat::new(id, WorkerStatus::Online, WorkerMetrics::default()) }
    }

    fn online(id: WorkerId) -> News {
        News::Event(WorkerEvent::Online(id))
    }

    fn left(id: WorkerId) -> News {
        News::Event(WorkerEvent::Left(id))
    }

    fn farewell(id: WorkerId, epoch: u64) -> WorkerDeregistration {
        WorkerDeregistration { epoch: Some(Epoch::from_millis(epoch)), ..WorkerDeregistration::new(id) }
    }

    fn lost(id: WorkerId) -> News {
        News::Event(WorkerEvent::Lost(id))
    }

    #[test]
    fn s4_silence_beyond_the_timeout_loses_a_worker_and_not_before() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        assert_eq!(table.beat(beat(id, 1), start, wall()), Some(online(id)));
        assert_eq!(table.expire(start + OFFLINE), []);
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [lost(id)]);
        assert!(table.list().is_empty());
    }

    #[test]
    fn s6_a_ghost_of_an_older_incarnation_is_ignored() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.beat(beat(id, 5), start, wall());
        assert_eq!(table.beat(beat(id, 4), start + OFFLINE, wall()), None);
        assert_eq!(table.left(&farewell(id, 4), start, wall()), None);
        assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [lost(id)]);
    }

    #[test]
    fn s6_a_message_without_an_epoch_does_not_make_a_known_one_forgotten() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let registration = serde_json::from_value(serde_json::json!({
            "workerId": id, "hostname": "h", "ip": "127.0.0.1", "port": 8080, "status": "online", "timestamp": wall(),
            "skills": { "availableModels": [], "modelPaths": {}, "totalModelSize": 0, "lastScanned": 1 },
        }));
        let unmarked = WorkerHeartbeat::new(id, WorkerStatus::Online, WorkerMetrics::default());
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.beat(beat(id, 5), start, wall());
        assert_eq!(table.registered(registration.unwrap(), start, wall()), None);
        assert_eq!(table.beat(unmarked, start, wall()), None);
        let known = Some(Epoch::from_millis(5));
        assert_eq!(table.get(id).unwrap().epoch, known);
        assert_eq!(table.get(id).unwrap().registration.as_ref().unwrap().epoch, known);
        assert_eq!(table.left(&farewell(id, 4), start, wall()), None);
    }

    #[test]
    fn s4_a_new_incarnation_ends_what_the_former_one_did() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.beat(beat(id, 5), start, wall());
        assert_eq!(table.beat(beat(id, 6), start, wall()), Some(News::Event(WorkerEvent::Replaced(id))));
        assert_eq!(table.beat(beat(id, 6), start, wall()), None);
    }

    #[test]
    fn a_bus_wide_outage_marks_nobody_dead() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.beat(beat(id, 1), start, wall());
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
        table.beat(beat(id, 1), start, wall());
        table.bus(false, start);
        table.bus(false, start + OFFLINE); // from disconnected to reconnecting
        let after = start + 2 * OFFLINE;
        table.bus(true, after);
        table.beat(beat(id, 1), after, wall());
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
        assert_eq!(table.left(&WorkerDeregistration::new(id), start, wall()), Some(News::Gone(id)));
    }

    #[test]
    fn a_timeout_without_end_loses_nobody() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(Duration::MAX, INTERVAL);
        table.beat(beat(id, 1), start, wall());
        assert_eq!(table.next_expiry(), None);
        assert_eq!(table.expire(start + 1000 * OFFLINE), []);
    }

    #[test]
    fn d2_a_suspicion_of_a_worker_that_went_says_nothing_of_the_one_that_came() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.beat(beat(id, 1), start, wall());
        let former = table.suspected(id, start).unwrap();
        assert_eq!(table.left(&farewell(id, 1), start, wall()), Some(left(id)));
        assert_eq!(table.suspected(id, start), None);
        table.beat(beat(id, 2), start, wall());
        let own = table.suspected(id, start).unwrap();
        assert_ne!(former, own);
        table.trusted(id, former, true, start);
        assert_eq!(table.workers[&id].suspicions, 1);
        table.trusted(id, own, true, start);
        assert_eq!(table.workers[&id].suspicions, 0);
    }

    #[test]
    fn d2_what_a_question_to_a_former_incarnation_came_to_is_not_booked_to_the_next() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, INTERVAL);
        let ask = |table: &mut Table, now| table.probe(now, 1).0.first().map(|(_, number)| *number);
        table.beat(beat(id, 1), start, wall());
        let former = ask(&mut table, start).unwrap();
        table.beat(beat(id, 2), start, wall());
        let own = ask(&mut table, start).unwrap();
        table.probed(id, former, Outcome::Answered, start);
        assert!(!table.workers[&id].probe.serves());
        table.probed(id, own, Outcome::Answered, start);
        assert!(table.workers[&id].probe.serves());
        assert!(table.next_probe().is_some(), "it is seen about again");
    }

    #[test]
    fn ten_thousand_workers_beat_and_no_beat_looks_at_all_of_them() {
        const WORKERS: usize = 10_000;
        let (start, wall) = (Instant::now(), wall());
        let mut table = Table::new(OFFLINE, INTERVAL);
        let mut beats: Vec<_> = (0..WORKERS).map(|_| beat(WorkerId::new(), 1)).collect();
        for round in 0..20_u64 {
            for (index, beat) in (0..).zip(&mut beats) {
                let now = start + Duration::from_secs(5 * round) + Duration::from_micros(index);
                beat.timestamp = wall;
                table.beat(beat.clone(), now, wall);
                assert!(table.next_expiry().is_some_and(|expiry| expiry > now));
                assert_eq!(table.expire(now), []);
            }
        }
        assert_eq!(table.list().len(), WORKERS);
        // Looking at each worker at each beat would be two thousand million looks.
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn a_worker_is_lost_only_after_a_full_timeout_of_silence(gaps in prop::collection::vec(0u64..40_000, 1..40)) {
            let id = WorkerId::new();
            let mut now = Instant::now();
            let mut table = Table::new(OFFLINE, INTERVAL);
            table.beat(beat(id, 1), now, wall());
            for gap in gaps {
                now += Duration::from_millis(gap);
                let lost = !table.expire(now).is_empty();
                prop_assert_eq!(lost, Duration::from_millis(gap) > OFFLINE);
                table.beat(beat(id, 1), now, wall());
            }
        }
    }
}
