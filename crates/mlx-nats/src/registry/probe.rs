//! Is a silent worker dead? Decided from what the bus says when it is asked for a sign of life, without sockets and without
//! a clock of its own.
//!
//! A worker that was killed takes its subscriptions along the moment its socket closes, so that a question to it has no
//! responders. So has one to a worker that is just connecting again, for which a second question waits. An answer, and
//! silence, prove nothing: a stopped or cut off worker still has its subscriptions.

use std::time::{Duration, Instant};

use mlx_types::WorkerId;

/// Between two questions: how often a silent worker is asked, and how long an answer is waited for.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// Between the first "nobody listens" and the second question: time to connect again.
pub(crate) const PAUSE: Duration = Duration::from_millis(230);

/// Where a worker is asked.
pub(crate) fn subject(id: WorkerId) -> String {
    format!("worker.{}.ping", id.as_said())
}

/// What a question came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It answered.
    Answered,
    /// Nobody listens.
    NoResponders,
    /// Neither: no answer in time, or no connection.
    Nothing,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask now.
    Ask,
    /// Nothing before this moment.
    Wait(Instant),
    /// An answer is being waited for.
    Pending,
    /// It is gone.
    Dead,
}

/// The questions to one worker on one connection of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    state: State,
    /// The worker has answered on this connection: it serves what is asked for.
    serves: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle { from: Instant },
    Asked { refused_before: bool },
    Refused { until: Instant },
    Dead,
}

impl Probe {
    /// Of a worker that has not been asked on this connection.
    pub(crate) fn new(now: Instant) -> Self {
        Self { state: State::Idle { from: now }, serves: false }
    }

    /// Whether the worker has answered on this connection.
    pub(crate) fn serves(&self) -> bool {
        self.serves
    }

    /// What to do at `now` for a worker that is silent.
    pub(crate) fn next(&mut self, now: Instant) -> Action {
        let (due, refused_before) = match self.state {
            State::Idle { from } => (from, false),
            State::Refused { until } => (until, true),
            State::Asked { .. } => return Action::Pending,
            State::Dead => return Action::Dead,
        };
        if now < due {
            return Action::Wait(due);
        }
        self.state = State::Asked { refused_before };
        Action::Ask
    }

    /// Takes what the last question came to.
    pub(crate) fn heard(&mut self, outcome: Outcome, now: Instant) {
        let State::Asked { refused_before } = self.state else { return };
        self.state = match outcome {
            Outcome::NoResponders if !self.serves => State::Idle { from: now + INTERVAL },
            Outcome::NoResponders if refused_before => State::Dead,
            Outcome::NoResponders => State::Refused { until: now + PAUSE },
            Outcome::Answered => State::Idle { from: now + INTERVAL },
            // It has been waited for: the worker may have died with the question in its hands.
            Outcome::Nothing => State::Idle { from: now },
        };
        self.serves |= outcome == Outcome::Answered;
    }

    /// A sign of life of another kind has come.
    pub(crate) fn alive(&mut self, now: Instant) {
        if !matches!(self.state, State::Asked { refused_before: false }) {
            self.state = State::Idle { from: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(probe: &mut Probe, now: Instant, outcome: Outcome) {
        assert_eq!(probe.next(now), Action::Ask);
        probe.heard(outcome, now);
    }

    #[test]
    fn d1_who_has_answered_and_then_has_no_responders_twice_is_dead() {
        let start = Instant::now();
        let mut probe = Probe::new(start);
        asked(&mut probe, start, Outcome::Answered);
        assert_eq!(probe.next(start), Action::Wait(start + INTERVAL));
        asked(&mut probe, start + INTERVAL, Outcome::NoResponders);
        let second = start + INTERVAL + PAUSE;
        assert_eq!(probe.next(start + INTERVAL), Action::Wait(second));
        asked(&mut probe, second, Outcome::NoResponders);
        assert_eq!(probe.next(second), Action::Dead);
        assert!(INTERVAL + INTERVAL + PAUSE <= Duration::from_millis(450), "leaves time for the questions");
    }

    #[test]
    fn d2_who_never_answered_is_not_judged() {
        let mut now = Instant::now();
        let mut probe = Probe::new(now);
        for _ in 0..10 {
            asked(&mut probe, now, Outcome::NoResponders);
            now += INTERVAL;
        }
        assert!(!probe.serves());
    }

    #[test]
    fn d2_a_sign_of_life_between_the_two_questions_begins_anew() {
        let start = Instant::now();
        let mut probe = Probe::new(start);
        asked(&mut probe, start, Outcome::Answered);
        asked(&mut probe, start + INTERVAL, Outcome::NoResponders);
        probe.alive(start + INTERVAL);
        asked(&mut probe, start + INTERVAL, Outcome::NoResponders);
        assert_eq!(probe.next(start + INTERVAL), Action::Wait(start + INTERVAL + PAUSE));
    }

    proptest! {
        /// Whatever comes back, the verdict needs an answer before, and two refusals in a row with the pause between.
        #[test]
        fn d2_the_verdict_needs_two_refusals_in_a_row(outcomes in prop::collection::vec((0u8..3, 0u64..400), 1..60)) {
            let mut now = Instant::now();
            let mut probe = Probe::new(now);
            let (mut answered, mut row, mut last) = (false, 0, None);
            for (outcome, wait) in outcomes {
                now += Duration::from_millis(wait);
                match probe.next(now) {
                    Action::Ask => {
                        let outcome = [Outcome::Answered, Outcome::NoResponders, Outcome::Nothing][usize::from(outcome)];
                        probe.heard(outcome, now);
                        if outcome == Outcome::NoResponders && answered {
                            if row == 1 {
                                prop_assert!(now.duration_since(last.unwrap()) >= PAUSE);
                            }
                            row += 1;
                        } else {
                            row = 0;
                        }
                        last = Some(now);
                        answered |= outcome == Outcome::Answered;
                    }
                    Action::Dead => { prop_assert!(answered && row >= 2); return Ok(()); }
                    Action::Wait(until) => prop_assert!(until > now),
                    Action::Pending => prop_assert!(false, "every question was answered"),
                }
                prop_assert!(row < 2 || probe.next(now) == Action::Dead);
            }
        }
    }
}
