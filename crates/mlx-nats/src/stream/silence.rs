//! How long a stream may be silent: until its first token, and between two tokens. Without sockets and without a clock of
//! its own.

use std::time::Duration;

use tokio::time::Instant;

/// A silence of this length has the worker asked whether it is there.
pub(crate) const SUSPICIOUS: Duration = Duration::from_millis(100);

/// One that is longer than any clock runs is looked at again after this.
const FAR: Duration = Duration::from_hours(24);

/// The silence of one stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    first_token: Duration,
    inter_token: Duration,
    /// When the last token came, or the request went out.
    since: Instant,
    /// What this process had slept by then.
    slept: Duration,
    begun: bool,
}

/// What a look at the silence comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing so far; look again at this moment.
    Fine(Instant),
    /// Long enough to ask the worker; look again at this moment.
    Suspicious(Instant),
    /// Too long.
    Over,
}

impl Silence {
    pub(super) fn new(first_token: Duration, inter_token: Duration, started: Instant, slept: Duration) -> Self {
        Self { first_token, inter_token, since: started, slept, begun: false }
    }

    /// New tokens have come, by `now`. Nothing else is progress: neither a repeated frame nor one of somebody else.
    pub(super) fn progress(&mut self, now: Instant, slept: Duration) {
        *self = Self { since: now, slept, begun: true, ..*self };
    }

    /// The timeout that applies.
    pub(super) fn timeout(&self) -> Duration {
        if self.begun { self.inter_token } else { self.first_token }
    }

    /// Looks at the silence; `slept` is all the time that this process has slept, which is nobody's silence.
    pub(super) fn look(&self, now: Instant, slept: Duration) -> Verdict {
        let since = self.since + slept.saturating_sub(self.slept);
        let end = since.checked_add(self.timeout()).unwrap_or(now + FAR);
        let suspicious = since + SUSPICIOUS;
        if now >= end {
            Verdict::Over
        } else if now >= suspicious {
            Verdict::Suspicious(end)
        } else {
            Verdict::Fine(end.min(suspicious))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Duration = Duration::from_secs(10);
    const INTER: Duration = Duration::from_millis(700);

    #[test]
    fn s1_each_timeout_counts_from_the_moment_that_it_applies() {
        let start = Instant::now();
        let mut silence = Silence::new(FIRST, INTER, start, Duration::ZERO);
        assert_eq!(silence.look(start, Duration::ZERO), Verdict::Fine(start + SUSPICIOUS));
        assert_eq!(silence.look(start + SUSPICIOUS, Duration::ZERO), Verdict::Suspicious(start + FIRST));
        let first = start + Duration::from_secs(1);
        silence.progress(first, Duration::ZERO);
        assert_eq!(silence.look(first + INTER - SUSPICIOUS, Duration::ZERO), Verdict::Suspicious(first + INTER));
        assert_eq!(silence.look(first + INTER, Duration::ZERO), Verdict::Over);
    }

    #[test]
    fn d2_time_asleep_is_nobodys_silence() {
        let (start, asleep) = (Instant::now(), Duration::from_hours(1));
        let silence = Silence::new(FIRST, INTER, start, Duration::from_secs(3));
        let slept = Duration::from_secs(3) + asleep;
        assert_eq!(silence.look(start + asleep, slept), Verdict::Fine(start + asleep + SUSPICIOUS));
        assert_eq!(silence.look(start + asleep + FIRST, slept), Verdict::Over);
    }

    #[test]
    fn a_timeout_without_end_does_not_end() {
        let start = Instant::now();
        let silence = Silence::new(Duration::MAX, Duration::MAX, start, Duration::ZERO);
        assert!(matches!(silence.look(start + FAR, Duration::ZERO), Verdict::Suspicious(_)));
    }

    proptest! {
        /// In whatever order tokens and looks come, the stream is over if and only if the timeout that applied had passed.
        #[test]
        fn s1_over_means_that_the_timeout_that_applies_has_passed(
            events in prop::collection::vec((any::<bool>(), 0u64..3_000, 0u64..500), 1..60),
        ) {
            let start = Instant::now();
            let (mut now, mut slept) = (start, Duration::ZERO);
            let mut silence = Silence::new(FIRST, INTER, start, slept);
            let (mut since, mut limit) = (Duration::ZERO, FIRST);
            for (token, awake, asleep) in events {
                now += Duration::from_millis(awake + asleep);
                slept += Duration::from_millis(asleep);
                since += Duration::from_millis(awake);
                match silence.look(now, slept) {
                    Verdict::Over => prop_assert!(since >= limit),
                    Verdict::Suspicious(at) => { prop_assert!(since >= SUSPICIOUS && since < limit); prop_assert!(at > now); }
                    Verdict::Fine(at) => { prop_assert!(since < SUSPICIOUS.min(limit)); prop_assert!(at > now); }
                }
                if token {
                    silence.progress(now, slept);
                    (since, limit) = (Duration::ZERO, INTER);
                }
            }
        }
    }
}
