//! Proof that everything the server said up to a moment has been heard.
//!
//! async-nats hands what a server says (`-ERR`) to a queue and a task of their own, so that the answer to a round trip may
//! be there before a refusal that the server sent ahead of it. Whoever has to know sends a marker: a subscription to a
//! subject that no server takes, of which it says `Invalid Subject`. That comes through the same queue, in order: once it
//! has been heard, so has everything before it. A server logs nothing of it, and it needs no permission beyond that for the
//! client's own inbox.
//!
//! Where the limit of subscriptions is met, the server says that of a marker too, and it looks like the refusal of another
//! subscription. From then on markers are of a second kind: a publish whose reply subject is one of the server's own. Its
//! refusal has a name, but the server logs it, so that the first kind is tried again when the limit is no longer heard of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::received_bytes;

/// What async-nats' queue of events holds; what comes beyond is dropped. While fewer events than this were heard, none was
/// dropped in between.
const EVENT_QUEUE: u64 = 128;

/// How long a marker is waited for: one that was dropped, or that a server knows no answer to, does not come.
const MARKER_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes of the answer to a marker.
const MARKER_ANSWER: u64 = "-ERR 'Invalid Subject'\r\n".len() as u64;

/// Reply subjects that are the server's own begin so.
const RESERVED: &str = "_R_.";

/// The markers of one client.
#[derive(Debug)]
pub(crate) struct Barrier {
    /// Of the first kind.
    marker: async_nats::Subject,
    /// Of the second: a subject of the client's own inbox, and what the reply subjects begin with.
    target: async_nats::Subject,
    reserved: String,
    /// Who has asked so far, and up to whom all have their answer: one marker is for everyone who asked before it was sent.
    /// With one for each, a few hundred at once would not fit the transport's queue of events.
    asked: AtomicU64,
    answered: AtomicU64,
    /// Held by whoever has a marker under way, for all.
    leading: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    changed: Notify,
    heard: AtomicU64,
    /// Of so many bytes received, all that may have been said in them has been heard.
    proven: AtomicU64,
}

impl Barrier {
    /// Markers on `marker`, which a client may subscribe to and no server takes, and to `inbox`, a subject of its own.
    pub(super) fn new(marker: &str, inbox: &str) -> Self {
        let reserved = format!("{RESERVED}{}.", inbox.rsplit('.').nth(1).unwrap_or_default());
        Self {
            marker: marker.into(),
            target: inbox.into(),
            reserved,
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            leading: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
            changed: Notify::new(),
            heard: AtomicU64::new(0),
            proven: AtomicU64::new(0),
        }
    }

    /// Whether a refused subscription is a marker, where a server is stricter than expected.
    pub(super) fn is_marker(&self, subject: &str) -> bool {
        self.marker.as_str() == subject
    }

    /// An event of the transport is being handled.
    pub(super) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::AcqRel);
    }

    /// The server said what it says of a marker of the first kind.
    pub(super) fn returned(&self) {
        self.lock().returned();
        self.changed.notify_waiters();
    }

    /// The server refused a reply subject: whether that was a marker's. How many subscriptions it has refused for its limit,
    /// as is known now, goes to `tell`, before anyone takes what came ahead of the marker for heard.
    pub(super) fn reply_refused(&self, reply: &str, tell: impl FnOnce(u64)) -> bool {
        let Some(number) = reply.strip_prefix(&self.reserved).and_then(|number| number.parse().ok()) else {
            return false;
        };
        let refused = self.lock().settle_doubt(number);
        tell(refused);
        self.lock().named_returned(number);
        self.changed.notify_waiters();
        true
    }

    /// The server said that a limit of subscriptions is met: whether that was of a subscription. It may have been of a
    /// marker; then the number is known later.
    pub(super) fn limit_met(&self) -> bool {
        let certain = self.lock().limit_met();
        self.changed.notify_waiters();
        certain
    }

    /// Another connection: what was sent on the one before does not come back.
    pub(super) fn renew(&self) {
        self.lock().renew();
        self.changed.notify_waiters();
    }

    /// Events heard so far.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    /// Whether some may have been dropped since `before` of them had been heard.
    pub(crate) fn may_have_missed(&self, before: u64) -> bool {
        self.heard().wrapping_sub(before) >= EVENT_QUEUE
    }

    /// Of so many bytes received, all that may have been said in them has been heard.
    pub(crate) fn proven(&self) -> u64 {
        self.proven.load(Ordering::Acquire)
    }

    /// All that may have been said in the first `bytes` received has been heard.
    pub(crate) fn prove(&self, bytes: u64) {
        self.proven.fetch_max(bytes, Ordering::AcqRel);
    }

    /// Returns when everything has been heard that the server said in answer to what was sent before this call; or, where
    /// no answer to the marker comes, after half a second, which is far longer than any of it takes.
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind.
    pub(crate) async fn pass(&self, nats: &async_nats::Client) {
        let own = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let _leading = self.leading.lock().await;
        if self.answered.load(Ordering::Acquire) >= own {
            return;
        }
        let all = self.asked.load(Ordering::Acquire);
        self.pass_for_all(nats).await;
        self.answered.fetch_max(all, Ordering::AcqRel);
    }

    async fn pass_for_all(&self, nats: &async_nats::Client) {
        let before = received_bytes(nats);
        if timeout(MARKER_TIMEOUT, self.until_passed(nats)).await.is_ok() {
            // What comes beyond the answer to the marker has still to be proven.
            self.prove(before + MARKER_ANSWER);
            return;
        }
        tracing::debug!("the NATS server's answer to a marker got lost");
        // Otherwise the next ones would wait for this one's turn.
        self.renew();
    }

    async fn until_passed(&self, nats: &async_nats::Client) {
        loop {
            let Some(ticket) = self.send(nats).await else { return };
            loop {
                // Made before the look, so that what changes in between is noticed.
                let changed = self.changed.notified();
                match self.lock().fate(ticket) {
                    Fate::Passed => return,
                    Fate::Doubtful => break,
                    Fate::UnderWay => {}
                }
                changed.await;
            }
        }
    }

    /// Sends a marker; nothing, where the transport has ended.
    async fn send(&self, nats: &async_nats::Client) -> Option<Ticket> {
        // Numbered before it is sent, since it may be back before this continues.
        let ticket = self.lock().send();
        let mut numbered = Numbered { barrier: self, ticket, sent: false };
        if ticket.named {
            let reply = format!("{}{}", self.reserved, ticket.number);
            nats.publish_with_reply(self.target.clone(), reply, Bytes::new()).await.ok()?;
        } else {
            // It never becomes one; dropping it takes it off the transport's list.
            drop(nats.subscribe(self.marker.clone()).await.ok()?);
        }
        numbered.sent = true;
        Some(ticket)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing inside the lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that is taken back where its marker is not sent.
struct Numbered<'a> {
    barrier: &'a Barrier,
    ticket: Ticket,
    sent: bool,
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        if !self.sent {
            self.barrier.lock().unsend(self.ticket);
        }
    }
}

/// Counts markers on their way out and back.
#[derive(Debug, Default)]
struct State {
    /// Goes up when those under way do not count any more.
    generation: u64,
    /// Of the first kind.
    sent: u64,
    returned: u64,
    /// Of the second kind. Their numbers are never used again.
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
struct Ticket {
    named: bool,
    generation: u64,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    UnderWay,
    Passed,
    /// Its answer cannot be told from another: one of the second kind has to be sent.
    Doubtful,
}

impl State {
    fn send(&mut self) -> Ticket {
        let count = if self.limited { &mut self.named_sent } else { &mut self.sent };
        *count += 1;
        Ticket { named: self.limited, generation: self.generation, number: *count }
    }

    /// The last one was not sent after all.
    fn unsend(&mut self, ticket: Ticket) {
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

    fn returned(&mut self) {
        match &mut self.doubt {
            Some(doubt) => doubt.answers += 1,
            // One of an earlier connection is nobody's.
            None => self.returned = self.sent.min(self.returned + 1),
        }
    }

    fn limit_met(&mut self) -> bool {
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
    fn settle_doubt(&mut self, number: u64) -> u64 {
        let over = self.doubt.take_if(|doubt| number > doubt.named);
        over.map_or(0, |doubt| doubt.answers.saturating_sub(doubt.markers))
    }

    fn named_returned(&mut self, number: u64) {
        self.named_returned = self.named_returned.max(number);
        if self.doubt.is_none() && number == self.named_sent {
            self.limited = std::mem::take(&mut self.still_limited);
        }
    }

    /// Nothing under way will come back.
    fn renew(&mut self) {
        self.generation += 1;
        (self.sent, self.returned) = (0, 0);
        self.named_returned = self.named_sent;
        (self.limited, self.still_limited, self.doubt) = (false, false, None);
    }

    fn fate(&self, ticket: Ticket) -> Fate {
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

    #[test]
    fn a_full_queue_is_noticed_by_what_is_heard_of_it() {
        let barrier = Barrier::new("_INBOX.>.x", "_INBOX.x.0");
        let before = barrier.heard();
        (1..EVENT_QUEUE).for_each(|_| barrier.hear());
        assert!(!barrier.may_have_missed(before));
        barrier.hear();
        assert!(barrier.may_have_missed(before));
    }
}
