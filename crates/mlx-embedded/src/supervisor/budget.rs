//! Whether and when a server that ended is started again. Pure: the time is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mlx_types::config::RestartConfig;

/// The pause before the second restart; it doubles from there. The first restart is made at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. Clients wait for it, and one this long costs next to nothing even for hours.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What to do about a server that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start it again after a pause; it is the `attempt`th restart within the window.
    Restart { after: Duration, attempt: u32 },
    /// It has had its restarts.
    GiveUp { restarts: u32 },
}

/// The restarts made within the window.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    max_restarts: u32,
    window: Duration,
    restarts: VecDeque<Instant>,
}

impl Budget {
    pub(crate) fn new(config: &RestartConfig) -> Self {
        Self { max_restarts: config.max_restarts, window: config.window_ms.as_duration(), restarts: VecDeque::new() }
    }

    /// The server ended, or did not come up again, at `now`.
    pub(crate) fn ended(&mut self, now: Instant) -> Verdict {
        while self.restarts.front().is_some_and(|restart| now.saturating_duration_since(*restart) >= self.window) {
            self.restarts.pop_front();
        }
        let recent = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        if recent >= self.max_restarts {
            return Verdict::GiveUp { restarts: recent };
        }
        self.restarts.push_back(now);
        Verdict::Restart { after: pause(recent), attempt: recent + 1 }
    }
}

/// The pause after `recent` restarts within the window.
fn pause(recent: u32) -> Duration {
    match recent.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use mlx_types::Millis;

    use super::*;

    fn budget(max_restarts: u32) -> Budget {
        let mut config = RestartConfig::default();
        config.max_restarts = max_restarts;
        config.window_ms = Millis::new(60_000).unwrap();
        Budget::new(&config)
    }

    #[test]
    fn m6_pauses_double_up_to_two_seconds_until_the_budget_is_spent() {
        let (mut budget, now) = (budget(8), Instant::now());
        let mut pauses = Vec::new();
        for attempt in 1..=8 {
            match budget.ended(now) {
                Verdict::Restart { after, attempt: counted } if counted == attempt => pauses.push(after.as_millis()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(budget.ended(now), Verdict::GiveUp { restarts: 8 });
    }

    #[test]
    fn m6_restarts_older_than_the_window_are_forgiven() {
        let (mut budget, start) = (budget(2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(matches!(budget.ended(at(0)), Verdict::Restart { attempt: 1, .. }));
        assert!(matches!(budget.ended(at(59)), Verdict::Restart { attempt: 2, .. }));
        assert!(matches!(budget.clone().ended(at(59)), Verdict::GiveUp { restarts: 2 }));
        // The first one is out of the window, the second is still in.
        assert!(matches!(budget.ended(at(60)), Verdict::Restart { attempt: 2, .. }));
        assert!(matches!(budget.ended(at(1000)), Verdict::Restart { attempt: 1, after: Duration::ZERO }));
    }

    #[test]
    fn m6_a_budget_of_none_gives_up_at_once() {
        assert_eq!(budget(0).ended(Instant::now()), Verdict::GiveUp { restarts: 0 });
    }
}
