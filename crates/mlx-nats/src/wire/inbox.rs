//! One inbox for every answer that this client waits for.
//!
//! async-nats has a request inbox of its own, but it keeps an entry for each request that is never answered and cannot
//! fail the ones in flight when the connection drops. Here an entry lives exactly as long as the future that waits
//! for it, and a disconnection empties the table.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::refused::Refused;

/// How long a refusal of the inbox stands before the server is asked again.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// Characters of a name that nobody else has: 131 bits.
const UNIQUE: usize = 22;

/// An inbox below `prefix` that nobody else has.
pub(crate) fn unique_inbox(prefix: &str) -> String {
    let unique: String = std::iter::repeat_with(fastrand::alphanumeric).take(UNIQUE).collect();
    format!("{prefix}.{unique}")
}

/// The table of answers waited for, shared by the client and the task that fills it.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// `_INBOX.<unique>.`, to which a waiter's token is appended.
    prefix: String,
    waiting: Mutex<PendingReplies>,
    /// Something has come by it.
    proven: AtomicBool,
    refusal: Notify,
}

/// What became of a wait.
#[derive(Debug)]
pub(crate) enum Reply {
    /// It came.
    Message(async_nats::Message),
    /// The server refused what was published to get it.
    Refused(Refused),
    /// The server does not let this client have its inbox, so that no answer can come.
    NoInbox(Refused),
}

#[derive(Debug, Default)]
struct PendingReplies {
    next_token: u64,
    senders: HashMap<u64, Pending>,
    /// The server refused the subscription to the inbox.
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Pending {
    sender: oneshot::Sender<Reply>,
    /// Where the question went; unset for one to this very inbox.
    asked: Option<async_nats::Subject>,
}

impl Inbox {
    /// An empty inbox below `unique`, a subject of this client alone.
    pub(crate) fn new(unique: &str) -> Self {
        Self {
            prefix: format!("{unique}."),
            waiting: Mutex::default(),
            proven: AtomicBool::new(false),
            refusal: Notify::new(),
        }
    }

    /// The pattern to subscribe to.
    pub(crate) fn pattern(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// A subject beside it, of the same number of tokens, that no server takes: a `>` is the last token of a subject.
    pub(crate) fn marker(&self) -> String {
        let unique = self.prefix.trim_end_matches('.');
        match unique.rsplit_once('.') {
            Some((shared, own)) => format!("{shared}.>.{own}"),
            None => format!(">.{unique}"),
        }
    }

    /// A subject of it that nobody waits on.
    pub(crate) fn nobody(&self) -> String {
        format!("{}none", self.prefix)
    }

    /// A place for one answer, and the subject that it has to be sent to.
    pub(crate) fn wait(self: &Arc<Self>) -> (Waiter, String) {
        self.enter(None)
    }

    /// The same, for the answer to what is sent to `asked`: should the server refuse that, the wait is over.
    pub(crate) fn wait_on(self: &Arc<Self>, asked: async_nats::Subject) -> (Waiter, String) {
        self.enter(Some(asked))
    }

    fn enter(self: &Arc<Self>, asked: Option<async_nats::Subject>) -> (Waiter, String) {
        let (sender, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let token = waiting.next_token;
        waiting.next_token += 1;
        match &waiting.refused {
            // The receiver is in our hands.
            Some(refused) => drop(sender.send(Reply::NoInbox(refused.clone()))),
            None => drop(waiting.senders.insert(token, Pending { sender, asked })),
        }
        (Waiter { inbox: Arc::clone(self), token, answer, waits: true }, format!("{}{token}", self.prefix))
    }

    /// Nobody who waits now will be answered: each waiter resolves to `None`.
    pub(crate) fn fail_pending(&self) {
        let abandoned = std::mem::take(&mut self.waiting.lock().senders);
        // Dropped outside the lock, because dropping a sender wakes its waiter.
        drop(abandoned);
    }

    /// Whether something has come by it since it was made.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    /// Whether a subject is one of this inbox.
    pub(crate) fn is_own(&self, subject: &str) -> bool {
        subject.starts_with(&self.prefix)
    }

    /// The server refused the subscription: nobody who waits, or will wait, is answered.
    pub(crate) fn refuse(&self, refused: &Refused) {
        let mut waiting = self.waiting.lock();
        waiting.refused = Some(refused.clone());
        let abandoned = std::mem::take(&mut waiting.senders);
        drop(waiting);
        for pending in abandoned.into_values() {
            // Those who went away need not know; the same below.
            let _ = pending.sender.send(Reply::NoInbox(refused.clone()));
        }
        self.refusal.notify_waiters();
    }

    /// The error for a call that needs an answer, when the server lets none through.
    pub(crate) fn check(&self) -> mlx_errors::Result<()> {
        let refused = self.waiting.lock().refused.clone();
        refused.map_or(Ok(()), |refused| Err(self.refusal_error(&refused)))
    }

    /// The error for a call that needs an answer, when the server lets none through.
    pub(crate) fn refusal_error(&self, refused: &Refused) -> Error {
        let reason = format!(
            "the server says: {}; answers come by this subject: allow the user to subscribe to it, or set `nats.inboxPrefix` to a \
             prefix that it may subscribe to",
            refused.said
        );
        Error::new(ErrorKind::Subscription { subject: self.pattern(), reason })
    }

    /// Another connection, on which the server may decide differently.
    pub(crate) fn renewed(&self) {
        self.waiting.lock().refused = None;
    }

    /// The refusal of the subscription, as soon as there is one.
    pub(crate) async fn refused(&self) -> Refused {
        loop {
            let refusal = self.refusal.notified();
            if let Some(refused) = &self.waiting.lock().refused {
                return refused.clone();
            }
            refusal.await;
        }
    }

    /// The server refused what was published on `subject`: ends the waits for an answer to it, and says how many.
    pub(crate) fn publish_refused(&self, subject: &str, refused: &Refused) -> u64 {
        let mut waiting = self.waiting.lock();
        let tokens: Vec<u64> = if let Some(token) = self.token(subject) {
            vec![token]
        } else {
            let is_asked = |pending: &Pending| pending.asked.as_ref().is_some_and(|asked| asked.as_str() == subject);
            waiting.senders.iter().filter(|(_, pending)| is_asked(pending)).map(|(token, _)| *token).collect()
        };
        let concerned: Vec<_> = tokens.into_iter().filter_map(|token| waiting.senders.remove(&token)).collect();
        drop(waiting);
        let count = concerned.len() as u64;
        for pending in concerned {
            let _ = pending.sender.send(Reply::Refused(refused.clone()));
        }
        count
    }

    fn token(&self, subject: &str) -> Option<u64> {
        subject.strip_prefix(&self.prefix).and_then(|token| token.parse().ok())
    }

    /// Hands each message to the call that waits for it, until the transport ends. A subscription that the server has refused is
    /// made anew now and then, since permissions may come back without a word.
    pub(crate) async fn run(self: Arc<Self>, nats: async_nats::Client, mut subscriber: async_nats::Subscriber) {
        loop {
            let refused = async {
                self.refused().await;
                tokio::time::sleep(REFUSED_PAUSE).await; // for permissions to be changed
            };
            tokio::select! {
                () = self.hand_out(&mut subscriber) => break,
                () = refused => {}
            }
            // Another connection may have been made in the meantime.
            if self.check().is_err() {
                self.renewed();
                match nats.subscribe(self.pattern()).await {
                    Ok(renewed) => subscriber = renewed,
                    Err(_) => break,
                }
            }
        }
        self.fail_pending();
    }

    async fn hand_out(&self, subscriber: &mut async_nats::Subscriber) {
        while let Some(message) = subscriber.next().await {
            self.proven.store(true, Ordering::Release);
            let pending = self.token(&message.subject).and_then(|token| self.waiting.lock().senders.remove(&token));
            if let Some(pending) = pending {
                // An error means that the waiter went away this very moment, which is its right.
                let _ = pending.sender.send(Reply::Message(message));
            } else {
                tracing::debug!(subject = %message.subject, "an answer came after its request was given up");
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.lock().senders.len()
    }
}

/// Waits for one answer; `None` when the connection dropped. Dropping it frees its place.
#[derive(Debug)]
pub(crate) struct Waiter {
    inbox: Arc<Inbox>,
    token: u64,
    answer: oneshot::Receiver<Reply>,
    waits: bool,
}

impl Future for Waiter {
    type Output = Option<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.waits = false;
        Poll::Ready(answer.ok())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // An answer removes the entry.
        if self.waits {
            self.inbox.waiting.lock().senders.remove(&self.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

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
    async fn a_refused_publish_ends_the_waits_for_its_answer_and_no_others() {
        let inbox = Arc::new(Inbox::new("_INBOX.test"));
        let refused = Refused { said: "no".into() };
        let (first, _) = inbox.wait_on("a".into());
        let (second, _) = inbox.wait_on("a".into());
        let (other, _) = inbox.wait_on("b".into());
        let (own, subject) = inbox.wait();
        assert_eq!(inbox.publish_refused("a", &refused), 2);
        assert_eq!(inbox.publish_refused(&subject, &refused), 1);
        assert_eq!(inbox.publish_refused("a", &refused), 0);
        for waiter in [first, second, own] {
            assert!(matches!(waiter.await, Some(Reply::Refused(_))));
        }
        inbox.refuse(&refused);
        assert!(matches!(other.await, Some(Reply::NoInbox(_))));
        assert!(matches!(inbox.wait().0.await, Some(Reply::NoInbox(_))), "nor will later ones be answered");
        inbox.renewed();
        assert!(inbox.wait().0.now_or_never().is_none());
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
