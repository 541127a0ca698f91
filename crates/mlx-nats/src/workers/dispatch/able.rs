//! Which workers can serve a request, and which of them gets it.

use std::collections::HashSet;
use std::time::Instant;

use mlx_types::WorkerId;
use mlx_types::messages::Feature;

use super::candidates::{ANY_MODEL, Candidate, Candidates, Index};

/// How many of the workers behind a key are looked at.
const FAVOURITES: usize = 8;

/// Which of the workers may be chosen.
pub(super) struct Able<'a> {
    candidates: &'a Candidates,
    index: &'a Index,
    /// What the request has that not every worker takes.
    needs: &'a [Feature],
}

impl Candidates {
    /// Those that can serve `model`: that have it, or, where none has, those that told no models. Of them, those may be chosen that
    /// accept what the request `needs`.
    pub(super) fn able<'a>(&'a self, model: &str, needs: &'a [Feature]) -> Option<Able<'a>> {
        let index = |name: &str| self.by_model.get(name).filter(|index| !index.ranked.is_empty());
        let index = index(model).or_else(|| index(ANY_MODEL))?;
        Some(Able { candidates: self, index, needs })
    }
}

impl Able<'_> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.index.ranked.len()
    }

    /// Requests that they have, of all.
    pub(super) fn total_load(&self) -> u64 {
        self.index.load
    }

    /// Whether all of them that accept the request are in `tried`.
    pub(super) fn are_all_in(&self, tried: &HashSet<WorkerId>) -> bool {
        self.accepting().all(|id| tried.contains(&id))
    }

    /// What the request needs and not one of them accepts, or, where each has a part of it, all that it needs; nothing where one
    /// accepts it all.
    pub(super) fn lacking(&self) -> Vec<Feature> {
        if self.needs.is_empty() || self.accepting().next().is_some() {
            return Vec::new();
        }
        let nobody_has = |feature: &&Feature| {
            !self.index.ranked.iter().any(|rank| self.accepts(rank.id, std::slice::from_ref(*feature)))
        };
        let lacking: Vec<Feature> = self.needs.iter().filter(nobody_has).cloned().collect();
        if lacking.is_empty() { self.needs.to_vec() } else { lacking }
    }

    fn accepting(&self) -> impl Iterator<Item = WorkerId> {
        self.index.ranked.iter().map(|rank| rank.id).filter(|id| self.accepts(*id, self.needs))
    }

    fn accepts(&self, id: WorkerId, needs: &[Feature]) -> bool {
        needs.is_empty() || self.candidates.by_worker.get(&id).is_some_and(|candidate| candidate.accepts(needs))
    }

    /// The one whose turn it is, of those that may be asked now.
    pub(super) fn first(&self, tried: &HashSet<WorkerId>, now: Instant) -> Option<WorkerId> {
        // Those that are full come last.
        let with_room = self.index.ranked.iter().take_while(|rank| !rank.full);
        with_room.map(|rank| rank.id).find(|id| !tried.contains(id) && self.may_be_asked(*id, now))
    }

    /// The first one behind `point` on the ring, of those that may be asked now and have less than `bound` to do.
    pub(super) fn behind(&self, point: u64, tried: &HashSet<WorkerId>, bound: u64, now: Instant) -> Option<WorkerId> {
        let ring = self.index.ring.range(point..).chain(self.index.ring.range(..point));
        // Of the favourites only: one of them has room, or load decides.
        let mut seen = [None; FAVOURITES];
        for (_, id) in ring {
            if seen.contains(&Some(*id)) {
                continue;
            }
            let place = seen.iter_mut().find(|place| place.is_none())?;
            *place = Some(*id);
            if !tried.contains(id) && self.is_below(*id, bound, now) {
                return Some(*id);
            }
        }
        None
    }

    /// Whether it is one of these, may be asked now, and has less than `bound` to do.
    pub(super) fn has_room(&self, id: WorkerId, tried: &HashSet<WorkerId>, bound: u64, now: Instant) -> bool {
        let is_one = || self.candidates.by_worker.get(&id).is_some_and(|candidate| self.is_ranked(id, candidate));
        !tried.contains(&id) && is_one() && self.is_below(id, bound, now)
    }

    /// Whether a worker is one of these.
    pub(super) fn contains(&self, id: WorkerId) -> bool {
        self.candidates.by_worker.get(&id).is_some_and(|candidate| self.is_ranked(id, candidate))
    }

    fn is_ranked(&self, id: WorkerId, candidate: &Candidate) -> bool {
        let strategy = self.candidates.strategy;
        candidate.indexes().into_iter().any(|model| self.index.ranked.contains(&candidate.rank(id, model, strategy)))
    }

    fn is_below(&self, id: WorkerId, bound: u64, now: Instant) -> bool {
        self.candidates
            .by_worker
            .get(&id)
            .is_some_and(|candidate| candidate.load() < bound && candidate.may_be_asked(self.needs, now))
    }

    fn may_be_asked(&self, id: WorkerId, now: Instant) -> bool {
        self.candidates.by_worker.get(&id).is_some_and(|candidate| candidate.may_be_asked(self.needs, now))
    }
}
