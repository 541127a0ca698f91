//! The workers as a dispatcher knows them, in the order in which they should be asked: pure, with the time passed in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use mlx_types::WorkerId;
use mlx_types::config::Strategy;
use mlx_types::messages::{Feature, WorkerStatus};

use super::affinity::points;
use super::breaker::{Breaker, BreakerSettings, Outcome};
use super::known::KnownWorkers;
use crate::workers::WorkerInfo;

/// How long a worker that refused for want of room is not asked again, unless it is heard of, or has finished something of ours,
/// before.
const REFUSED: Duration = Duration::from_millis(500);

/// Of a worker whose limit is not known, this many requests count as full use.
const USUAL_LIMIT: u64 = 4;

/// The weight of a worker that has none of its own; `priority: 50` of the configuration.
pub(super) const USUAL_PRIORITY: u8 = 50;

/// Models of one worker that are counted, so that one with a list without end delays nobody.
const MODELS: usize = 1_000;

/// Under this name stand those that told no models: they load on demand.
pub(super) const ANY_MODEL: &str = "";

/// The lower, the sooner it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) full: bool,
    degraded: bool,
    not_loaded: bool,
    /// The load, as its strategy measures it: the bits of a number that is not negative, which are ordered as it is.
    load: u64,
    slowness: Reverse<u64>,
    /// When it would be its turn.
    turn: u64,
    pub(super) id: WorkerId,
}

/// What is known of one worker.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    status: WorkerStatus,
    models: BTreeSet<String>,
    loaded: BTreeSet<String>,
    limit: Option<u64>,
    /// What it takes beyond a prompt and a chat of texts.
    accepts: Vec<Feature>,
    /// Requests of ours under way.
    ours: u64,
    /// Requests of others, at the last heartbeat.
    others: u64,
    turn: u64,
    tokens_per_second: f64,
    weight: f64,
    breaker: Breaker,
    refused_until: Option<Instant>,
    /// Gone, but for requests of ours that have not ended yet.
    gone: bool,
}

impl Candidate {
    pub(super) fn load(&self) -> u64 {
        self.ours + self.others
    }

    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.load() >= limit)
    }

    pub(super) fn indexes(&self) -> Vec<&str> {
        if self.gone || self.status == WorkerStatus::Offline {
            return Vec::new();
        }
        let named: Vec<&str> = self.models.union(&self.loaded).map(String::as_str).collect();
        if named.is_empty() { vec![ANY_MODEL] } else { named }
    }

    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    pub(super) fn rank(&self, id: WorkerId, model: &str, strategy: Strategy) -> Rank {
        let load = self.load() as f64;
        let load = match strategy {
            Strategy::RoundRobin => 0.0,
            Strategy::LeastLoaded => (load + 1.0) / self.weight,
            Strategy::Smart => (load + 1.0) / self.limit.unwrap_or(USUAL_LIMIT) as f64 / self.weight,
        };
        let smart = strategy == Strategy::Smart;
        Rank {
            full: self.is_full(),
            degraded: self.status == WorkerStatus::Degraded,
            not_loaded: smart && !self.loaded.contains(model),
            load: load.to_bits(),
            slowness: Reverse(if smart { self.tokens_per_second.to_bits() } else { 0 }),
            turn: self.turn,
            id,
        }
    }

    pub(super) fn accepts(&self, needs: &[Feature]) -> bool {
        needs.iter().all(|feature| self.accepts.contains(feature))
    }

    pub(super) fn may_be_asked(&self, needs: &[Feature], now: Instant) -> bool {
        self.accepts(needs)
            && !self.is_full()
            && self.refused_until.is_none_or(|until| until <= now)
            && self.breaker.allows(now)
    }
}

/// The workers that can serve one model.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) ranked: BTreeSet<Rank>,
    /// The same on the ring of hashes, where each key has its favourites behind it: found without a look at all workers, and none
    /// but its own keys move with a worker.
    pub(super) ring: BTreeMap<u64, WorkerId>,
    pub(super) load: u64,
}

/// All workers of one dispatcher.
#[derive(Debug)]
pub(super) struct Candidates {
    pub(super) strategy: Strategy,
    breaker: Option<BreakerSettings>,
    known: KnownWorkers,
    pub(super) by_worker: HashMap<WorkerId, Candidate>,
    pub(super) by_model: HashMap<String, Index>,
    /// The turn of a worker that comes new: that of the one asked last.
    turn: u64,
}

impl Candidates {
    pub(super) fn new(strategy: Strategy, breaker: Option<BreakerSettings>, known: KnownWorkers) -> Self {
        Self { strategy, breaker, known, by_worker: HashMap::new(), by_model: HashMap::new(), turn: 0 }
    }

    /// Notes what a worker says of itself.
    pub(super) fn heard(&mut self, info: &WorkerInfo) {
        if !self.known.may_be_asked(info) {
            return self.gone(info.worker_id);
        }
        let registration = info.registration.as_ref();
        let models = registration.map(|known| known.skills.available_models.iter().take(MODELS).cloned().collect());
        let capabilities = registration.and_then(|known| known.capabilities.as_ref());
        let limit = capabilities.map(|known| known.max_concurrent);
        let accepts = capabilities.and_then(|known| known.accepts.clone()).unwrap_or_default();
        let priority = self.known.priority_of(info).unwrap_or(USUAL_PRIORITY);
        self.change(info.worker_id, |candidate| {
            candidate.gone = false;
            candidate.status = info.status;
            candidate.weight = f64::from(priority.max(1)) / f64::from(USUAL_PRIORITY);
            candidate.limit = limit;
            candidate.accepts = accepts;
            if let Some(models) = models {
                candidate.models = models;
            }
            if let Some(metrics) = &info.metrics {
                candidate.loaded = metrics.models_loaded.iter().take(MODELS).cloned().collect();
                // It counts our own requests too, which are known better here: only the others' are kept.
                candidate.others = metrics.active_requests.saturating_sub(candidate.ours);
                candidate.refused_until = None;
            }
        });
    }

    /// Forgets a worker.
    pub(super) fn gone(&mut self, id: WorkerId) {
        if self.by_worker.contains_key(&id) {
            self.change(id, |candidate| candidate.gone = true);
            self.remove_if_over(id);
        }
    }

    /// The ids of all that are there.
    pub(super) fn ids(&self) -> HashSet<WorkerId> {
        self.by_worker.iter().filter(|(_, candidate)| !candidate.gone).map(|(id, _)| *id).collect()
    }

    /// A request goes to the worker.
    pub(super) fn begin(&mut self, id: WorkerId) {
        let mut turn = self.turn;
        self.change(id, |candidate| {
            turn = turn.max(candidate.turn);
            candidate.ours += 1;
            candidate.turn = candidate.turn.max(turn) + step(candidate.weight);
            candidate.breaker.begin();
        });
        self.turn = self.turn.max(turn);
    }

    /// A request at the worker has ended.
    pub(super) fn end(&mut self, id: WorkerId, outcome: Outcome, tokens_per_second: Option<f64>, now: Instant) {
        let breaker = self.breaker;
        if !self.by_worker.contains_key(&id) {
            return;
        }
        self.change(id, |candidate| {
            candidate.ours = candidate.ours.saturating_sub(1);
            candidate.refused_until = None;
            if let Some(settings) = &breaker {
                candidate.breaker.end(outcome, settings, now);
            }
            if let Some(rate) = tokens_per_second {
                let known = candidate.tokens_per_second;
                candidate.tokens_per_second = if known > 0.0 { known * 0.7 + rate * 0.3 } else { rate };
            }
        });
        self.remove_if_over(id);
    }

    fn remove_if_over(&mut self, id: WorkerId) {
        if self.by_worker.get(&id).is_some_and(|candidate| candidate.gone && candidate.ours == 0) {
            self.by_worker.remove(&id);
        }
    }

    /// The worker refused a request: it has no room, whatever was known of it.
    pub(super) fn refused(&mut self, id: WorkerId, now: Instant) {
        self.end(id, Outcome::Neutral, None, now);
        if self.by_worker.contains_key(&id) {
            self.change(id, |candidate| candidate.refused_until = Some(now + REFUSED));
        }
    }

    /// When a worker that is held back now may be asked again, if that comes with time alone.
    pub(super) fn next_chance(&self, now: Instant) -> Option<Instant> {
        let times =
            self.by_worker.values().flat_map(|candidate| [candidate.refused_until, candidate.breaker.opens_at()]);
        times.flatten().filter(|time| *time > now).min()
    }

    /// Requests of ours, and of all, that a worker has.
    pub(super) fn load(&self, id: WorkerId) -> (u64, u64) {
        self.by_worker.get(&id).map_or((0, 0), |candidate| (candidate.ours, candidate.load()))
    }

    /// Every model that some worker has.
    pub(super) fn models(&self) -> Vec<String> {
        let known = self.by_model.iter().filter(|(name, index)| *name != ANY_MODEL && !index.ranked.is_empty());
        let mut models: Vec<String> = known.map(|(name, _)| name.clone()).collect();
        models.sort_unstable();
        models
    }

    /// Changes what is known of a worker, and its places in the order.
    fn change(&mut self, id: WorkerId, change: impl FnOnce(&mut Candidate)) {
        let (strategy, turn) = (self.strategy, self.turn);
        let candidate = self.by_worker.entry(id).or_insert_with(|| Candidate {
            status: WorkerStatus::Online,
            models: BTreeSet::new(),
            loaded: BTreeSet::new(),
            limit: None,
            accepts: Vec::new(),
            ours: 0,
            others: 0,
            turn,
            tokens_per_second: 0.0,
            weight: 1.0,
            breaker: Breaker::new(),
            refused_until: None,
            gone: true,
        });
        for model in candidate.indexes() {
            if let Some(index) = self.by_model.get_mut(model)
                && index.ranked.remove(&candidate.rank(id, model, strategy))
            {
                index.load -= candidate.load();
            }
        }
        let before: Vec<String> = candidate.indexes().into_iter().map(str::to_owned).collect();
        change(candidate);
        let after = candidate.indexes();
        for model in &after {
            let index = match self.by_model.get_mut(*model) {
                Some(index) => index,
                None => self.by_model.entry((*model).to_owned()).or_default(),
            };
            index.ranked.insert(candidate.rank(id, model, strategy));
            index.load += candidate.load();
            if !before.iter().any(|before| before == model) {
                for point in points(id) {
                    index.ring.entry(point).or_insert(id); // two at one point are made by hand, and the first one keeps it
                }
            }
        }
        for model in before.iter().filter(|model| !after.contains(&model.as_str())) {
            let Some(index) = self.by_model.get_mut(model) else { continue };
            for point in points(id) {
                if index.ring.get(&point) == Some(&id) {
                    index.ring.remove(&point);
                }
            }
            // What nobody has any more is not kept: a worker decides how many names there are.
            if index.ranked.is_empty() && index.ring.is_empty() {
                self.by_model.remove(model);
            }
        }
    }
}

/// How far a turn goes: half as far for twice the weight.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between a thousand and a few million")]
fn step(weight: f64) -> u64 {
    (65_536.0 / weight) as u64
}
