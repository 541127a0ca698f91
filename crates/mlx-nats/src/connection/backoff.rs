//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// No wait is longer than this, jitter aside.
const CAP: Duration = Duration::from_secs(30);

/// Exponential backoff from `first`, doubling up to half a minute, each wait spread by ±50 % so that a fleet that lost
/// the same server does not come back in step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration) -> Self {
        Self { first }
    }

    /// The wait before attempt `attempt` (from 1); `chance` is uniform in 0..1 and decides the jitter.
    pub(crate) fn delay(self, attempt: u32, chance: f64) -> Duration {
        // 2^20 times a millisecond is already past the cap; a larger exponent would only overflow.
        let doublings = attempt.saturating_sub(1).min(20);
        let step = self.first.saturating_mul(1 << doublings).min(CAP.max(self.first));
        step.mul_f64(0.5 + chance.clamp(0.0, 1.0))
    }

    /// How long someone who has been trying for `outage` may still wait before the next attempt, beyond the first step.
    ///
    /// All waits so far, at their shortest, make up half of the next step; that one, at its longest, is three times their
    /// sum.
    pub(crate) fn longest_wait_after(outage: Duration) -> Duration {
        outage.saturating_mul(3).min(CAP.mul_f64(1.5))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn c7_doubles_from_the_first_step_to_the_cap() {
        let backoff = Backoff::new(Duration::from_secs(2));
        let waits: Vec<u64> = (1..=6).map(|attempt| backoff.delay(attempt, 0.5).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 30, 30]);
    }

    proptest! {
        #[test]
        fn the_next_attempt_after_an_outage_is_no_further_than_told(
            first_ms in 1u64..5_000,
            outage_ms in 0u64..120_000,
            chances in prop::collection::vec(0.0f64..1.0, 40),
        ) {
            let (first, outage) = (Duration::from_millis(first_ms), Duration::from_millis(outage_ms));
            let backoff = Backoff::new(first);
            let mut next = Duration::ZERO;
            let mut waits = (1..).zip(chances).map(|(attempt, chance)| backoff.delay(attempt, chance)).chain(
                std::iter::repeat(CAP)
            );
            while next < outage {
                next += waits.next().unwrap();
            }
            prop_assert!(next <= outage + Backoff::longest_wait_after(outage) + first.mul_f64(1.5));
        }

        #[test]
        fn c7_jitter_stays_within_half_of_the_step(first_ms in 1u64..120_000, attempt in 0u32..10_000, chance in 0.0f64..1.0) {
            let backoff = Backoff::new(Duration::from_millis(first_ms));
            let middle = backoff.delay(attempt, 0.5);
            let delay = backoff.delay(attempt, chance);
            prop_assert!(delay >= middle.mul_f64(0.5));
            prop_assert!(delay <= middle.mul_f64(1.5));
            prop_assert!(middle <= CAP.max(Duration::from_millis(first_ms)));
        }
    }
}
