//! Who gets which request, and who waits: pure, with the time passed in. Every change gives places to those who wait, in
//! order, so that nobody waits while a place is free that could be had.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use mlx_types::WorkerId;
use mlx_types::messages::Feature;

use super::able::Able;
use super::affinity::{Key, Sessions, bounded_load};
use super::breaker::Outcome;
use super::candidates::Candidates;
use crate::workers::WorkerInfo;

/// What a request wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) model: String,
    /// What it has that not every worker accepts.
    pub(super) needs: Vec<Feature>,
    pub(super) key: Option<Key>,
    /// Workers that have failed it.
    pub(super) tried: HashSet<WorkerId>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// This worker gets it.
    Assigned(WorkerId),
    /// All that could serve it are full: it waits, under this number.
    Waits(u64),
    /// As many wait as may.
    Refused,
    /// All that could serve it have failed it.
    Exhausted,
    /// Nobody has the model.
    Nobody,
    /// Nobody who has the model accepts these.
    Lacks(Vec<Feature>),
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) candidates: Candidates,
    sessions: Sessions,
    session_life: Duration,
    /// Those that wait, in the order in which they came.
    room: VecDeque<(u64, Wanted)>,
    max_waiting: usize,
    next_ticket: u64,
    /// Until then workers may still be on their way: a model that nobody has is waited for.
    arriving_until: Instant,
}

impl Core {
    pub(super) fn new(
        candidates: Candidates,
        session_life: Duration,
        max_waiting: usize,
        arriving_until: Instant,
    ) -> Self {
        Self {
            candidates,
            sessions: Sessions::default(),
            session_life,
            room: VecDeque::new(),
            max_waiting,
            next_ticket: 0,
            arriving_until,
        }
    }

    /// Decides about a request. `front`: it has waited before, and keeps its place before all others.
    pub(super) fn request(&mut self, wanted: Wanted, front: bool, now: Instant) -> Decision {
        if let Some(worker) = self.assign(&wanted, now) {
            return Decision::Assigned(worker);
        }
        if let Some(decision) = self.hopeless(&wanted, now) {
            return decision;
        }
        if self.room.len() >= self.max_waiting && !front {
            return Decision::Refused;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if front {
            self.room.push_front((ticket, wanted));
        } else {
            self.room.push_back((ticket, wanted));
        }
        Decision::Waits(ticket)
    }

    /// The place of one that waits, from 1.
    pub(super) fn place(&self, ticket: u64) -> Option<usize> {
        self.room.iter().position(|(waiting, _)| *waiting == ticket).map(|index| index + 1)
    }

    /// One that waits has gone away.
    pub(super) fn leave(&mut self, ticket: u64) {
        self.room.retain(|(waiting, _)| *waiting != ticket);
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.room.len()
    }

    /// How many wait for each model.
    pub(super) fn waiting_by_model(&self) -> BTreeMap<String, usize> {
        let mut waiting = BTreeMap::new();
        for (_, wanted) in &self.room {
            *waiting.entry(wanted.model.clone()).or_default() += 1;
        }
        waiting
    }

    /// Gives places to those who wait: who got which. Those that nobody can serve any more are told so.
    pub(super) fn admit(&mut self, now: Instant) -> Vec<(u64, Decision)> {
        let mut told = Vec::new();
        for (ticket, wanted) in std::mem::take(&mut self.room) {
            let placed = self.assign(&wanted, now).map(Decision::Assigned);
            match placed.or_else(|| self.hopeless(&wanted, now)) {
                Some(decision) => told.push((ticket, decision)),
                None => self.room.push_back((ticket, wanted)),
            }
        }
        told
    }

    /// What is said of a request for which waiting is of no use.
    fn hopeless(&self, wanted: &Wanted, now: Instant) -> Option<Decision> {
        let arriving = now < self.arriving_until;
        let Some(able) = self.candidates.able(&wanted.model, &wanted.needs) else {
            let decision = if wanted.tried.is_empty() { Decision::Nobody } else { Decision::Exhausted };
            return (decision == Decision::Exhausted || !arriving).then_some(decision);
        };
        let lacking = able.lacking();
        if !lacking.is_empty() && wanted.tried.is_empty() {
            return (!arriving).then_some(Decision::Lacks(lacking));
        }
        able.are_all_in(&wanted.tried).then_some(Decision::Exhausted)
    }

    pub(super) fn heard(&mut self, info: &WorkerInfo) {
        self.candidates.heard(info);
    }

    pub(super) fn gone(&mut self, id: WorkerId) {
        self.candidates.gone(id);
    }

    /// A request at a worker has ended.
    pub(super) fn end(&mut self, id: WorkerId, outcome: Outcome, tokens_per_second: Option<f64>, now: Instant) {
        self.candidates.end(id, outcome, tokens_per_second, now);
    }

    /// Forgets old sessions.
    pub(super) fn clean(&mut self, now: Instant) {
        self.sessions.expire(self.session_life, now);
    }

    fn assign(&mut self, wanted: &Wanted, now: Instant) -> Option<WorkerId> {
        let able = self.candidates.able(&wanted.model, &wanted.needs)?;
        let worker = match wanted.key {
            Some(key) => self.by_key(&able, key, wanted, now).or_else(|| able.first(&wanted.tried, now)),
            None => able.first(&wanted.tried, now),
        }?;
        if let Some(Key::Session(session)) = wanted.key {
            // One that is only busy keeps its sessions: this request alone goes elsewhere.
            match self.sessions.worker(session, self.session_life, now) {
                Some(home) if home != worker && able.contains(home) && !wanted.tried.contains(&home) => {
                    self.sessions.touched(session, now);
                }
                _ => self.sessions.used(session, worker, now),
            }
        }
        self.candidates.begin(worker);
        Some(worker)
    }

    fn by_key(&self, able: &Able<'_>, key: Key, wanted: &Wanted, now: Instant) -> Option<WorkerId> {
        let bound = bounded_load(able.total_load(), able.len());
        if let Key::Session(session) = key
            && let Some(home) = self.sessions.worker(session, self.session_life, now)
            && able.has_room(home, &wanted.tried, bound, now)
        {
            return Some(home);
        }
        able.behind(key.point(), &wanted.tried, bound, now)
    }
}
