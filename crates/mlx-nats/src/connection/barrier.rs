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

mod markers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use self::markers::{Fate, State, Ticket};
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
    /// The subject of markers of the first kind.
    marker: async_nats::Subject,
    /// Where markers of the second kind are published, a subject of the client's own inbox, and what their reply subjects begin with.
    target: async_nats::Subject,
    reserved: String,
    /// Who has asked so far, and up to whom all have their answer: one marker is for everyone who asked before it was sent.
    /// With one for each, a few hundred at once would not fit the transport's queue of events.
    asked: AtomicU64,
    answered: AtomicU64,
    /// Held by the caller whose marker is under way, for all.
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
        self.state.lock().returned();
        self.changed.notify_waiters();
    }

    /// The server refused a reply subject: whether that was a marker's. How many subscriptions it has refused for its limit,
    /// as is known now, goes to `tell`, before anyone takes what came ahead of the marker for heard.
    pub(super) fn reply_refused(&self, reply: &str, tell: impl FnOnce(u64)) -> bool {
        let Some(number) = reply.strip_prefix(&self.reserved).and_then(|number| number.parse().ok()) else {
            return false;
        };
        let refused = self.state.lock().settle_doubt(number);
        tell(refused);
        self.state.lock().named_returned(number);
        self.changed.notify_waiters();
        true
    }

    /// The server said that a limit of subscriptions is met: whether that was of a subscription. It may have been of a
    /// marker; then the number is known later.
    pub(super) fn limit_met(&self) -> bool {
        let certain = self.state.lock().limit_met();
        self.changed.notify_waiters();
        certain
    }

    /// Another connection: what was sent on the one before does not come back.
    pub(super) fn renew(&self) {
        self.state.lock().renew();
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
                match self.state.lock().fate(ticket) {
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
        let ticket = self.state.lock().send();
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
            self.barrier.state.lock().unsend(self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
