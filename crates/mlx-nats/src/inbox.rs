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
use tokio::sync::oneshot;

/// The table of answers waited for, shared by the client and the task that fills it.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// `_INBOX.<unique>.`, to which a waiter's token is appended.
    prefix: String,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next_token: u64,
    senders: HashMap<u64, oneshot::Sender<async_nats::Message>>,
}

impl Inbox {
    /// An empty inbox below `unique`, a subject of this client alone.
    pub(crate) fn new(unique: &str) -> Self {
        Self { prefix: format!("{unique}."), waiting: Mutex::default() }
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
    }

    /// Hands each message to whoever waits for it, until the subscription ends.
    pub(crate) async fn run(self: Arc<Self>, mut subscriber: async_nats::Subscriber) {
        while let Some(message) = subscriber.next().await {
            let token = message.subject.strip_prefix(&self.prefix).and_then(|token| token.parse().ok());
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
