//! Whom of the table to ask for a sign of life, and when.

use std::time::{Duration, Instant};

use mlx_types::WorkerId;

use super::{Change, Table};
use crate::workers::probe::{Action, Outcome};
use crate::workers::tombstones::Stamp;

/// How often a worker is asked for the first time in vain before it is left alone, until it is heard again.
const LEARN_AGAIN: Duration = Duration::from_secs(10);

/// How often a worker is asked that nobody waits for, and that answers though its heartbeats do not come.
const UNHURRIED: Duration = Duration::from_secs(1);

/// Questions to be asked in one go; at others' turn more of them.
const QUESTIONS: usize = 64;

impl Table {
    /// A stream waits for this worker and hears nothing, until [`trusted`](Self::trusted) with the generation of the entry,
    /// which is what is returned; none where the worker is not in the table.
    pub(crate) fn suspected(&mut self, id: WorkerId, now: Instant) -> Option<u64> {
        let entry = self.workers.get_mut(&id)?;
        entry.suspicions += 1;
        let generation = entry.generation;
        self.see_about(id, now);
        Some(generation)
    }

    /// The stream has heard something, or is over. A worker that went and came again is not the one that was suspected.
    pub(crate) fn trusted(&mut self, id: WorkerId, generation: u64, heard: bool, now: Instant) {
        if let Some(entry) = self.workers.get_mut(&id)
            && entry.generation == generation
        {
            entry.suspicions = entry.suspicions.saturating_sub(1);
            if heard {
                entry.probe.alive(now);
            }
        }
    }

    /// The worker has shown that it is one that answers when it is asked for a sign of life.
    pub(crate) fn answers(&mut self, id: WorkerId, now: Instant) {
        if let Some(entry) = self.workers.get_mut(&id) {
            entry.may_be_asked = true;
        }
        self.see_about(id, now);
    }

    /// Whom to ask for a sign of life now, at most `room`, each with the number of the question; and who is dead by what was
    /// answered. The dead leave the table.
    pub(crate) fn probe(&mut self, now: Instant, room: usize) -> (Vec<(WorkerId, u64)>, Vec<Change>) {
        let (mut questions, mut dead) = (Vec::new(), Vec::new());
        if self.bus_down_since.is_some() {
            return (questions, dead);
        }
        while let Some((due, id)) = self.by_probe.first().copied()
            && due <= now
            && questions.len() < QUESTIONS.min(room)
        {
            self.by_probe.pop_first();
            let default = self.heartbeat_interval;
            let Some(entry) = self.workers.get_mut(&id) else { continue };
            entry.probe_at = None;
            let overdue = entry.overdue_at(default);
            if entry.probe.serves() && entry.suspicions == 0 && now < overdue {
                self.see_about_at(id, overdue);
                continue;
            }
            match entry.probe.next(now, self.questions + 1) {
                Action::Ask => {
                    self.questions += 1;
                    questions.push((id, self.questions));
                }
                Action::Wait(until) => self.see_about_at(id, until),
                Action::Pending => {}
                Action::Dead => {
                    let Some(entry) = self.remove(id) else { continue };
                    self.departed.note(id, Stamp { epoch: entry.info.epoch, timestamp: entry.timestamp }, now);
                    dead.push(Change::Dead { worker_id: id, heard: entry.heard });
                }
            }
        }
        (questions, dead)
    }

    /// When [`probe`](Self::probe) may next have something to do.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        if self.bus_down_since.is_some() {
            return None;
        }
        self.by_probe.first().map(|(due, _)| *due)
    }

    /// What the question of that number to a worker came to.
    pub(crate) fn probed(&mut self, id: WorkerId, number: u64, outcome: Outcome, now: Instant) {
        let default = self.heartbeat_interval;
        let Some(entry) = self.workers.get_mut(&id) else { return };
        let served = entry.probe.serves();
        if !entry.probe.heard(number, outcome, now) {
            // One to a former incarnation, or on a former connection. Nobody else may see about this worker again.
            return self.see_about(id, now);
        }
        if !served && !entry.probe.serves() {
            return self.see_about_at(id, now + LEARN_AGAIN);
        }
        let hurried = entry.suspicions > 0 || outcome == Outcome::NoResponders;
        let next = if hurried { now } else { entry.overdue_at(default).max(now + UNHURRIED) };
        self.see_about_at(id, next);
    }

    /// Has a worker looked at now, if it is one that may be asked.
    pub(super) fn see_about(&mut self, id: WorkerId, now: Instant) {
        let Some(entry) = self.workers.get(&id) else { return };
        if entry.may_be_asked {
            let default = self.heartbeat_interval;
            let later = entry.probe.serves() && entry.suspicions == 0;
            let at = if later { entry.overdue_at(default) } else { now };
            self.see_about_at(id, at);
        }
    }

    fn see_about_at(&mut self, id: WorkerId, at: Instant) {
        let Some(entry) = self.workers.get_mut(&id) else { return };
        if let Some(former) = entry.probe_at.replace(at) {
            self.by_probe.remove(&(former, id));
        }
        self.by_probe.insert((at, id));
    }
}
