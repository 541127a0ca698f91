//! What the front door has counted since it opened.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use mlx_types::WorkerId;
use parking_lot::Mutex;

use super::meter::Meter;

/// Upper bounds of the histogram of first tokens, in seconds.
pub const FIRST_TOKEN_BOUNDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Ways to end that are counted apart at the most.
const OUTCOMES: usize = 64;

/// How long a worker's report is worth something: it sends one with every heartbeat.
const REPORT_AGE: Duration = Duration::from_secs(10);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
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
pub struct Stats(Mutex<Figures>);

/// Their values.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Requests by how they ended.
    pub requests: BTreeMap<Cow<'static, str>, u64>,
    /// Attempts that failed and were made again elsewhere.
    pub retries: u64,
    /// All tokens.
    pub tokens: Meter,
    /// The tokens of each worker that is or was online.
    pub by_worker: HashMap<WorkerId, Meter>,
    /// Tokens a second by a worker's own report, which counts those of other controllers too.
    reported: HashMap<WorkerId, (f64, Instant)>,
    /// How many first tokens took as long as each of [`FIRST_TOKEN_BOUNDS`] at the most, not counting shorter bounds.
    pub first_tokens: [u64; FIRST_TOKEN_BOUNDS.len()],
    /// How many there were.
    pub first_token_count: u64,
    /// What they took together.
    pub first_token_sum: Duration,
}

impl Figures {
    /// The tokens a second of a worker: those that come here are known sooner, those that it reports are all.
    pub fn worker_rate(&self, worker: WorkerId, now: Instant) -> f64 {
        let here = self.by_worker.get(&worker).map_or(0.0, |meter| meter.per_second(now));
        let reported = self.reported.get(&worker).filter(|(_, at)| now.saturating_duration_since(*at) < REPORT_AGE);
        reported.map_or(here, |(rate, _)| rate.max(here))
    }
}

impl Stats {
    /// A request came to its end.
    pub fn ended(&self, outcome: Outcome) {
        let mut figures = self.0.lock();
        let label = outcome.label();
        // A peer chooses the codes of its errors, but not how many of them are kept apart.
        let known = figures.requests.contains_key(&label) || figures.requests.len() < OUTCOMES;
        *figures.requests.entry(if known { label } else { "other".into() }).or_default() += 1;
    }

    /// An attempt is made again elsewhere.
    pub fn retried(&self) {
        self.0.lock().retries += 1;
    }

    /// A first token came, so long after the request.
    pub fn first_token(&self, after: Duration) {
        let mut figures = self.0.lock();
        figures.first_token_count += 1;
        figures.first_token_sum += after;
        let bounds = FIRST_TOKEN_BOUNDS.iter().zip(&mut figures.first_tokens);
        if let Some((_, count)) = bounds.into_iter().find(|(bound, _)| after.as_secs_f64() <= **bound) {
            *count += 1;
        }
    }

    /// A token came from a worker.
    pub fn token(&self, worker: WorkerId, now: Instant) {
        let mut figures = self.0.lock();
        figures.tokens.count(now);
        figures.by_worker.entry(worker).or_default().count(now);
    }

    /// A worker said how many tokens a second it makes.
    pub fn reported(&self, worker: WorkerId, rate: f64, now: Instant) {
        self.0.lock().reported.insert(worker, (rate, now));
    }

    /// Forgets a worker that is gone.
    pub fn forget(&self, worker: WorkerId) {
        let mut figures = self.0.lock();
        figures.by_worker.remove(&worker);
        figures.reported.remove(&worker);
    }

    /// The values now.
    pub fn figures(&self) -> Figures {
        self.0.lock().clone()
    }
}
