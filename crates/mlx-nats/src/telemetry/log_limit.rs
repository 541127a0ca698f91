//! Lines of log that a peer can cause: at most one a second of each kind, with the count of all.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// Decides which of the occasions for one line are logged.
#[derive(Debug)]
pub(crate) struct LogLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    occasions: u64,
    last: Option<Instant>,
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { occasions: 0, last: None }))
    }

    /// Counts an occasion. Where it may be logged, how many there were so far, this one included.
    pub(crate) fn count(&self, now: Instant) -> Option<u64> {
        // Nothing inside the lock can panic half way.
        let mut state = self.0.lock();
        state.occasions += 1;
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            return None;
        }
        state.last = Some(now);
        Some(state.occasions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_line_a_second_with_a_running_count() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        assert_eq!(limit.count(start), Some(1));
        assert_eq!(limit.count(start + Duration::from_millis(500)), None);
        assert_eq!(limit.count(start + Duration::from_secs(1)), Some(3));
    }
}
