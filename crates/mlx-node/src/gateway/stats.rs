//! What the gateway has counted since it opened.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use mlx_types::WorkerId;
use parking_lot::Mutex;

use super::history::History;
use super::meter::Meter;
use super::monitoring::{FIRST_TOKEN, REQUESTS, TOKENS};

/// Ways to end that are counted apart at the most.
const OUTCOMES: usize = 64;

/// How long a worker's report is worth something: it sends one with every heartbeat.
const REPORT_AGE: Duration = Duration::from_secs(10);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With its whole answer.
    Answered,
    /// Its client went away.
    Cancelled,
    /// With an error of this code.
    Failed(Cow<'static, str>),
}

impl Outcome {
    fn label(self) -> Cow<'static, str> {
        match self {
            Self::Answered => "answered".into(),
            Self::Cancelled => "cancelled".into(),
            Self::Failed(code) => code,
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Stats(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    figures: Figures,
    /// The ways to end that there have been.
    outcomes: HashSet<Cow<'static, str>>,
}

/// Their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// All tokens.
    pub(super) tokens: Meter,
    /// The tokens of each worker that is or was online.
    pub(super) by_worker: HashMap<WorkerId, Meter>,
    /// Tokens a second by a worker's own report, which counts those of other controllers too.
    reported: HashMap<WorkerId, (f64, Instant)>,
    /// The last ten minutes.
    pub(super) history: History,
}

impl Figures {
    /// The tokens a second of a worker: those that come here are known sooner, those that it reports are all.
    pub(super) fn worker_rate(&self, worker: WorkerId, now: Instant) -> f64 {
        let here = self.by_worker.get(&worker).map_or(0.0, |meter| meter.per_second(now));
        let reported = self.reported.get(&worker).filter(|(_, at)| now.saturating_duration_since(*at) < REPORT_AGE);
        reported.map_or(here, |(rate, _)| rate.max(here))
    }
}

impl Stats {
    /// A request came to its end.
    pub(super) fn ended(&self, outcome: Outcome) {
        let label = {
            let Counted { figures, outcomes } = &mut *self.0.lock();
            figures.history.request(Instant::now());
            let label = outcome.label();
            // A peer chooses the codes of its errors, but not how many of them are kept apart.
            let apart = outcomes.contains(&label) || outcomes.len() < OUTCOMES;
            let label = if apart { label } else { "other".into() };
            outcomes.insert(label.clone());
            label
        };
        counter!(REQUESTS, "outcome" => label).increment(1);
    }

    /// A token came from a worker.
    pub(super) fn token(&self, worker: WorkerId, now: Instant) {
        counter!(TOKENS).increment(1);
        let figures = &mut self.0.lock().figures;
        figures.tokens.count(now);
        figures.history.token(now);
        figures.by_worker.entry(worker).or_default().count(now);
    }

    /// An answer began.
    pub(super) fn begun(&self, took: Duration, now: Instant) {
        histogram!(FIRST_TOKEN).record(took);
        self.0.lock().figures.history.first_token(took, now);
    }

    /// A worker said how many tokens a second it makes.
    pub(super) fn reported(&self, worker: WorkerId, rate: f64, now: Instant) {
        self.0.lock().figures.reported.insert(worker, (rate, now));
    }

    /// Forgets a worker that is gone.
    pub(super) fn forget(&self, worker: WorkerId) {
        let figures = &mut self.0.lock().figures;
        figures.by_worker.remove(&worker);
        figures.reported.remove(&worker);
    }

    /// Forgets all workers but these.
    pub(super) fn keep(&self, is_there: impl Fn(WorkerId) -> bool) {
        let figures = &mut self.0.lock().figures;
        figures.by_worker.retain(|id, _| is_there(*id));
        figures.reported.retain(|id, _| is_there(*id));
    }

    /// The values now.
    pub(super) fn figures(&self) -> Figures {
        self.0.lock().figures.clone()
    }
}
