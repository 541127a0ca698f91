//! Is a silent worker dead? Decided from what the bus says when it is asked for a sign of life, without sockets and without
//! a clock of its own.
//!
//! A worker that was killed takes its subscriptions along the moment its socket closes, so that a question to it has no
//! responders. So has one to a worker that is just connecting again, for which a second question waits. An answer, and
//! silence, prove nothing: a stopped or cut off worker still has its subscriptions.

use std::time::{Duration, Instant};

/// Between two questions: how often a silent worker is asked, and how long an answer is waited for.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// Between the first "nobody listens" and the second question: time to connect again.
pub(crate) const PAUSE: Duration = Duration::from_millis(230);

/// Whether that is the answer of a worker that knows what it is asked: which incarnation it is. One that listens to all that
/// comes under its id may answer anything, and need not be back within [`PAUSE`] when it connects again.
pub(crate) fn is_sign_of_life(answer: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Sign {
        #[serde(rename = "epoch")]
        _epoch: mlx_types::Epoch,
    }
    serde_json::from_slice::<Sign>(answer).is_ok()
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
    /// Ask now, by the number that was given.
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
    Idle {
        from: Instant,
    },
    Asked {
        number: u64,
        refused_before: bool,
        /// A sign of life has come since: that nobody listens may be from before.
        stale: bool,
    },
    Refused {
        until: Instant,
    },
    Dead,
}

impl Probe {
    /// The state of a worker that has not been asked on this connection.
    pub(crate) fn new(now: Instant) -> Self {
        Self { state: State::Idle { from: now }, serves: false }
    }

    /// Whether the worker has answered on this connection.
    pub(crate) fn serves(&self) -> bool {
        self.serves
    }

    /// What to do at `now` for a worker that is silent. A question has the `number`, which no other has had.
    pub(crate) fn next(&mut self, now: Instant, number: u64) -> Action {
        let (due, refused_before) = match self.state {
            State::Idle { from } => (from, false),
            State::Refused { until } => (until, true),
            State::Asked { .. } => return Action::Pending,
            State::Dead => return Action::Dead,
        };
        if now < due {
            return Action::Wait(due);
        }
        self.state = State::Asked { number, refused_before, stale: false };
        Action::Ask
    }

    /// Takes what the question of that number came to; whether it is the one that is waited for.
    pub(crate) fn heard(&mut self, number: u64, outcome: Outcome, now: Instant) -> bool {
        let State::Asked { number: open, refused_before, stale } = self.state else { return false };
        if open != number {
            return false;
        }
        self.state = match outcome {
            Outcome::NoResponders if stale => State::Idle { from: now },
            Outcome::NoResponders if !self.serves => State::Idle { from: now + INTERVAL },
            Outcome::NoResponders if refused_before => State::Dead,
            Outcome::NoResponders => State::Refused { until: now + PAUSE },
            Outcome::Answered => State::Idle { from: now + INTERVAL },
            // It has been waited for: the worker may have died with the question in its hands.
            Outcome::Nothing => State::Idle { from: now },
        };
        self.serves |= outcome == Outcome::Answered;
        true
    }

    /// A sign of life of another kind has come.
    pub(crate) fn alive(&mut self, now: Instant) {
        self.state = match self.state {
            // One question at a time: the next is asked when this one is over.
            State::Asked { number, refused_before, .. } => State::Asked { number, refused_before, stale: true },
            _ => State::Idle { from: now },
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(probe: &mut Probe, now: Instant, outcome: Outcome) {
        assert_eq!(probe.next(now, 1), Action::Ask);
        assert!(probe.heard(1, outcome, now));
    }

    #[test]
    fn d1_who_has_answered_and_then_has_no_responders_twice_is_dead() {
        let start = Instant::now();
        let mut probe = Probe::new(start);
        asked(&mut probe, start, Outcome::Answered);
        assert_eq!(probe.next(start, 2), Action::Wait(start + INTERVAL));
        asked(&mut probe, start + INTERVAL, Outcome::NoResponders);
        let second = start + INTERVAL + PAUSE;
        assert_eq!(probe.next(start + INTERVAL, 2), Action::Wait(second));
        asked(&mut probe, second, Outcome::NoResponders);
        assert_eq!(probe.next(second, 2), Action::Dead);
        assert!(INTERVAL + INTERVAL + PAUSE <= Duration::from_millis(450), "leaves time for the questions");
    }

    #[test]
    fn d2_only_who_says_its_incarnation_has_answered() {
        assert!(is_sign_of_life(br#"{"epoch":1,"run":2}"#));
        for answer in ["", "{}", r#"{"error":"not an inference request","code":"MESSAGE_DECODE_ERROR"}"#] {
            assert!(!is_sign_of_life(answer.as_bytes()), "{answer}");
        }
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
        assert_eq!(probe.next(start + INTERVAL, 2), Action::Wait(start + INTERVAL + PAUSE));
    }

    proptest! {
        /// Signs of life, other connections and answers that are late may come between a question and what it comes to.
        #[test]
        fn d2_whatever_comes_between_the_verdict_needs_two_refusals_of_questions_asked_since(
            steps in prop::collection::vec((0u8..13, 0u64..250, 0usize..4), 1..300),
        ) {
            let mut now = Instant::now();
            let mut probe = Probe::new(now);
            // Questions without an answer yet: their number, and whether they were asked since the last sign of life, and by this
            // probe.
            let mut open: Vec<(u64, bool, bool)> = Vec::new();
            let mut served = false;
            let (mut number, mut refused_since) = (0, Vec::new());
            for (what, wait, which) in steps {
                now += Duration::from_millis(wait);
                match what {
                    0..=4 => match probe.next(now, number + 1) {
                        Action::Ask => {
                            number += 1;
                            open.push((number, true, true));
                        }
                        Action::Dead => {
                            let [.., first, second] = refused_since[..] else { panic!("{refused_since:?}") };
                            prop_assert!(served && second - first >= PAUSE);
                            return Ok(());
                        }
                        Action::Wait(_) | Action::Pending => {}
                    },
                    5..=10 if !open.is_empty() => {
                        let (number, since, own) = open.remove(which % open.len());
                        let outcome = match what {
                            5 => Outcome::Answered,
                            6 if which == 0 => Outcome::Nothing,
                            _ => Outcome::NoResponders,
                        };
                        let counts = probe.heard(number, outcome, now);
                        prop_assert_eq!(counts, own);
                        served |= own && outcome == Outcome::Answered;
                        match outcome {
                            Outcome::NoResponders if since && counts => refused_since.push(now),
                            Outcome::Answered if counts => refused_since.clear(),
                            _ => {}
                        }
                    }
                    11 if which < 2 => {
                        probe.alive(now);
                        refused_since.clear();
                        for (_, since, _) in &mut open {
                            *since = false;
                        }
                    }
                    // Another connection of ours, or another process of the worker.
                    12 if which == 0 => {
                        probe = Probe::new(now);
                        (served, refused_since) = (false, Vec::new());
                        for (_, since, own) in &mut open {
                            (*since, *own) = (false, false);
                        }
                    }
                    _ => {}
                }
            }
        }

        /// Whatever comes back, the verdict needs an answer before, and two refusals in a row with the pause between.
        #[test]
        fn d2_the_verdict_needs_two_refusals_in_a_row(outcomes in prop::collection::vec((0u8..3, 0u64..400), 1..60)) {
            let mut now = Instant::now();
            let mut probe = Probe::new(now);
            let (mut answered, mut row, mut last) = (false, 0, None);
            for (outcome, wait) in outcomes {
                now += Duration::from_millis(wait);
                match probe.next(now, 1) {
                    Action::Ask => {
                        let outcome = [Outcome::Answered, Outcome::NoResponders, Outcome::Nothing][usize::from(outcome)];
                        probe.heard(1, outcome, now);
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
                prop_assert!(row < 2 || probe.next(now, 1) == Action::Dead);
            }
        }
    }
}
