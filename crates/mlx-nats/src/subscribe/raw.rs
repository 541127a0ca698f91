//! A subscription of the transport, undecoded.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use mlx_errors::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::SubscribeOptions;
use crate::Client;
use crate::connection::{Link, Watch, received_bytes};
use crate::measure::Measure;

impl Client {
    /// A subscription on its way to the server: in order with what this client publishes after it, but not confirmed.
    pub(crate) async fn subscribe_raw(
        &self,
        subject: async_nats::Subject,
        options: &SubscribeOptions,
    ) -> Result<RawSubscription> {
        let during = || format!("subscribe to `{subject}`");
        let epoch = self.link().live(during)?;
        let (watch, received_before) = (self.refusals().subscription(subject.clone()), received_bytes(self.nats()));
        let making = async {
            match &options.queue_group {
                Some(group) => self.nats().queue_subscribe(subject.clone(), group.clone()).await,
                None => self.nats().subscribe(subject.clone()).await,
            }
        };
        let made = tokio::select! {
            biased;
            made = making => made,
            () = self.link().lost(epoch) => return Err(self.link().down(&during())),
        };
        match made {
            Ok(subscriber) => {
                let (measure, runtime) = (self.measure().clone(), self.runtime().clone());
                Ok(RawSubscription {
                    subject,
                    subscriber: Some(subscriber),
                    watch,
                    settled: false,
                    received_before,
                    measure,
                    runtime,
                })
            }
            // The transport ended between our look at the state and now.
            Err(_) if self.link().is_closed() => Err(self.link().down(&during())),
            Err(error) => Err(Error::new(ErrorKind::Subscription {
                subject: subject.to_string(),
                reason: error.kind().to_string(),
            })),
        }
    }

    /// A round trip behind the subscription on the same connection: the server handles both in order.
    pub(crate) async fn confirm(&self, subscription: &RawSubscription) -> Result<()> {
        let during = format!("subscribe to `{}`", subscription.subject);
        let answered = self.round_trip_since(subscription.received_before, &during, self.request_timeout()).await;
        // The refusal says more than a round trip that failed, and comes before the answer of one that did not.
        match subscription.refused() {
            Some(refused) => Err(refused),
            None => answered.inspect(|()| subscription.watch.settle()),
        }
    }

    /// A subscription that the server has.
    pub(crate) async fn subscribe_confirmed(
        &self,
        subject: async_nats::Subject,
        options: &SubscribeOptions,
    ) -> Result<RawSubscription> {
        let subscription = self.subscribe_raw(subject.clone(), options).await?;
        let error = match self.confirm(&subscription).await {
            Ok(()) => return Ok(subscription),
            Err(error) => error,
        };
        if !subscription.watch.is_ambiguous() {
            return Err(error);
        }
        // A limit was reached while several were being made, and the server does not say by which: alone, it is plain.
        drop(subscription);
        let _turn = self.refusals().turn.lock().await;
        let subscription = self.subscribe_raw(subject, options).await?;
        self.confirm(&subscription).await?;
        Ok(subscription)
    }
}

/// Undecoded messages of one subscription. Dropping it unsubscribes.
pub(crate) struct RawSubscription {
    pub(crate) subject: async_nats::Subject,
    /// Taken only by `Drop`.
    subscriber: Option<async_nats::Subscriber>,
    /// Hears of it when the server refuses the subscription, or takes it away.
    watch: Watch,
    /// Something has come, so that the server has it.
    settled: bool,
    /// Bytes that the connection had received when it was made.
    received_before: u64,
    measure: Measure,
    runtime: Handle,
}

/// A change to a subscription that another task reads.
#[derive(Debug)]
pub(crate) struct Change {
    pub(super) kind: ChangeKind,
    pub(super) done: oneshot::Sender<Result<()>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ChangeKind {
    /// No further messages; what the transport holds already is still read.
    Unsubscribe,
    /// No further messages after so many in all.
    UnsubscribeAfter(u64),
    /// No further messages from the server; what has been read from the connection by then is still delivered.
    Drain,
}

impl RawSubscription {
    /// Why the subscription has ended, where the server ended it.
    pub(crate) fn refused(&self) -> Option<Error> {
        self.watch.refused().map(|refused| refused.subscription(&self.subject))
    }

    /// The error of a call whose answers ended with this subscription.
    pub(crate) fn end(&self, during: &str, link: &Link) -> Error {
        self.refused().unwrap_or_else(|| link.down(during))
    }

    pub(crate) async fn apply(&mut self, kind: ChangeKind) -> Result<()> {
        let Some(subscriber) = &mut self.subscriber else { return Ok(()) };
        let applied = match kind {
            ChangeKind::Unsubscribe => subscriber.unsubscribe().await,
            ChangeKind::UnsubscribeAfter(count) => subscriber.unsubscribe_after(count).await,
            ChangeKind::Drain => subscriber.drain().await,
        };
        applied.map_err(|_| {
            let reason = "the connection has ended".to_owned();
            Error::new(ErrorKind::Subscription { subject: self.subject.to_string(), reason })
        })
    }

    pub(super) async fn change(&mut self, change: Change) {
        let applied = self.apply(change.kind).await;
        // Whoever asked may have lost interest.
        let _ = change.done.send(applied);
    }
}

impl Stream for RawSubscription {
    type Item = async_nats::Message;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(subscriber) = &mut self.subscriber else { return Poll::Ready(None) };
        let Poll::Ready(message) = Pin::new(subscriber).poll_next(context) else {
            // Behind what has come: it was allowed then.
            return if self.watch.poll_refused(context).is_some() { Poll::Ready(None) } else { Poll::Pending };
        };
        if let Some(message) = &message {
            self.measure.received(message);
            if !self.settled {
                self.settled = true;
                self.watch.settle();
            }
        }
        Poll::Ready(message)
    }
}

impl Drop for RawSubscription {
    fn drop(&mut self) {
        // async-nats unsubscribes by a task of its own when its queue is full, and needs a runtime for that.
        let _runtime = self.runtime.enter();
        self.subscriber = None;
    }
}
