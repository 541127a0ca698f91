//! Whether a server that runs still answers: decided from its answers and the time, without sockets.

use std::time::{Duration, Instant};

/// Between two questions.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// An answer that takes longer than this says nothing good: the server is there, and slow.
pub(super) const SLOW: Duration = Duration::from_secs(2);

/// The answers of one run of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    limit: Duration,
    answered: Instant,
    looked: Instant,
}

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Well,
    /// It has not answered for so long.
    Silent(Duration),
    /// For longer than it may: as good as crashed.
    Gone,
}

impl Pulse {
    /// A server that answered just now, and may be silent for `limit`.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, answered: now, looked: now }
    }

    /// Takes what a question came to.
    pub(super) fn look(&mut self, answered: bool, now: Instant) -> Condition {
        let gap = now.saturating_duration_since(self.looked);
        // This process slept, and perhaps the server did too: that time does not count as silence.
        if gap > 2 * (INTERVAL + SLOW) {
            self.answered += gap;
        }
        self.looked = now;
        if answered {
            self.answered = now;
            return Condition::Well;
        }
        match now.saturating_duration_since(self.answered) {
            silent if silent >= self.limit => Condition::Gone,
            silent if silent >= SLOW => Condition::Silent(silent),
            _ => Condition::Well,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn m6_a_server_that_is_silent_for_too_long_is_as_good_as_crashed() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(LIMIT, start);
        assert_eq!(pulse.look(false, after(1)), Condition::Well);
        assert_eq!(pulse.look(false, after(4)), Condition::Silent(Duration::from_secs(4)));
        assert_eq!(pulse.look(true, after(7)), Condition::Well);
        assert_eq!(pulse.look(false, after(10)), Condition::Silent(Duration::from_secs(3)));
        assert_eq!(pulse.look(false, after(13)), Condition::Silent(Duration::from_secs(6)));
        assert_eq!(pulse.look(false, after(17)), Condition::Gone);
    }

    #[test]
    fn m6_time_asleep_is_nobodys_silence() {
        let start = Instant::now();
        let mut pulse = Pulse::new(LIMIT, start);
        let woken = start + Duration::from_hours(1);
        assert_eq!(pulse.look(false, woken), Condition::Well);
        assert_eq!(pulse.look(false, woken + Duration::from_secs(3)), Condition::Silent(Duration::from_secs(3)));
    }
}
