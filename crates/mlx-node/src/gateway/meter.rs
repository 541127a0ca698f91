//! A rate over the last seconds, with the time passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(5);
/// What is counted together: the window moves by this much.
const SLOT: Duration = Duration::from_millis(250);

/// Counts, and says how many a second there were of late.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// Since when, and how many.
    slots: VecDeque<(Instant, u64)>,
    total: u64,
}

impl Meter {
    /// Counts one.
    pub(super) fn count(&mut self, now: Instant) {
        self.total += 1;
        self.forget(now);
        match self.slots.back_mut() {
            Some((since, count)) if now.saturating_duration_since(*since) < SLOT => *count += 1,
            _ => self.slots.push_back((now, 1)),
        }
    }

    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    #[expect(clippy::cast_precision_loss, reason = "a figure for people, far below 2^52")]
    /// How many a second, over the last 5 s, or since the first of them where that is less.
    pub(super) fn per_second(&self, now: Instant) -> f64 {
        let recent = self.slots.iter().filter(|(since, _)| now.saturating_duration_since(*since) <= WINDOW);
        let (first, count) = recent.fold((now, 0), |(first, sum), (since, count)| (first.min(*since), sum + count));
        // A second at the least: the first token alone is no rate.
        count as f64 / now.saturating_duration_since(first).max(Duration::from_secs(1)).as_secs_f64()
    }

    fn forget(&mut self, now: Instant) {
        while self.slots.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) > WINDOW) {
            self.slots.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_is_its_rate_and_nothing_a_while_after_its_end() {
        let start = Instant::now();
        let mut meter = Meter::default();
        for tick in 0..1000 {
            meter.count(start + Duration::from_millis(20 * tick)); // 50 a second, for 20 s
        }
        let end = start + Duration::from_secs(20);
        assert!((meter.per_second(end) - 50.0).abs() < 3.0, "{}", meter.per_second(end));
        assert!(meter.slots.len() <= 22, "{}", meter.slots.len());
        assert!(meter.per_second(end + WINDOW + SLOT).abs() < f64::EPSILON);
        assert_eq!(meter.total(), 1000);
    }

    #[test]
    fn the_first_token_alone_is_no_flood() {
        let start = Instant::now();
        let mut meter = Meter::default();
        meter.count(start);
        assert!((meter.per_second(start) - 1.0).abs() < f64::EPSILON);
    }
}
