//! Which process a worker is: answers when somebody asks for a sign of life, and finds out about a second worker with the
//! same id, for example a machine that was restored from another one's backup.
//!
//! Both listen on one subject of their id. Each says there from time to time when it began, and the one that hears of a
//! newer one asks it to say so again: only a worker that is there can, so that a word that is left over, or made up, takes
//! nobody out. Then the older one stops taking requests.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::{Epoch, WorkerId, subjects};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::Client;
use crate::client::Inner;
use crate::connection::AbortOnDrop;
use crate::pubsub::{RawSubscription, SubscribeOptions};
use crate::telemetry::log_limit::LogLimit;
use crate::wire::codec;

/// How often a worker says which one it is; that of its start comes at once, and so does one after a reconnection.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(10);

/// At most one answer to an older one in this time.
const ANSWER_INTERVAL: Duration = Duration::from_millis(200);

/// One service of one worker, told from every other of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Incarnation {
    /// When it began.
    pub(crate) epoch: Epoch,
    /// Decides between two that began in the same millisecond.
    run: u64,
}

impl Incarnation {
    /// One that begins now: no other of this process has the same epoch.
    pub(crate) fn now() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let now = Epoch::now().as_millis();
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        let epoch = Epoch::from_millis(now.max(last.map_or(0, |last| last + 1)));
        // Within what every JSON reader takes for a whole number.
        Self { epoch, run: fastrand::u64(..1 << 53) }
    }
}

/// Listens under the worker's id, until it is dropped.
#[derive(Debug)]
pub(crate) struct Presence {
    newer: watch::Receiver<Option<Incarnation>>,
    _task: AbortOnDrop,
}

impl Presence {
    /// Begins to listen. Where the server does not let this worker, it serves all the same, and nobody asks it: nothing.
    pub(crate) async fn begin(client: &Client, worker_id: WorkerId, own: Incarnation) -> Result<Option<Self>> {
        let subject = async_nats::Subject::from(subjects::worker_ping(worker_id));
        let questions = match client.subscribe_confirmed(subject, &SubscribeOptions::default()).await {
            Ok(questions) => questions,
            Err(error) if matches!(error.kind(), ErrorKind::Subscription { .. }) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "nobody can ask this worker for a sign of life, nor tell it of another one with its id"
                );
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (tell, newer) = watch::channel(None);
        let inner = Arc::downgrade(&client.inner);
        let task = client.runtime().spawn(listen(inner, worker_id, own, questions, tell));
        Ok(Some(Self { newer, _task: AbortOnDrop(task.abort_handle()) }))
    }

    /// The error of the older of two, as soon as this is known to be it.
    pub(crate) fn replaced(&self, worker_id: WorkerId) -> impl Future<Output = Error> + Send + 'static {
        let mut newer = self.newer.clone();
        async move {
            if newer.wait_for(Option::is_some).await.is_err() {
                return std::future::pending().await;
            }
            Error::new(ErrorKind::DuplicateWorker { worker: worker_id.to_string() })
        }
    }
}

async fn listen(
    client: std::sync::Weak<Inner>,
    worker_id: WorkerId,
    own: Incarnation,
    mut questions: RawSubscription,
    tell: watch::Sender<Option<Incarnation>>,
) {
    let subject = questions.subject.clone();
    let announcement = codec::encode::<Incarnation>(&subject, &own, |_| Ok(())).unwrap_or_default();
    let mut announce = interval(ANNOUNCE_INTERVAL);
    announce.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(mut state) = client.upgrade().map(|inner| Client { inner }.watch_state()) else { return };
    let (mut answered, limit) = (None::<Instant>, LogLimit::new());
    let mut heard = None::<Incarnation>;
    loop {
        let send = {
            let message = pin!(questions.next());
            tokio::select! {
                message = message => {
                    let Some(message) = message else { return };
                    match (message.reply, serde_json::from_slice::<Incarnation>(&message.payload)) {
                        (Some(reply), _) => Some((reply, announcement.clone())),
                        (None, Ok(other)) if other > own && heard != Some(other) => {
                            heard = Some(other);
                            Some((subject.clone(), announcement.clone()))
                        }
                        (None, Ok(other)) if other > own => {
                            if tell.send_if_modified(|newer| newer.replace(other).is_none()) {
                                tracing::error!(
                                    %worker_id,
                                    own_epoch = own.epoch.as_millis(),
                                    other_epoch = other.epoch.as_millis(),
                                    "another worker has the same id and began later: this one takes no more requests. Give \
                                     each machine a worker id of its own, and do not copy the file that holds it"
                                );
                            }
                            None
                        }
                        (None, Ok(other)) if other < own => {
                            if let Some(so_far) = limit.count(Instant::now()) {
                                tracing::warn!(%worker_id, so_far, "another worker has the same id and began earlier: it is told to stop");
                            }
                            // It may have missed what this one has said.
                            let due = answered.is_none_or(|last| last.elapsed() >= ANSWER_INTERVAL);
                            due.then(|| {
                                answered = Some(Instant::now());
                                (subject.clone(), announcement.clone())
                            })
                        }
                        // Our own words, or none that this version knows.
                        (None, _) => None,
                    }
                }
                _ = announce.tick() => Some((subject.clone(), announcement.clone())),
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    state.borrow_and_update().is_connected().then(|| (subject.clone(), announcement.clone()))
                }
            }
        };
        let Some((to, payload)) = send else { continue };
        let Some(client) = client.upgrade().map(|inner| Client { inner }) else { return };
        if let Err(error) = client.send(to, None, None, payload).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a sign of life could not be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w2_of_any_two_incarnations_one_is_older() {
        let (first, second) = (Incarnation::now(), Incarnation::now());
        assert!(first.epoch < second.epoch && first < second);
        let twin = Incarnation { run: first.run + 1, ..first };
        assert!(first < twin);
        let json = serde_json::to_string(&first).unwrap();
        assert_eq!(serde_json::from_str::<Incarnation>(&json).unwrap(), first);
    }
}
