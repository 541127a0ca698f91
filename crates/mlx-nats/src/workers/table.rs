//! The table of workers, without sockets and without a clock of its own.

mod asking;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use mlx_types::messages::{WorkerDeregistration, WorkerRegistration, WorkerStatus};
use mlx_types::{Timestamp, WorkerId};

use super::beat::Beat;
use super::entry::Entry;
use super::events::{Change, WorkerEvent, WorkerInfo};
use super::probe::Probe;
use super::tombstones::{Stamp, Tombstones};
use crate::connection::Backoff;

#[derive(Debug)]
pub(crate) struct Table {
    workers: HashMap<WorkerId, Entry>,
    departed: Tombstones,
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
            departed: Tombstones::new(offline_timeout),
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
    ) -> Option<Change> {
        let id = registration.worker_id;
        let said = Stamp::new(registration.epoch, registration.timestamp);
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
        event.map(Change::Event)
    }

    /// Takes a heartbeat, as [`registered`](Self::registered) does a registration.
    pub(crate) fn beat(&mut self, beat: impl Into<Beat>, now: Instant, wall: Timestamp) -> Option<Change> {
        let beat = beat.into();
        let id = beat.worker_id;
        let said = Stamp::new(beat.epoch, beat.timestamp);
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
        event.map(Change::Event)
    }

    /// Takes a farewell, as [`registered`](Self::registered) does a registration.
    pub(crate) fn left(&mut self, farewell: &WorkerDeregistration, now: Instant, wall: Timestamp) -> Option<Change> {
        self.gone(farewell.worker_id, Stamp::new(farewell.epoch, farewell.timestamp), now, wall)
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
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Change> {
        if self.bus_down_since.is_some() {
            return Vec::new();
        }
        let limit = self.offline_timeout;
        let mut lost = Vec::new();
        while let Some((last_heard, id)) = self.by_silence.first().copied()
            && now.saturating_duration_since(last_heard) > limit
        {
            let Some(entry) = self.remove(id) else { break };
            // A silent worker may be heard again at any time; a former incarnation may not. An epoch that had not come yet
            // is no proof of a former one: it may have been a slip, or somebody else's word.
            if entry.info.epoch.is_some() && !entry.is_ahead {
                self.departed.note(id, Stamp { epoch: entry.info.epoch, timestamp: None }, now);
            }
            lost.push(entry.change(WorkerEvent::Lost(id)));
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
    fn heard(&mut self, id: WorkerId, moment: Stamp, now: Instant) -> Option<(Option<WorkerEvent>, &mut Entry)> {
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
    fn gone(&mut self, id: WorkerId, farewell: Stamp, now: Instant, wall: Timestamp) -> Option<Change> {
        let last_heard = self.workers.get(&id).map(Entry::last_moment);
        let last_farewell = self.departed.last_moment(id, now);
        let known = last_heard.into_iter().chain(last_farewell).find_map(|last| last.epoch);
        let farewell = farewell.farewell_at(wall, known)?;
        if last_heard.into_iter().chain(last_farewell).any(|last| farewell.order(last).is_lt()) {
            return None;
        }
        // Also of a worker that is not known: its first heartbeat may be what the farewell has overtaken.
        self.departed.note(id, farewell, now);
        Some(self.remove(id)?.change(WorkerEvent::Left(id)))
    }
}
