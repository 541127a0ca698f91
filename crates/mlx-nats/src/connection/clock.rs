//! Time that this process slept through: stopped by a signal, or with the machine.
//!
//! While it sleeps nothing is read, so that what came meanwhile lies in its socket, and everybody seems silent. Whoever
//! judges a silence takes the sleep off it, and reads what has come before.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two ticks of a clock that runs.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// A tick that comes later than this by more than a tick tells of a sleep; one that is a little late, of a busy machine.
const LATE: Duration = Duration::from_millis(500);

/// Sleep noticed so far. Runs while it is ticked; a look at it in between notices a gap as well.
#[derive(Debug, Default)]
pub(crate) struct SleepClock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last_tick: Option<Instant>,
    slept: Duration,
}

impl SleepClock {
    /// All sleep noticed until `now`.
    pub(crate) fn slept(&self, now: Instant) -> Duration {
        self.0.lock().look(now)
    }

    /// Called every [`TICK`] while anybody may have to be judged. Returns the sleep since the last look.
    pub(crate) fn tick(&self, now: Instant) -> Duration {
        let mut state = self.0.lock();
        let before = state.slept;
        state.last_tick.get_or_insert(now);
        let slept = state.look(now);
        state.last_tick = Some(now);
        slept.saturating_sub(before)
    }

    /// Nobody ticks from here on: a gap means nothing.
    pub(crate) fn pause(&self, now: Instant) {
        let mut state = self.0.lock();
        state.look(now);
        state.last_tick = None;
    }
}

impl State {
    fn look(&mut self, now: Instant) -> Duration {
        if let Some(last) = self.last_tick {
            let gap = now.saturating_duration_since(last);
            if gap > TICK + LATE {
                self.slept += gap.saturating_sub(TICK);
                self.last_tick = Some(now);
            }
        }
        self.slept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn d2_a_gap_between_two_ticks_is_sleep_and_counted_once() {
        let (clock, start) = (SleepClock::default(), Instant::now());
        assert_eq!(clock.slept(start + Duration::from_hours(1)), Duration::ZERO, "nobody ticked");
        assert_eq!(clock.tick(start), Duration::ZERO);
        assert_eq!(clock.tick(start + TICK), Duration::ZERO);
        let woken = start + TICK + Duration::from_secs(10);
        assert_eq!(clock.slept(woken), Duration::from_millis(9_750));
        assert_eq!(clock.slept(woken), Duration::from_millis(9_750));
        assert_eq!(clock.tick(woken + TICK), Duration::ZERO);
        clock.pause(woken + TICK);
        assert_eq!(clock.slept(woken + Duration::from_hours(1)), Duration::from_millis(9_750));
    }

    proptest! {
        #[test]
        fn d2_no_more_is_called_sleep_than_has_passed(gaps in prop::collection::vec(0u64..3_000, 1..40)) {
            let (clock, start) = (SleepClock::default(), Instant::now());
            let mut now = start;
            clock.tick(now);
            for gap in gaps {
                now += Duration::from_millis(gap);
                clock.tick(now);
                prop_assert!(clock.slept(now) <= now - start);
            }
        }
    }
}
