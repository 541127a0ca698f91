//! Markers on their way out and back, counted: without a connection and without time.

/// Counts markers on their way out and back.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Goes up when those under way do not count any more.
    generation: u64,
    /// Markers of the first kind: how many were sent, and came back.
    sent: u64,
    returned: u64,
    /// Markers of the second kind, likewise. Their numbers are never used again.
    named_sent: u64,
    named_returned: u64,
    /// The limit of subscriptions has been heard of: markers are of the second kind.
    limited: bool,
    /// It was heard of since the last marker of the second kind.
    still_limited: bool,
    doubt: Option<Doubt>,
}

/// Answers that are those of markers or of subscriptions.
#[derive(Debug)]
struct Doubt {
    /// Markers under way when the limit was first heard of.
    markers: u64,
    answers: u64,
    /// It is over when one of the second kind returns that was sent after this one.
    named: u64,
}

/// The number of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) named: bool,
    generation: u64,
    pub(super) number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    UnderWay,
    Passed,
    /// Its answer cannot be told from another: one of the second kind has to be sent.
    Doubtful,
}

impl State {
    pub(super) fn send(&mut self) -> Ticket {
        let count = if self.limited { &mut self.named_sent } else { &mut self.sent };
        *count += 1;
        Ticket { named: self.limited, generation: self.generation, number: *count }
    }

    /// The last one was not sent after all.
    pub(super) fn unsend(&mut self, ticket: Ticket) {
        if ticket.named {
            return; // the others do not depend on it
        }
        match &mut self.doubt {
            Some(doubt) if ticket.generation + 1 == self.generation => {
                doubt.markers = doubt.markers.saturating_sub(1);
            }
            _ if ticket.generation == self.generation && ticket.number == self.sent => self.sent -= 1,
            _ => {}
        }
    }

    pub(super) fn returned(&mut self) {
        match &mut self.doubt {
            Some(doubt) => doubt.answers += 1,
            // One of an earlier connection is nobody's.
            None => self.returned = self.sent.min(self.returned + 1),
        }
    }

    pub(super) fn limit_met(&mut self) -> bool {
        self.limited = true;
        self.still_limited = true;
        if let Some(doubt) = &mut self.doubt {
            doubt.answers += 1;
            return false;
        }
        let markers = self.sent - self.returned;
        if markers == 0 {
            return true;
        }
        self.generation += 1;
        (self.sent, self.returned) = (0, 0);
        self.doubt = Some(Doubt { markers, answers: 1, named: self.named_sent });
        false
    }

    /// How many answers were those of subscriptions, once a marker of the second kind is back: each of the others had one.
    pub(super) fn settle_doubt(&mut self, number: u64) -> u64 {
        let over = self.doubt.take_if(|doubt| number > doubt.named);
        over.map_or(0, |doubt| doubt.answers.saturating_sub(doubt.markers))
    }

    pub(super) fn named_returned(&mut self, number: u64) {
        self.named_returned = self.named_returned.max(number);
        if self.doubt.is_none() && number == self.named_sent {
            self.limited = std::mem::take(&mut self.still_limited);
        }
    }

    /// Nothing under way will come back.
    pub(super) fn renew(&mut self) {
        self.generation += 1;
        (self.sent, self.returned) = (0, 0);
        self.named_returned = self.named_sent;
        (self.limited, self.still_limited, self.doubt) = (false, false, None);
    }

    pub(super) fn fate(&self, ticket: Ticket) -> Fate {
        if ticket.named {
            return if self.named_returned >= ticket.number { Fate::Passed } else { Fate::UnderWay };
        }
        match self.generation == ticket.generation {
            true if self.returned >= ticket.number => Fate::Passed,
            true => Fate::UnderWay,
            false if self.limited => Fate::Doubtful,
            false => Fate::Passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(state: &State, ticket: Ticket) -> bool {
        state.fate(ticket) == Fate::Passed
    }

    fn back(state: &mut State, named: Ticket) -> u64 {
        let refused = state.settle_doubt(named.number);
        state.named_returned(named.number);
        refused
    }

    #[test]
    fn c4_markers_come_back_in_the_order_of_the_wire() {
        let mut state = State::default();
        let (first, second) = (state.send(), state.send());
        assert!(!passed(&state, first) && !passed(&state, second));
        state.returned();
        assert!(passed(&state, first) && !passed(&state, second));
        state.returned();
        assert!(passed(&state, second));
    }

    #[test]
    fn c4_a_marker_that_was_not_sent_is_not_waited_for() {
        let mut state = State::default();
        let first = state.send();
        let dropped = state.send();
        state.unsend(dropped);
        let second = state.send();
        state.returned();
        assert!(passed(&state, first) && !passed(&state, second));
        state.returned();
        assert!(passed(&state, second));
    }

    #[test]
    fn c4_what_is_under_way_ends_with_its_connection_and_what_comes_late_is_nobodys() {
        let mut state = State::default();
        let old = state.send();
        state.renew();
        assert!(passed(&state, old));
        state.returned(); // the old one, sent on the new connection after all
        let new = state.send();
        assert!(!passed(&state, new));
        state.unsend(old);
        state.returned();
        assert!(passed(&state, new));
    }

    #[test]
    fn c4_a_limit_that_is_heard_of_with_no_marker_under_way_is_that_of_a_subscription() {
        let mut state = State::default();
        assert!(state.limit_met());
        let named = state.send();
        assert!(named.named && !passed(&state, named));
        assert!(state.limit_met());
        assert_eq!(back(&mut state, named), 0);
        assert!(passed(&state, named));
        // Heard of in the meantime: the next is of the second kind again, and then no more.
        let named = state.send();
        assert!(named.named);
        assert_eq!(back(&mut state, named), 0);
        assert!(!state.send().named);
    }

    #[test]
    fn c4_the_limit_of_a_marker_is_told_from_that_of_a_subscription_by_their_number() {
        for refused in 0..3 {
            let mut state = State::default();
            let (first, second) = (state.send(), state.send());
            state.returned(); // the first still found room
            assert!((0..=refused).all(|_| !state.limit_met()), "the second's, and those of subscriptions");
            assert!(passed(&state, first) || state.fate(first) == Fate::Doubtful);
            assert_eq!(state.fate(second), Fate::Doubtful);
            let named = state.send();
            assert_eq!(back(&mut state, named), refused);
            assert!(passed(&state, named));
        }
    }

    #[test]
    fn c4_a_doubtful_marker_that_was_not_sent_has_no_answer() {
        let mut state = State::default();
        let _first = state.send();
        let dropped = state.send();
        assert!(!state.limit_met());
        state.unsend(dropped);
        assert!(!state.limit_met());
        let named = state.send();
        assert_eq!(back(&mut state, named), 1);
    }
}
