//! A circuit breaker for one worker: pure, with the time passed in.

use std::time::{Duration, Instant};

/// When a worker that fails is left alone, and when it is trusted again.
#[derive(Clone, Copy, Debug)]
pub(super) struct BreakerSettings {
    /// Failures in a row that open it.
    pub(super) failures: u32,
    /// Successes in a row that close it again.
    pub(super) successes: u32,
    /// How long it stays open.
    pub(super) timeout: Duration,
}

/// How one request at a worker went, as far as that says something of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    /// A refusal, a mistake of the client's, a cancellation: nothing is known.
    Neutral,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breaker {
    /// Requests go through. So many have failed in a row.
    Closed { failures: u32 },
    /// No request goes through.
    Open { until: Instant },
    /// One request at a time is tried. So many have succeeded in a row.
    HalfOpen { successes: u32, trying: bool },
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self::Closed { failures: 0 }
    }

    /// Whether a request may go to the worker now.
    pub(super) fn allows(&self, now: Instant) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until } => *until <= now,
            Self::HalfOpen { trying, .. } => !trying,
        }
    }

    /// When it may let a request through that it holds back now.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        match self {
            Self::Open { until } => Some(*until),
            _ => None,
        }
    }

    /// A request goes to the worker.
    pub(super) fn begin(&mut self) {
        match self {
            Self::Closed { .. } => {}
            Self::Open { .. } => *self = Self::HalfOpen { successes: 0, trying: true },
            Self::HalfOpen { trying, .. } => *trying = true,
        }
    }

    /// A request has ended.
    pub(super) fn end(&mut self, outcome: Outcome, settings: &BreakerSettings, now: Instant) {
        *self = match (*self, outcome) {
            (Self::Closed { .. }, Outcome::Succeeded) => Self::Closed { failures: 0 },
            (Self::Closed { failures }, Outcome::Failed) if failures + 1 < settings.failures => {
                Self::Closed { failures: failures + 1 }
            }
            (Self::Closed { .. } | Self::HalfOpen { .. }, Outcome::Failed) => {
                Self::Open { until: now + settings.timeout }
            }
            (Self::HalfOpen { successes, .. }, Outcome::Succeeded) if successes + 1 >= settings.successes => {
                Self::Closed { failures: 0 }
            }
            (Self::HalfOpen { successes, .. }, Outcome::Succeeded) => {
                Self::HalfOpen { successes: successes + 1, trying: false }
            }
            (Self::HalfOpen { successes, .. }, Outcome::Neutral) => Self::HalfOpen { successes, trying: false },
            // Of one that began before: what it says is no longer news.
            (state @ (Self::Open { .. } | Self::Closed { .. }), _) => state,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings { failures: 3, successes: 2, timeout: Duration::from_secs(30) };

    #[test]
    fn w3_failures_in_a_row_open_it_and_successes_close_it() {
        let (now, mut breaker) = (Instant::now(), Breaker::new());
        for outcome in [Outcome::Failed, Outcome::Failed, Outcome::Succeeded, Outcome::Failed, Outcome::Failed] {
            breaker.begin();
            breaker.end(outcome, &SETTINGS, now);
            assert!(breaker.allows(now), "not three in a row");
        }
        breaker.end(Outcome::Neutral, &SETTINGS, now);
        breaker.end(Outcome::Failed, &SETTINGS, now);
        assert!(!breaker.allows(now + Duration::from_secs(29)));
        let later = now + Duration::from_secs(30);
        assert_eq!(breaker.opens_at(), Some(later));
        for _ in 0..2 {
            assert!(breaker.allows(later));
            breaker.begin();
            assert!(!breaker.allows(later), "one at a time");
            breaker.end(Outcome::Succeeded, &SETTINGS, later);
        }
        assert_eq!(breaker, Breaker::Closed { failures: 0 });
    }

    #[test]
    fn w3_a_trial_that_fails_opens_it_again_and_one_that_says_nothing_leaves_the_next_one() {
        let (now, mut breaker) = (Instant::now(), Breaker::Open { until: Instant::now() });
        breaker.begin();
        breaker.end(Outcome::Neutral, &SETTINGS, now);
        assert!(breaker.allows(now));
        breaker.begin();
        breaker.end(Outcome::Failed, &SETTINGS, now);
        assert!(!breaker.allows(now));
        breaker.end(Outcome::Succeeded, &SETTINGS, now);
        assert!(!breaker.allows(now), "a request from before the failures says nothing");
    }
}
