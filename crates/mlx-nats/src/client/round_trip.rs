//! Round trips to the server, and what is known at their end.

use std::time::Duration;

use bytes::Bytes;
use mlx_errors::{Error, ErrorKind, Result};
use tokio::time::{Instant, timeout};

use crate::client::Client;
use crate::connection::{received_bytes, transports};
use crate::wire::inbox::{Reply, Waiter};

/// What an answer without a payload takes on the wire beside its subject, and a ping beside it. With both, there is no room
/// for a refusal in what is left.
const ANSWER_OVERHEAD: u64 = 24;

/// How long the first message of a round trip may take before another is sent, and the longest pause between two.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A wait that ends later than it should by more than this was that of a process which slept, or did much else.
const LATE: Duration = Duration::from_millis(250);

/// How long such a process may take to read what has come meanwhile.
const READING_TIMEOUT: Duration = Duration::from_secs(1);

impl Client {
    /// For a wait of `timeout` since `began` that is over: whether it ended so late that what was waited for may have come and
    /// not been read. Then it has been read by now, as far as the server answers.
    pub(crate) async fn has_read_late(&self, began: Instant, timeout: Duration) -> bool {
        if began.elapsed().saturating_sub(timeout) <= LATE {
            return false;
        }
        // A server that does not answer has nothing to say either. In a box, since hardly any wait comes to this.
        let _ = Box::pin(self.round_trip("an answer", READING_TIMEOUT)).await;
        true
    }

    /// A message to ourselves and back: what was sent before has been handled by the server. What it had to say against it
    /// may not have been heard yet.
    pub(crate) async fn round_trip(&self, during: &str, timeout: Duration) -> Result<()> {
        self.bounded_round_trip(None, during, timeout).await
    }

    /// The same, after which all has been heard that the server said since `before` bytes had been received.
    pub(crate) async fn hear_since(&self, before: u64, during: &str, timeout: Duration) -> Result<()> {
        self.bounded_round_trip(Some(before), during, timeout).await
    }

    /// The same, after which all has been heard that the server ever said.
    pub(crate) async fn hear_all(&self, during: &str, timeout: Duration) -> Result<()> {
        self.bounded_round_trip(Some(self.refusals().barrier().proven()), during, timeout).await
    }

    async fn bounded_round_trip(&self, before: Option<u64>, during: &str, timeout: Duration) -> Result<()> {
        match tokio::time::timeout(timeout, self.unbounded_round_trip(before, during)).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(ErrorKind::Timeout { subject: during.to_owned(), timeout })),
        }
    }

    async fn unbounded_round_trip(&self, before: Option<u64>, during: &str) -> Result<()> {
        let epoch = self.link().live(|| during.to_owned())?;
        let (waiter, subject) = self.inbox().wait();
        let quiet = subject.len() as u64 + ANSWER_OVERHEAD;
        let answer = tokio::select! {
            biased;
            answer = self.message_to_self(waiter, subject) => answer,
            // The table of those who wait may have been emptied between the look at the state and the wait.
            () = self.link().lost(epoch) => None,
        };
        match answer {
            Some(Reply::Message(_)) => {
                if let Some(before) = before {
                    self.hear_out(before, quiet).await;
                }
            }
            // That the server refuses the message to ourselves is an answer as good as the message, and comes behind whatever
            // else it refused.
            Some(Reply::Refused(_)) => {}
            Some(Reply::NoInbox(refused)) => return Err(self.inbox().refusal_error(&refused)),
            None => return Err(self.link().down(during)),
        }
        // The transport may be on another connection already, of which the link has not heard yet.
        if self.link().is_live(epoch) && transports(self.nats()) == epoch {
            Ok(())
        } else {
            Err(self.link().down(during))
        }
    }

    /// Waits for what was said ahead of an answer that has come; not where so little has come beside it, since `before`
    /// bytes had been received, that nothing was.
    async fn hear_out(&self, before: u64, quiet: u64) {
        let barrier = self.refusals().barrier();
        let received = received_bytes(self.nats());
        if received.saturating_sub(before) > quiet {
            barrier.pass(self.nats()).await;
        } else if before <= barrier.proven() {
            barrier.prove(received);
        }
    }

    /// Sent again while nothing comes back: the transport's queue of refusals is bounded, and drops what does not fit.
    async fn message_to_self(&self, mut waiter: Waiter, subject: String) -> Option<Reply> {
        let subject = async_nats::Subject::from(subject);
        let mut pause = AGAIN;
        loop {
            tokio::select! {
                biased;
                // While there is no room for it: the connection may drop.
                answer = &mut waiter => return answer,
                sent = self.nats().publish(subject.clone(), Bytes::new()) => sent.ok()?,
            }
            if let Ok(answer) = timeout(pause, &mut waiter).await {
                return answer;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
