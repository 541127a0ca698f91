//! Round trips to the server: how a connection proves itself, and how a flush knows that everything has arrived.
//!
//! async-nats tells nobody when a PONG comes, so a round trip is a message to our own inbox. A user who may not publish there
//! gets the server's refusal instead, which names the subject and proves the same: the server handles what a connection
//! sends in order, and answers on that connection in order.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::inbox::Inbox;

/// When a message that has not come back is sent again: the transport's queue of refusals is bounded, and drops what does
/// not fit. Where refusals are the rule, that is to be reckoned with.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_IF_REFUSED: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Those who wait for a round trip, and whether this user may publish to its own inbox.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips {
    waiting: Mutex<Waiting>,
    refused: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    senders: HashMap<u64, oneshot::Sender<()>>,
}

impl RoundTrips {
    /// A place for one round trip, and its number.
    fn begin(inbox: &Arc<Inbox>) -> RoundTrip {
        let (sender, answer) = oneshot::channel();
        let mut waiting = inbox.round_trips().lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.senders.insert(number, sender);
        RoundTrip { inbox: Arc::clone(inbox), number, answer, waits: true }
    }

    /// The message of a round trip came back, or was refused.
    pub(crate) fn returned(&self, number: u64, refused: bool) {
        if refused && !self.refused.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "this user may not publish to its own inbox; the server's refusals serve as round trips, and each is a \
                 line in its log, unless the user is allowed to publish below `nats.inboxPrefix`"
            );
        }
        let sender = self.lock().senders.remove(&number);
        if let Some(sender) = sender {
            // An error means that the waiter went away this very moment, which is its right.
            let _ = sender.send(());
        }
    }

    /// Nobody who waits now will be answered.
    pub(crate) fn fail_pending(&self) {
        let abandoned = std::mem::take(&mut self.lock().senders);
        // Dropped outside the lock, because dropping a sender wakes its waiter.
        drop(abandoned);
    }

    fn pause(&self) -> Duration {
        if self.refused.load(Ordering::Relaxed) { AGAIN_IF_REFUSED } else { AGAIN }
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

/// One message round, sent again while nothing comes back. `None` when the connection dropped meanwhile, or has ended;
/// `slow` is called each time that it is sent again.
///
/// Dropped at any point, it leaves nothing behind.
pub(crate) async fn round_trip(nats: &async_nats::Client, inbox: &Arc<Inbox>, slow: impl Fn()) -> Option<()> {
    let mut trip = RoundTrips::begin(inbox);
    let subject = async_nats::Subject::from(inbox.round_trip_subject(trip.number));
    let mut pause = inbox.round_trips().pause();
    loop {
        tokio::select! {
            biased;
            // While there is no room for it: the connection may drop.
            returned = &mut trip => return returned,
            sent = nats.publish(subject.clone(), Bytes::new()) => sent.ok()?,
        }
        if let Ok(returned) = timeout(pause, &mut trip).await {
            return returned;
        }
        slow();
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for one round trip; `None` when the connection dropped. Dropping it frees its place.
#[derive(Debug)]
struct RoundTrip {
    inbox: Arc<Inbox>,
    number: u64,
    answer: oneshot::Receiver<()>,
    waits: bool,
}

impl Future for RoundTrip {
    type Output = Option<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.waits = false;
        Poll::Ready(answer.ok())
    }
}

impl Drop for RoundTrip {
    fn drop(&mut self) {
        // Whoever answers takes the place away with it.
        if self.waits {
            self.inbox.round_trips().lock().senders.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn c5_a_round_trip_ends_by_its_message_by_a_refusal_of_it_or_by_the_end_of_the_connection() {
        let inbox = Arc::new(Inbox::new("_INBOX.test"));
        let trips = || inbox.round_trips();
        let [first, second, third, given_up] = std::array::from_fn(|_| RoundTrips::begin(&inbox));
        drop(given_up);
        assert_eq!(trips().len(), 3);
        trips().returned(0, false);
        assert_eq!(trips().pause(), AGAIN);
        trips().returned(1, true);
        assert_eq!(trips().pause(), AGAIN_IF_REFUSED);
        inbox.fail_pending();
        assert_eq!((first.await, second.await, third.await), (Some(()), Some(()), None));
        assert_eq!(trips().len(), 0);
    }
}
