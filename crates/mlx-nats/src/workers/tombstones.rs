//! Who is gone, remembered for as long as something may still come that was said before.
//!
//! Registrations, heartbeats and farewells come by subscriptions of their own, so that a farewell may overtake the heartbeat
//! before it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use mlx_types::{Epoch, Timestamp, WorkerId};

/// Workers remembered at the most; the longest gone make room.
const REMEMBERED: usize = 4096;

/// How far the clocks of two machines may be apart without either being wrong.
const CLOCK_SKEW_MS: u64 = 60_000;

/// The moment at which a worker said something, in its own time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) epoch: Option<Epoch>,
    /// Unset where nothing was said; whatever is said in the same incarnation comes later.
    pub(super) timestamp: Option<Timestamp>,
}

impl Stamp {
    pub(super) fn new(epoch: Option<Epoch>, timestamp: Timestamp) -> Self {
        Self { epoch, timestamp: Some(timestamp) }
    }

    /// The same as heard at `now`. A time from the future would outlast all that the worker says until then, so it counts as
    /// now; and an epoch from the future cannot be that of a process which has begun, so it counts as none.
    pub(super) fn heard_at(self, now: Timestamp) -> Self {
        let latest = now.as_millis().saturating_add(CLOCK_SKEW_MS);
        Self {
            epoch: self.epoch.filter(|epoch| epoch.as_millis() <= latest),
            timestamp: self.timestamp.map(|timestamp| timestamp.min(now)),
        }
    }

    /// The same of a farewell to a worker whose epoch is `known`; nothing where that worker cannot have said it.
    ///
    /// An incarnation that begins after `now` has not begun, so nobody can leave it, except for a worker that says its own epoch
    /// by a clock that is ahead. By such a clock it also says when it leaves, which counts as now; but a moment that no clock is
    /// at, of no incarnation that is known, is nobody's.
    pub(super) fn farewell_at(self, now: Timestamp, known: Option<Epoch>) -> Option<Self> {
        let begun = self.epoch.filter(|epoch| epoch.as_millis() <= now.as_millis());
        let Self { timestamp, .. } = self.heard_at(now);
        if known.is_none() {
            return Some(Self { epoch: begun, timestamp });
        }
        let latest = now.as_millis().saturating_add(CLOCK_SKEW_MS);
        let may_be = begun == self.epoch && self.timestamp.is_none_or(|said| said.as_millis() <= latest);
        (self.epoch == known || may_be).then_some(Self { epoch: self.epoch, timestamp })
    }

    /// Of two incarnations the epochs tell; within one, or where it is not known which, the worker's clock does.
    pub(super) fn order(self, other: Self) -> Ordering {
        match (self.epoch, other.epoch) {
            (Some(own), Some(others)) if own != others => own.cmp(&others),
            _ => self.timestamp.cmp(&other.timestamp),
        }
    }
}

/// The workers that left or were lost.
#[derive(Debug)]
pub(super) struct Tombstones {
    /// The moment of the farewell, and when we took note of it.
    workers: HashMap<WorkerId, (Stamp, Instant)>,
    remembered_for: Duration,
}

impl Tombstones {
    pub(super) fn new(remembered_for: Duration) -> Self {
        Self { workers: HashMap::new(), remembered_for }
    }

    /// The last moment of the worker, if it left not long ago.
    pub(super) fn last_moment(&self, id: WorkerId, now: Instant) -> Option<Stamp> {
        let (moment, since) = self.workers.get(&id)?;
        (now.saturating_duration_since(*since) <= self.remembered_for).then_some(*moment)
    }

    pub(super) fn note(&mut self, id: WorkerId, moment: Stamp, now: Instant) {
        let limit = self.remembered_for;
        self.workers.retain(|_, (_, since)| now.saturating_duration_since(*since) <= limit);
        if self.workers.len() >= REMEMBERED
            && !self.workers.contains_key(&id)
            && let Some(oldest) = self.workers.iter().min_by_key(|(_, (_, since))| *since).map(|(id, _)| *id)
        {
            self.workers.remove(&oldest);
        }
        self.workers.insert(id, (moment, now));
    }

    pub(super) fn forget(&mut self, id: WorkerId) {
        self.workers.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use mlx_types::messages::{
        ModelSkills, WorkerDeregistration, WorkerHeartbeat, WorkerMetrics, WorkerRegistration, WorkerStatus,
    };
    use proptest::prelude::*;

    use super::super::events::{Change, WorkerEvent};
    use super::super::table::Table;
    use super::*;

    const OFFLINE: Duration = Duration::from_secs(15);

    fn wall() -> Timestamp {
        Timestamp::now()
    }

    fn beat_at(id: WorkerId, epoch: Option<u64>, millis: u64) -> WorkerHeartbeat {
        let mut beat = WorkerHeartbeat::new(id, WorkerStatus::Online, WorkerMetrics::default());
        beat.epoch = epoch.map(Epoch::from_millis);
        beat.timestamp = Timestamp::from_millis(millis).unwrap();
        beat
    }

    fn registration_at(id: WorkerId, epoch: Option<u64>, millis: u64) -> WorkerRegistration {
        let timestamp = Timestamp::from_millis(millis).unwrap();
        WorkerRegistration::new(
            id,
            "host",
            std::net::Ipv4Addr::LOCALHOST.into(),
            8080,
            ModelSkills::new(Vec::<String>::new()).last_scanned(timestamp),
        )
        .timestamp(timestamp)
        .epoch(epoch.map(Epoch::from_millis))
    }

    fn farewell_at(id: WorkerId, epoch: Option<u64>, millis: u64) -> WorkerDeregistration {
        let timestamp = Timestamp::from_millis(millis).unwrap();
        WorkerDeregistration::new(id).timestamp(timestamp).epoch(epoch.map(Epoch::from_millis))
    }

    #[expect(clippy::unnecessary_wraps, reason = "what the table returns")]
    fn online(id: WorkerId) -> Option<Change> {
        Some(Change::Event(WorkerEvent::Online(id)))
    }

    #[expect(clippy::unnecessary_wraps, reason = "what the table returns")]
    fn left(id: WorkerId) -> Option<Change> {
        Some(Change::Event(WorkerEvent::Left(id)))
    }

    #[test]
    fn s6_the_departed_are_remembered_for_a_time_and_not_without_bound() {
        let (start, moment) = (Instant::now(), Stamp::new(None, Timestamp::now()));
        let mut departed = Tombstones::new(Duration::from_secs(1));
        let ids: Vec<_> = (0..=REMEMBERED).map(|_| WorkerId::new()).collect();
        for (index, id) in ids.iter().enumerate() {
            departed.note(*id, moment, start + Duration::from_micros(index as u64));
        }
        assert_eq!(departed.workers.len(), REMEMBERED);
        assert!(departed.last_moment(ids[0], start).is_none(), "the first has made room");
        assert!(departed.last_moment(ids[1], start).is_some());
        let later = start + Duration::from_secs(2);
        assert!(departed.last_moment(ids[1], later).is_none());
        departed.note(ids[0], moment, later);
        assert_eq!(departed.workers.len(), 1);
    }
    #[test]
    fn a_heartbeat_that_a_farewell_has_overtaken_brings_nobody_back() {
        for epoch in [None, Some(1)] {
            let (id, start) = (WorkerId::new(), Instant::now());
            let mut table = Table::new(OFFLINE, Duration::from_secs(5));
            // Its very first one, and one of many.
            assert_eq!(table.left(&farewell_at(id, epoch, 10), start, wall()), None);
            assert_eq!(table.beat(beat_at(id, epoch, 9), start, wall()), None);
            assert_eq!(table.registered(registration_at(id, epoch, 11), start, wall()), online(id));
            assert_eq!(table.left(&farewell_at(id, epoch, 20), start, wall()), left(id));
            assert_eq!(table.beat(beat_at(id, epoch, 20), start + OFFLINE, wall()), None);
            assert_eq!(table.registered(registration_at(id, epoch, 19), start + OFFLINE, wall()), None);
            assert!(table.list().is_empty());
            // A clock that was put back keeps nobody away for ever.
            let later = start + OFFLINE + Duration::from_millis(1);
            assert_eq!(table.beat(beat_at(id, epoch, 15), later, wall()), online(id));
        }
    }

    #[test]
    fn a_worker_that_returns_after_its_farewell_is_there_at_once() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let mut table = Table::new(OFFLINE, Duration::from_secs(5));
        let said_goodbye = farewell_at(id, Some(5), 100);
        // In the same millisecond; later, and with or without an epoch; as another process, whose clock was put back.
        for (epoch, millis) in [(Some(5), 100), (Some(5), 101), (None, 101), (Some(6), 50)] {
            table.beat(beat_at(id, Some(5), 99), start, wall());
            assert_eq!(table.left(&said_goodbye, start, wall()), left(id));
            assert_eq!(table.registered(registration_at(id, epoch, millis), start, wall()), online(id));
            table = Table::new(OFFLINE, Duration::from_secs(5));
        }
        // The farewell may also come behind the return.
        table.registered(registration_at(id, None, 101), start, wall());
        assert_eq!(table.left(&farewell_at(id, None, 100), start, wall()), None);
        assert_eq!(table.list().len(), 1);
    }

    #[test]
    fn s6_a_ghost_is_still_one_after_the_newer_incarnation_has_left_or_was_lost() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let silent = start + OFFLINE + Duration::from_millis(1);
        let mut table = Table::new(OFFLINE, Duration::from_secs(5));
        table.beat(beat_at(id, Some(5), 10), start, wall());
        assert_eq!(table.left(&farewell_at(id, Some(5), 11), start, wall()), left(id));
        assert_eq!(table.beat(beat_at(id, Some(4), 12), start, wall()), None);
        assert_eq!(table.registered(registration_at(id, Some(4), 12), start, wall()), None);

        table.registered(registration_at(id, Some(5), 13), start, wall());
        assert_eq!(table.expire(silent), [Change::Event(WorkerEvent::Lost(id))]);
        assert_eq!(table.beat(beat_at(id, Some(4), 14), silent, wall()), None);
        assert_eq!(table.beat(beat_at(id, Some(5), 1), silent, wall()), online(id), "it was only silent");
    }

    /// What the clock says in the tests of times that are ahead of it.
    const NOON: u64 = 1_000_000_000;

    fn noon() -> Timestamp {
        Timestamp::from_millis(NOON).unwrap()
    }

    /// A table with a worker that began and was heard just before noon.
    fn heard_before_noon(id: WorkerId, epoch: Option<u64>, now: Instant) -> Table {
        let mut table = Table::new(OFFLINE, Duration::from_secs(5));
        assert_eq!(table.beat(beat_at(id, epoch, NOON - 10), now, noon()), online(id));
        table
    }

    #[test]
    fn s6_a_farewell_of_an_incarnation_that_cannot_exist_takes_nobody_out() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let known = Some(NOON - 1000);
        // Far beyond what clocks differ by, and within it; of a moment that may be, and of one that may not.
        for epoch in [NOON + 1, NOON + CLOCK_SKEW_MS, NOON + CLOCK_SKEW_MS + 1, 9_000_000_000_000_000, u64::MAX] {
            for millis in [NOON - 5, NOON, NOON + 30_000, 9_000_000_000_000_000] {
                let mut table = heard_before_noon(id, known, start);
                assert_eq!(table.left(&farewell_at(id, Some(epoch), millis), start, noon()), None, "{epoch} {millis}");
                assert!(table.get(id).is_some());
                assert_eq!(table.beat(beat_at(id, known, NOON - 4), start, noon()), None);
                // Nor is it remembered against the worker, when it leaves and comes back.
                assert_eq!(table.left(&farewell_at(id, known, NOON - 3), start, noon()), left(id));
                assert_eq!(table.left(&farewell_at(id, Some(epoch), millis), start, noon()), None);
                assert_eq!(table.registered(registration_at(id, known, NOON - 2), start, noon()), online(id));
            }
        }
        // Nor one without an epoch, of a moment that no clock is at.
        let mut table = heard_before_noon(id, known, start);
        assert_eq!(table.left(&farewell_at(id, None, 9_000_000_000_000_000), start, noon()), None);
        let mut offline = beat_at(id, Some(9_000_000_000_000_000), 9_000_000_000_000_000);
        offline.status = WorkerStatus::Offline;
        assert_eq!(table.beat(offline, start, noon()), None, "the same by a heartbeat");
        assert!(table.get(id).is_some());
    }

    #[test]
    fn s6_a_worker_whose_clock_is_ahead_says_farewell_truthfully() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let (later, far) = (NOON + 30_000, 9_000_000_000_000_000);
        for (epoch, millis) in [(Some(NOON - 1000), far), (None, far), (Some(later), later), (Some(far), far + 1)] {
            let mut table = heard_before_noon(id, epoch, start);
            assert_eq!(table.left(&farewell_at(id, epoch, millis), start, noon()), left(id), "{epoch:?} {millis}");
            // It is no later than now, so that a worker that comes back is there at once.
            let next = Timestamp::from_millis(NOON + 1).unwrap();
            assert_eq!(table.beat(beat_at(id, epoch, NOON + 1), start, next), online(id));
        }
    }

    #[test]
    fn s6_a_heartbeat_ahead_of_the_clock_makes_nobody_a_ghost_for_longer_than_a_silence() {
        let (id, start) = (WorkerId::new(), Instant::now());
        let own = Some(NOON - 1000);
        let mut table = heard_before_noon(id, own, start);
        table.beat(beat_at(id, Some(NOON + CLOCK_SKEW_MS), NOON), start, noon());
        assert_eq!(table.beat(beat_at(id, own, NOON), start, noon()), None);
        let silent = start + OFFLINE + Duration::from_millis(1);
        assert_eq!(table.expire(silent), [Change::Event(WorkerEvent::Lost(id))]);
        let later = Timestamp::from_millis(NOON + 15_001).unwrap();
        assert_eq!(table.beat(beat_at(id, own, NOON + 15_000), silent, later), online(id));
        assert_eq!(table.get(id).unwrap().epoch, own.map(Epoch::from_millis));
        // One beyond what clocks differ by is a sign of life of the current worker.
        assert_eq!(table.beat(beat_at(id, Some(u64::MAX), u64::MAX >> 12), silent, later), None);
        assert_eq!(table.get(id).unwrap().epoch, own.map(Epoch::from_millis));
    }

    #[derive(Clone, Debug)]
    enum Message {
        Registration(Box<WorkerRegistration>),
        Beat(WorkerHeartbeat),
        Farewell(WorkerDeregistration),
    }

    /// What a worker says in the course of several stays of so many heartbeats, and whether it is there in the end.
    fn story(id: WorkerId, stays: &[usize], epochs: bool, stays_in_the_end: bool) -> Vec<Message> {
        let (mut story, mut clock) = (Vec::new(), 0);
        let mut tick = || {
            clock += 1;
            clock
        };
        for (stay, beats) in (1..).zip(stays) {
            let epoch = epochs.then_some(stay);
            story.push(Message::Registration(Box::new(registration_at(id, epoch, tick()))));
            story.extend((0..*beats).map(|_| Message::Beat(beat_at(id, epoch, tick()))));
            story.push(Message::Farewell(farewell_at(id, epoch, tick())));
        }
        if stays_in_the_end {
            story.pop();
        }
        story
    }

    proptest! {
        #[test]
        fn in_whatever_order_its_subscriptions_are_read_a_worker_ends_where_it_is(
            stays in prop::collection::vec(0usize..4, 1..5),
            epochs: bool,
            there: bool,
            turns in prop::collection::vec(0usize..3, 100),
        ) {
            let (id, now) = (WorkerId::new(), Instant::now());
            let mut subscriptions = [const { VecDeque::new() }; 3];
            for message in story(id, &stays, epochs, there) {
                let subscription = match &message {
                    Message::Registration(_) => 0,
                    Message::Beat(_) => 1,
                    Message::Farewell(_) => 2,
                };
                subscriptions[subscription].push_back(message);
            }
            let mut table = Table::new(OFFLINE, Duration::from_secs(5));
            for turn in turns.into_iter().chain((0..3).flat_map(|subscription| [subscription; 20])) {
                match subscriptions[turn].pop_front() {
                    Some(Message::Registration(registration)) => drop(table.registered(*registration, now, wall())),
                    Some(Message::Beat(beat)) => drop(table.beat(beat, now, wall())),
                    Some(Message::Farewell(farewell)) => drop(table.left(&farewell, now, wall())),
                    None => {}
                }
            }
            prop_assert_eq!(table.get(id).is_some(), there);
        }
    }
}
