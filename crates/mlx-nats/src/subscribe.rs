//! Subscriptions: typed messages as a stream, made when the server has them.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use mlx_errors::{Error, ErrorKind, Result, Violations};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::address::SubscribeTo;
use crate::{Client, codec, headers};

/// How to subscribe. The default is neither shared nor limited in time.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    /// The queue group: each message goes to one member of it.
    pub queue_group: Option<String>,
}

impl Client {
    /// Subscribes, and returns once the server has the subscription: what anyone publishes after that is delivered.
    ///
    /// Survives reconnections; what is published in between is missed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSubject`], [`ErrorKind::Disconnected`], or [`ErrorKind::Timeout`] when the server does not
    /// confirm within `requestTimeoutMs`.
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    pub async fn subscribe<S, M>(&self, to: S) -> Result<Subscription<M>>
    where
        S: SubscribeTo<M>,
        M: DeserializeOwned,
    {
        self.subscribe_with(to, SubscribeOptions::default()).await
    }

    /// [`subscribe`](Client::subscribe) with options.
    pub async fn subscribe_with<S, M>(&self, to: S, options: SubscribeOptions) -> Result<Subscription<M>>
    where
        S: SubscribeTo<M>,
        M: DeserializeOwned,
    {
        let subject = to.name().for_subscribe()?;
        let raw = self.subscribe_raw(subject, options).await?;
        self.confirm(&raw).await?;
        Ok(Subscription { raw, check: S::check, payload: PhantomData })
    }

    /// A subscription on its way to the server: in order with what this client publishes after it, but not confirmed.
    pub(crate) async fn subscribe_raw(
        &self,
        subject: async_nats::Subject,
        options: SubscribeOptions,
    ) -> Result<RawSubscription> {
        self.link().live(|| format!("subscribe to `{subject}`"))?;
        let made = match options.queue_group {
            Some(group) => self.nats().queue_subscribe(subject.clone(), group).await,
            None => self.nats().subscribe(subject.clone()).await,
        };
        match made {
            Ok(subscriber) => {
                Ok(RawSubscription { subject, subscriber: Some(subscriber), runtime: self.runtime().clone() })
            }
            Err(error) => Err(Error::new(ErrorKind::Subscription {
                subject: subject.to_string(),
                reason: error.kind().to_string(),
            })),
        }
    }

    /// A round trip behind the subscription on the same connection: the server handles both in order.
    pub(crate) async fn confirm(&self, subscription: &RawSubscription) -> Result<()> {
        let during = format!("subscribe to `{}`", subscription.subject);
        self.round_trip(&during, self.request_timeout()).await
    }
}

/// The messages of one subscription, as a [`Stream`]. Dropping it unsubscribes.
///
/// A message that does not decode, or breaks a rule of its type, is one error item; the stream goes on. It ends when
/// the client is closed or [`unsubscribe`](Self::unsubscribe) was called.
pub struct Subscription<M> {
    raw: RawSubscription,
    check: fn(&M) -> Result<(), Violations>,
    payload: PhantomData<fn() -> M>,
}

impl<M> Subscription<M> {
    /// The subject subscribed to.
    pub fn subject(&self) -> &str {
        &self.raw.subject
    }

    /// Takes no further messages. What has been delivered already can still be read.
    pub async fn unsubscribe(&mut self) -> Result<()> {
        self.raw.unsubscribe().await
    }
}

impl<M: DeserializeOwned> Stream for Subscription<M> {
    type Item = Result<Received<M>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        Pin::new(&mut this.raw).poll_next(context).map(|message| {
            let message = message?;
            Some(
                codec::decode(&message.subject, &message.payload, this.check)
                    .map(|payload| Received { payload, message }),
            )
        })
    }
}

impl<M> fmt::Debug for Subscription<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("subject", &self.subject()).finish_non_exhaustive()
    }
}

/// A received message: its payload, to which it dereferences, and what came with it.
pub struct Received<M> {
    /// The decoded payload.
    pub payload: M,
    message: async_nats::Message,
}

impl<M> Received<M> {
    /// The subject that it was published on.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Where an answer is expected, if one is.
    pub fn reply(&self) -> Option<&str> {
        self.message.reply.as_deref()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        headers::first(&self.message, name)
    }

    /// The payload alone.
    pub fn into_payload(self) -> M {
        self.payload
    }
}

impl<M> Deref for Received<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.payload
    }
}

impl<M: fmt::Debug> fmt::Debug for Received<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("subject", &self.subject())
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}

/// Undecoded messages of one subscription.
pub(crate) struct RawSubscription {
    pub(crate) subject: async_nats::Subject,
    /// Taken only by `Drop`.
    subscriber: Option<async_nats::Subscriber>,
    runtime: Handle,
}

impl RawSubscription {
    pub(crate) async fn unsubscribe(&mut self) -> Result<()> {
        let Some(subscriber) = &mut self.subscriber else { return Ok(()) };
        subscriber.unsubscribe().await.map_err(|error| {
            Error::new(ErrorKind::Subscription { subject: self.subject.to_string(), reason: error.to_string() })
        })
    }
}

impl Stream for RawSubscription {
    type Item = async_nats::Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.subscriber {
            Some(subscriber) => Pin::new(subscriber).poll_next(context),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for RawSubscription {
    fn drop(&mut self) {
        // async-nats unsubscribes by a task of its own when its queue is full, and needs a runtime for that.
        let _runtime = self.runtime.enter();
        self.subscriber = None;
    }
}
