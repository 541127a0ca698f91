//! A subscription of the transport, undecoded.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use mlx_errors::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::SubscribeOptions;
use crate::client::Client;
use crate::connection::{Link, Waits, Watch, received_bytes};
use crate::telemetry::measure::Measure;
use crate::wire::control_line;

impl Client {
    /// A subscription on its way to the server: in order with what this client publishes after it, but not confirmed.
    pub(crate) async fn subscribe_raw(
        &self,
        subject: async_nats::Subject,
        options: &SubscribeOptions,
    ) -> Result<RawSubscription> {
        self.begin_subscription(subject, options, Waits::Nobody).await
    }

    /// A subscription that the server has.
    pub(crate) async fn subscribe_confirmed(
        &self,
        subject: async_nats::Subject,
        options: &SubscribeOptions,
    ) -> Result<RawSubscription> {
        {
            let _beside_others = self.refusals().turn.read().await;
            if let Some(made) = self.try_subscription(&subject, options).await {
                return made;
            }
        }
        // Boxed for being rare, as every future around it would be as large.
        Box::pin(self.subscribe_alone(subject, options)).await
    }

    /// The same, where a limit was met while several were being made, and the server did not say by which, or where its word
    /// may have been lost among many: alone, and as often as it takes, it is plain.
    async fn subscribe_alone(
        &self,
        subject: async_nats::Subject,
        options: &SubscribeOptions,
    ) -> Result<RawSubscription> {
        let (began, limit) = (Instant::now(), self.request_timeout());
        let _alone = self.refusals().turn.write().await;
        loop {
            if let Some(made) = self.try_subscription(&subject, options).await {
                return made;
            }
            if began.elapsed() >= limit {
                let subject = format!("subscribe to `{subject}`");
                return Err(Error::new(ErrorKind::Timeout { subject, timeout: limit }));
            }
        }
    }

    /// Makes a subscription and hears what the server has to say to it; nothing, when that is not clear.
    async fn try_subscription(
        &self,
        subject: &async_nats::Subject,
        options: &SubscribeOptions,
    ) -> Option<Result<RawSubscription>> {
        let barrier = self.refusals().barrier();
        let (heard_before, received_before) = (barrier.heard(), received_bytes(self.nats()));
        let subscription = match self.begin_subscription(subject.clone(), options, Waits::Call).await {
            Ok(subscription) => subscription,
            Err(error) => return Some(Err(error)),
        };
        let during = format!("subscribe to `{subject}`");
        let heard = tokio::select! {
            heard = self.hear_since(received_before, &during, self.request_timeout()) => heard,
            _ = subscription.watch.until_refused() => Ok(()),
        };
        if subscription.watch.is_ambiguous() {
            return None;
        }
        // The refusal says more than a round trip that failed.
        if let Some(refused) = subscription.refused() {
            return Some(Err(refused));
        }
        if heard.is_ok() && barrier.may_have_missed(heard_before) {
            return None;
        }
        Some(heard.map(|()| {
            subscription.watch.settle();
            subscription
        }))
    }

    async fn begin_subscription(
        &self,
        subject: async_nats::Subject,
        options: &SubscribeOptions,
        waits: Waits,
    ) -> Result<RawSubscription> {
        let during = || format!("subscribe to `{subject}`");
        let epoch = self.link().live(during)?;
        let group = options.queue_group.clone();
        control_line::check_subscribe(&subject, group.as_deref())?;
        let watch = self.refusals().subscription(subject.clone(), group.clone(), waits);
        let making = async {
            match group {
                Some(group) => self.nats().queue_subscribe(subject.clone(), group).await,
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
                let settled = waits == Waits::Call; // by the call
                Ok(RawSubscription { subject, subscriber: Some(subscriber), watch, settled, measure, runtime })
            }
            // The transport ended between our look at the state and now.
            Err(_) if self.link().is_closed() => Err(self.link().down(&during())),
            Err(error) => Err(Error::new(ErrorKind::Subscription {
                subject: subject.to_string(),
                reason: error.kind().to_string(),
            })),
        }
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

    /// Something shows that the server has it.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if !self.settled {
            self.settled = true;
            self.watch.settle();
        }
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
        // The caller may no longer wait.
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
            self.settle();
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
