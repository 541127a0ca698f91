//! One inbox for every answer that this client waits for.
//!
//! async-nats has a request inbox of its own, but it keeps an entry for each request that is never answered and cannot
//! fail the ones in flight when the connection drops. Here an entry lives exactly as long as the future that waits
//! for it, and a disconnection empties the table.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind};
use tokio::sync::{oneshot, watch};

use crate::round_trip::RoundTrips;

/// The table of answers waited for, shared by the client and the task that fills it.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// `_INBOX.<unique>.`, to which a waiter's token is appended.
    prefix: String,
    waiting: Mutex<Waiting>,
    round_trips: RoundTrips,
    /// Why the server does not let us hear answers, while it does not.
    refused: watch::Sender<Option<String>>,
}

/// What a word of the server means for the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It refused the message of a round trip, and so has answered it.
    RoundTrip,
    /// It does not let us subscribe to the inbox: no answer will come.
    Refused,
    /// Something else.
    Other,
}

#[derive(Debug, Default)]
struct Waiting {
    next_token: u64,
    senders: HashMap<u64, oneshot::Sender<async_nats::Message>>,
}

impl Inbox {
    /// An empty inbox below `unique`, a subject of this client alone.
    pub(crate) fn new(unique: &str) -> Self {
        let round_trips = RoundTrips::default();
        Self { prefix: format!("{unique}."), waiting: Mutex::default(), round_trips, refused: watch::Sender::default() }
    }

    /// Those who wait for a round trip.
    pub(crate) fn round_trips(&self) -> &RoundTrips {
        &self.round_trips
    }

    /// The subject of a round trip, told from those of answers by its letter.
    pub(crate) fn round_trip_subject(&self, number: u64) -> String {
        format!("{}{ROUND_TRIP}{number}", self.prefix)
    }

    /// The pattern to subscribe to.
    pub(crate) fn pattern(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// A place for one answer, and the subject that it has to be sent to.
    pub(crate) fn wait(self: &Arc<Self>) -> (Waiter, String) {
        let (sender, answer) = oneshot::channel();
        let mut waiting = self.lock();
        let token = waiting.next_token;
        waiting.next_token += 1;
        waiting.senders.insert(token, sender);
        (Waiter { inbox: Arc::clone(self), token, answer, waits: true }, format!("{}{token}", self.prefix))
    }

    /// Nobody who waits now will be answered: each waiter resolves to `None`.
    pub(crate) fn fail_pending(&self) {
        let abandoned = std::mem::take(&mut self.lock().senders);
        // Dropped outside the lock, because dropping a sender wakes its waiter.
        drop(abandoned);
        self.round_trips.fail_pending();
    }

    /// Takes what the server says of our subjects. `first` is whether nothing but the inbox has been subscribed to yet.
    pub(crate) fn heard(&self, said: &str, first: bool) -> Heard {
        if let Some(subject) = quoted(said, "Permissions Violation for Publish to \"") {
            let number = subject.strip_prefix(&self.prefix).and_then(round_trip_number);
            let Some(number) = number else { return Heard::Other };
            self.round_trips.returned(number, true);
            return Heard::RoundTrip;
        }
        let ours = quoted(said, "Permissions Violation for Subscription to \"") == Some(self.pattern().as_str());
        if ours || (first && said.to_ascii_lowercase().contains("maximum subscriptions exceeded")) {
            self.refused.send_replace(Some(said.strip_prefix("nats: ").unwrap_or(said).to_owned()));
            return Heard::Refused;
        }
        Heard::Other
    }

    /// Another connection is made, on which the server is asked anew.
    pub(crate) fn renewed(&self) {
        self.refused.send_if_modified(|refused| refused.take().is_some());
    }

    /// Resolves when the server has refused our subscription, with the error that says so.
    pub(crate) async fn refusal(&self) -> Error {
        let mut refused = self.refused.subscribe();
        loop {
            let said = refused.borrow_and_update().clone();
            if let Some(said) = said {
                return self.refusal_error(&said);
            }
            // The sender is in `self`, so there is always another value to wait for.
            let _ = refused.changed().await;
        }
    }

    /// What the server said last when it refused our subscription, while it stands.
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.borrow().clone()
    }

    fn refusal_error(&self, said: &str) -> Error {
        let prefix = self.prefix.trim_end_matches('.');
        let prefix = prefix.rsplit_once('.').map_or(prefix, |(prefix, _)| prefix);
        let what_to_do = if said.contains("Permissions Violation") {
            format!(
                "answers come there, so set `nats.inboxPrefix` to a prefix that this user may subscribe to, or permit it \
                 `{prefix}.>`"
            )
        } else {
            "answers come there, so the limit has to allow for one subscription at the least".to_owned()
        };
        let reason = format!("the server refuses it ({said}); {what_to_do}");
        Error::new(ErrorKind::Subscription { subject: self.pattern(), reason })
    }

    /// Hands each message to whoever waits for it, until the subscription ends.
    pub(crate) async fn run(self: Arc<Self>, mut subscriber: async_nats::Subscriber) {
        while let Some(message) = subscriber.next().await {
            let token = message.subject.strip_prefix(&self.prefix);
            if let Some(number) = token.and_then(round_trip_number) {
                self.round_trips.returned(number, false);
                continue;
            }
            let token = token.and_then(|token| token.parse().ok());
            let sender = token.and_then(|token: u64| self.lock().senders.remove(&token));
            if let Some(sender) = sender {
                // An error means that the waiter went away this very moment, which is its right.
                let _ = sender.send(message);
            } else {
                tracing::debug!(subject = %message.subject, "an answer came after its request was given up");
            }
        }
        self.fail_pending();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing inside the lock can leave the table half changed, so a poisoned one is as good as new.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().senders.len()
    }
}

/// What the number of a round trip begins with.
const ROUND_TRIP: char = 'p';

fn round_trip_number(token: &str) -> Option<u64> {
    token.strip_prefix(ROUND_TRIP)?.parse().ok()
}

/// What stands between `before`, which ends in a quote, and the next quote.
fn quoted<'a>(said: &'a str, before: &str) -> Option<&'a str> {
    Some(said.split_once(before)?.1.split_once('"')?.0)
}

/// Waits for one answer; `None` when the connection dropped. Dropping it frees its place.
#[derive(Debug)]
pub(crate) struct Waiter {
    inbox: Arc<Inbox>,
    token: u64,
    answer: oneshot::Receiver<async_nats::Message>,
    waits: bool,
}

impl Future for Waiter {
    type Output = Option<async_nats::Message>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.waits = false;
        Poll::Ready(answer.ok())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // Whoever answers takes the place away with it.
        if self.waits {
            self.inbox.lock().senders.remove(&self.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn c10_a_waiter_leaves_nothing_behind() {
        let inbox = Arc::new(Inbox::new("_INBOX.test"));
        let waiters: Vec<_> = (0..1000).map(|_| inbox.wait().0).collect();
        assert_eq!(inbox.len(), 1000);
        drop(waiters);
        assert_eq!(inbox.len(), 0);
    }

    #[test]
    fn c4_refusals_of_our_own_subjects_are_told_from_those_of_others() {
        let inbox = Arc::new(Inbox::new("_INBOX_alice.unique"));
        let publish = |subject: &str| format!("nats: Permissions Violation for Publish to \"{subject}\"");
        let subscription = |subject: &str| format!("nats: Permissions Violation for Subscription to \"{subject}\"");
        assert_eq!(inbox.heard(&publish("_INBOX_alice.unique.p7"), false), Heard::RoundTrip);
        for other in ["_INBOX_alice.unique.7", "_INBOX_alice.other.p7", "worker.register", "_INBOX_alice.unique.px"] {
            assert_eq!(inbox.heard(&publish(other), false), Heard::Other, "{other}");
        }
        assert_eq!(inbox.heard(&subscription("_INBOX_alice.other.*"), false), Heard::Other);
        assert_eq!(inbox.heard("nats: maximum subscriptions exceeded", false), Heard::Other);
        assert_eq!(inbox.heard("nats: Maximum Payload Violation", true), Heard::Other);
        assert_eq!(inbox.refused(), None);
        assert_eq!(inbox.heard(&subscription("_INBOX_alice.unique.*"), false), Heard::Refused);
        let error = inbox.refusal_error(&inbox.refused().unwrap()).to_string();
        for told in ["`_INBOX_alice.unique.*`", "Permissions Violation", "`nats.inboxPrefix`", "`_INBOX_alice.>`"] {
            assert!(error.contains(told), "{error}");
        }
        inbox.renewed();
        assert_eq!(inbox.refused(), None);
        assert_eq!(inbox.heard("nats: maximum subscriptions exceeded", true), Heard::Refused);
    }

    #[tokio::test]
    async fn c3_a_disconnection_answers_everyone_with_nothing() {
        let inbox = Arc::new(Inbox::new("_INBOX.test"));
        let (first, subject) = inbox.wait();
        let (second, _) = inbox.wait();
        assert_eq!(subject, "_INBOX.test.0");
        inbox.fail_pending();
        assert!(first.await.is_none());
        assert!(second.await.is_none());
        assert_eq!(inbox.len(), 0);
    }
}
