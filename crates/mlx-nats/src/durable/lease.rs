//! A worker's hold on one request: kept while the worker prepares, settled behind the first frame, given back otherwise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::{StatusCode, Subject};
use bytes::Bytes;
use tokio::time::sleep;

use crate::client::Client;
use crate::stream::OutgoingStream;
use crate::telemetry::log_limit::LogLimit;
use crate::wire::Headers;

const ACKNOWLEDGED: Bytes = Bytes::from_static(b"+ACK");
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");
const ENDED: Bytes = Bytes::from_static(b"+TERM");
const GIVEN_BACK: Bytes = Bytes::from_static(b"-NAK");

/// Signs of life within the time after which the server gives the request to another worker.
const SIGNS_OF_LIFE: u32 = 3;
/// Attempts to have an acknowledgement confirmed. After them the request may be run a second time.
const ATTEMPTS: u32 = 5;

/// Requests that could not be acknowledged.
static UNACKNOWLEDGED: LogLimit = LogLimit::new();

/// One delivery of a request. Dropped before it is settled, it gives the request back at once.
#[derive(Debug)]
pub(super) struct Lease {
    client: Client,
    subject: Subject,
    interval: Duration,
    settled: AtomicBool,
}

impl Lease {
    /// The delivery that is acknowledged on `subject`, by a worker that may be silent for `ack_wait`.
    pub(super) fn new(client: Client, subject: Subject, ack_wait: Duration) -> Self {
        Self { client, subject, interval: ack_wait / SIGNS_OF_LIFE, settled: AtomicBool::new(false) }
    }

    /// Says that the worker is at it until the answer begins, and acknowledges then. Returns only when it cannot be
    /// known whether the beginning of the answer reached the server: the request has to begin again then.
    pub(super) async fn keep(&self, stream: &OutgoingStream) {
        let epoch = loop {
            tokio::select! {
                biased;
                epoch = stream.until_begun() => break epoch,
                // A heartbeat is a matter of time alone.
                () = sleep(self.interval) => self.say(IN_PROGRESS).await,
            }
        };
        if self.settle_behind(epoch).await {
            std::future::pending::<()>().await;
        }
    }

    /// Acknowledges what was sent on the connection of `epoch`, once the server has it. False when it may not have it.
    pub(super) async fn settle_behind(&self, epoch: u64) -> bool {
        if self.is_settled() {
            return true;
        }
        // The acknowledgement must not arrive where the frame before it did not.
        let arrived = self.client.round_trip("the beginning of an answer", self.client.request_timeout()).await;
        if arrived.is_err() || !self.client.link().is_live(epoch) {
            return false;
        }
        self.settle().await;
        true
    }

    /// Takes the request out of the queue, for good.
    pub(super) async fn settle(&self) {
        for _ in 0..ATTEMPTS {
            let confirmed = self
                .client
                .one_answer(&self.subject, Headers::new(), ACKNOWLEDGED, self.client.request_timeout())
                .await;
            match confirmed {
                // The consumer has no leader now, or is being made again: nobody took it.
                Ok(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                    tracing::debug!("nobody takes an acknowledgement yet");
                }
                Ok(_) => return self.settled.store(true, Ordering::Relaxed),
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "not acknowledged yet"),
            }
            sleep(self.interval).await; // the server may be on its way back, and until then there is nobody to ask
        }
        self.settled.store(true, Ordering::Relaxed);
        if let Some(so_far) = UNACKNOWLEDGED.count(Instant::now()) {
            tracing::warn!(so_far, "a request could not be acknowledged, and may be run a second time");
        }
    }

    /// Ends what its requester took back, and has taken out of the queue.
    pub(super) async fn end(&self) {
        self.settled.store(true, Ordering::Relaxed);
        self.say(ENDED).await;
    }

    /// Leaves the request to an earlier delivery that this worker is still at, or to a later one.
    pub(super) fn leave_alone(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Whether the request has left the queue, or is another's now.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    async fn say(&self, what: Bytes) {
        // What cannot be said while the connection is down, the server notices by the silence.
        if let Err(error) = self.client.send(self.subject.clone(), None, None, what).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a delivery could not be kept or given back");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_settled() {
            return;
        }
        let (client, subject) = (self.client.clone(), self.subject.clone());
        self.client.runtime().spawn(async move {
            if client.send(subject, None, None, GIVEN_BACK).await.is_err() {
                tracing::debug!(
                    "a request could not be given back; another worker gets it after the wait for this one"
                );
            }
        });
    }
}
