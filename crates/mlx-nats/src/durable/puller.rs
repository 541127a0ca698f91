//! Pulling requests from a model's consumer, one at a time.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use mlx_errors::{Error, ErrorKind, Result};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::streams::Consumer;
use crate::client::Client;
use crate::pubsub::{RawSubscription, SubscribeOptions};

/// How much later than it should a pull may come back.
const LATE: Duration = Duration::from_secs(5);

/// A place for requests to come to: not the client's own inbox, as JetStream leaves them the subject that they came on.
pub(super) struct Puller {
    client: Client,
    inbox: RawSubscription,
    /// `_INBOX.<unique>.`, to which the number of a pull is appended.
    prefix: String,
    pulls: u64,
}

impl Puller {
    pub(super) async fn new(client: &Client) -> Result<Self> {
        let prefix = format!("{}.", client.nats().new_inbox());
        let inbox = client.subscribe_raw(format!("{prefix}*").into(), &SubscribeOptions::default()).await?;
        Ok(Self { client: client.clone(), inbox, prefix, pulls: 0 })
    }

    /// The next request, or nothing when none came within `expires`.
    pub(super) async fn pull(&mut self, consumer: &Consumer, expires: Duration) -> Result<Option<Message>> {
        let during = || "pulling requests".to_owned();
        let epoch = self.client.link().live(during)?;
        // What a pull that was given up brought after all. One more beside it would lie here without signs of life while
        // it is answered, and so would the next, from then on.
        while let Some(Some(message)) = self.inbox.next().now_or_never() {
            if message.status.is_none() {
                return Ok(Some(message));
            }
        }
        self.pulls += 1;
        let reply = format!("{}{}", self.prefix, self.pulls);
        let nanos = u64::try_from(expires.as_nanos()).unwrap_or(u64::MAX);
        let json = Bytes::from(json!({ "batch": 1, "expires": nanos }).to_string());
        let next = Subject::from(consumer.next.as_str());
        let watch = self.client.refusals().publisher(next.clone());
        self.client.send(next, Some(reply.clone()), None, json).await?;
        let answer = async {
            loop {
                tokio::select! {
                    biased;
                    message = self.inbox.next() => match message {
                        // One that an earlier pull asked for is as welcome; what became of that pull no longer matters.
                        Some(message) if message.status.is_some() && *message.subject != *reply => {}
                        Some(message) => return Ok(message),
                        None => return Err(self.inbox.end(&during(), self.client.link())),
                    },
                    refused = watch.until_refused() => return Err(refused.publish(&consumer.next)),
                    () = self.client.link().lost(epoch) => return Err(self.client.link().down(&during())),
                }
            }
        };
        let Ok(answer) = timeout(expires + LATE, answer).await else {
            return Err(Error::new(ErrorKind::Timeout { subject: consumer.next.clone(), timeout: expires + LATE }));
        };
        let message = answer?;
        match message.status {
            None => Ok(Some(message)),
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(Error::new(ErrorKind::JetStream {
                action: "hand out requests".to_owned(),
                reason: format!("{status} {}", message.description.unwrap_or_default()),
                hint: String::new(),
            })),
        }
    }
}

/// Dropping it, when the service is dropped, ends the pullers and what they run.
pub(super) async fn until_stopped(
    mut pullers: JoinSet<Result<()>>,
    stopping: watch::Sender<bool>,
    mut stops: mpsc::Receiver<()>,
) -> Result<()> {
    let (mut told, mut result) = (false, Ok(()));
    loop {
        tokio::select! {
            _ = stops.recv(), if !told => {
                told = true;
                stopping.send_replace(true);
            }
            ended = pullers.join_next() => match ended {
                None => return result,
                // One that may not pull: the others finish what is under way.
                Some(Ok(Err(error))) => {
                    result = Err(error);
                    stopping.send_replace(true);
                }
                Some(_) => {}
            },
        }
    }
}

/// Says once that pulling fails, and not with every attempt.
pub(super) fn report(subject: &str, error: &Error, again: bool) {
    let error = error as &dyn std::error::Error;
    if again {
        tracing::debug!(subject, error, "still cannot pull requests");
    } else {
        tracing::warn!(subject, error, "cannot pull requests; trying until it works again");
    }
}
