//! Subscriptions: typed messages as a stream, made when the server has them.

mod chunks;
mod queue;
mod raw;
mod received;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::{FutureExt, Stream, StreamExt};
use mlx_errors::{Error, ErrorKind, Result, Violations};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::chunks::Chunks;
use self::queue::{Found, Queue, weight};
use self::raw::Change;
pub(crate) use self::raw::{ChangeKind, RawSubscription};
pub use self::received::Received;
use crate::client::Client;
use crate::connection::AbortOnDrop;
use crate::telemetry::log_limit::LogLimit;
use crate::wire::address::SubscribeTo;
use crate::wire::codec;

/// Handlers that panicked.
static PANICS: LogLimit = LogLimit::new();

/// Bytes that a reader decodes before other tasks have their turn.
const DECODED_AT_ONCE: usize = 256 * 1024;

/// Bytes that a reader takes before it says so.
const BOOKED_AT_ONCE: usize = 64 * 1024;

/// How to subscribe. The default is a subscription of its own with the client's capacity.
///
/// ```
/// use mlx_nats::SubscribeOptions;
///
/// // One of the group gets each message, and a slow reader is held 1,000 of them.
/// let options = SubscribeOptions::default().queue_group("billing").capacity(1_000);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// The queue group: each message goes to one member of it.
    pub queue_group: Option<String>,
    /// Messages held for a slow reader; further ones are dropped, counted and reported. Unset:
    /// [`ClientOptions::subscription_capacity`](crate::ClientOptions::subscription_capacity).
    pub capacity: Option<usize>,
    /// Bytes of payloads held for a slow reader, beside the count; a single larger message is still held. Unset:
    /// [`ClientOptions::subscription_bytes`](crate::ClientOptions::subscription_bytes).
    pub max_bytes: Option<usize>,
}

mlx_errors::setters! {
    SubscribeOptions {
        queue_group: text,
        capacity: option usize,
        max_bytes: option usize,
    }
}

impl Client {
    /// Subscribes, and returns once the server has the subscription: what anyone publishes after that is delivered.
    ///
    /// Survives reconnections; what is published in between is missed. In a cluster of servers, the one that this
    /// client is connected to has it; its news reaches the other servers a moment later.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let mut messages = client.subscribe::<_, String>("lab.*").await?;
    /// while let Some(message) = messages.next().await {
    ///     let message = message?;
    ///     println!("{} on {}", *message, message.subject());
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```no_run
    /// use mlx_nats::SubscribeOptions;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// // One of all that read by this name gets each message.
    /// let options = SubscribeOptions::default().queue_group("billing");
    /// let messages = client.subscribe_with::<_, String>("lab.test", options).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`subscribe`](Client::subscribe).
    ///
    /// # Cancel safety
    /// As [`subscribe`](Client::subscribe).
    pub async fn subscribe_with<S, M>(&self, to: S, options: SubscribeOptions) -> Result<Subscription<M>>
    where
        S: SubscribeTo<M>,
        M: DeserializeOwned,
    {
        let subject = to.name().for_subscribe()?;
        let raw = self.subscribe_confirmed(subject.clone(), &options).await?;
        let capacity = options.capacity.unwrap_or(self.options().subscription_capacity);
        let max_bytes = options.max_bytes.unwrap_or(self.options().subscription_bytes);
        let queue = Arc::new(Queue::new(capacity.max(1), max_bytes));
        let forwarder = self.runtime().spawn(queue::forward(raw, Arc::clone(&queue), Arc::clone(self.link())));
        Ok(Subscription {
            client: Some(self.clone()),
            subject,
            queue,
            own: Chunks::default(),
            dropped: 0,
            reported: 0,
            decoded: 0,
            unbooked: 0,
            _forwarder: AbortOnDrop(forwarder.abort_handle()),
            check: S::check,
            payload: PhantomData,
        })
    }

    /// Subscribes, and runs `handler` for each message, one after another, on a task of its own.
    ///
    /// For those who prefer a callback; a loop over [`subscribe`](Client::subscribe) does the same. The task ends with
    /// the subscription, and when the handle returned is aborted; dropping the handle lets it run. A handler that panics is
    /// logged, and the next message is handled.
    ///
    /// ```no_run
    /// use mlx_types::subjects;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// client
    ///     .on_message(&subjects::WORKER_HEARTBEAT, |beat| async move {
    ///         match beat {
    ///             Ok(beat) => println!("{} is alive", beat.worker_id),
    ///             Err(error) => println!("{error}"),
    ///         }
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`subscribe`](Client::subscribe).
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    pub async fn on_message<S, M, H, F>(&self, to: S, mut handler: H) -> Result<JoinHandle<()>>
    where
        S: SubscribeTo<M>,
        M: DeserializeOwned + Send + 'static,
        H: FnMut(Result<Received<M>>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut subscription = self.subscribe(to).await?;
        Ok(self.runtime().spawn(async move {
            while let Some(message) = subscription.next().await {
                // Nothing of ours is shared with a handler, so nothing of ours can be left half changed.
                let outcome = AssertUnwindSafe(async { handler(message).await }).catch_unwind();
                if outcome.await.is_err()
                    && let Some(so_far) = PANICS.count(Instant::now())
                {
                    tracing::error!(subject = subscription.subject(), so_far, "a message handler panicked");
                }
            }
        }))
    }
}

/// The messages of one subscription, as a [`Stream`]. Dropping it unsubscribes.
///
/// Two things come as error items, after which the stream goes on: a message that does not decode or breaks a rule of
/// its type, and [`ErrorKind::SlowConsumer`] at the place where messages were dropped because this reader was too
/// slow. The stream ends when the client is closed, and after what the methods below say.
///
/// Dropping the future of `next` loses no message.
///
/// ```no_run
/// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
/// use futures_util::StreamExt;
///
/// let mut subscription = client.subscribe::<_, String>("lab.>").await?;
/// while let Some(message) = subscription.next().await {
///     match message {
///         Ok(message) => println!("{}: {}", message.subject(), message.payload),
///         Err(error) => eprintln!("{error}"), // one message that cannot be read; the next may be fine
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a subscription ends it: keep it, and read from it"]
pub struct Subscription<M> {
    /// Keeps the connection; unset for subscriptions that belong to the client itself.
    client: Option<Client>,
    subject: async_nats::Subject,
    queue: Arc<Queue>,
    /// Taken from the queue in one go, so that the lock is not needed for each message.
    own: Chunks<async_nats::Message>,
    /// Drops known when `own` was taken, and how many of them have been reported.
    dropped: u64,
    reported: u64,
    /// Bytes decoded since this task last let others have their turn.
    decoded: usize,
    /// Bytes read that still count as waiting.
    unbooked: usize,
    _forwarder: AbortOnDrop,
    check: fn(&M) -> Result<(), Violations>,
    payload: PhantomData<fn() -> M>,
}

impl<M> Subscription<M> {
    /// The subject subscribed to.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Messages dropped so far because this reader was too slow.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Ends the subscription. What has arrived already can still be read, and then the stream ends.
    ///
    /// ```no_run
    /// # async fn example(mut subscription: mlx_nats::Subscription<String>) -> mlx_nats::Result<()> {
    /// subscription.unsubscribe().await?;
    /// assert_eq!(subscription.dropped(), 0); // it can still be asked about itself
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Subscription`] when the connection has ended for good.
    ///
    /// # Cancel safety
    /// When the future is dropped, the change may still be made.
    pub async fn unsubscribe(&mut self) -> Result<()> {
        self.change(ChangeKind::Unsubscribe).await
    }

    /// Ends the subscription after `count` messages in all, those already received included.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let mut messages = client.subscribe::<_, String>("lab.test").await?;
    /// messages.unsubscribe_after(2).await?;
    /// let both: Vec<_> = messages.collect().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Subscription`] when the connection has ended for good.
    ///
    /// # Cancel safety
    /// When the future is dropped, the change may still be made.
    pub async fn unsubscribe_after(&mut self, count: u64) -> Result<()> {
        self.change(ChangeKind::UnsubscribeAfter(count)).await
    }

    /// Ends the subscription at the server, and then, behind what has been read from the connection by then, the stream.
    ///
    /// On a quiet connection that is all that the server sent before it saw this. On a busy one async-nats does not wait for
    /// the server to have seen it, so that what is sent meanwhile, for less than a round trip, may be missed.
    ///
    /// ```no_run
    /// # async fn example(mut subscription: mlx_nats::Subscription<String>) -> mlx_nats::Result<()> {
    /// use futures_util::StreamExt;
    ///
    /// subscription.drain().await?; // no more comes, and what has come can be read
    /// while let Some(message) = subscription.next().await {
    ///     println!("{}", message?.payload);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Subscription`] when the connection has ended for good.
    ///
    /// # Cancel safety
    /// When the future is dropped, the change may still be made.
    pub async fn drain(&mut self) -> Result<()> {
        self.change(ChangeKind::Drain).await
    }

    /// The same, for a part of the client itself, which must not keep its own connection open.
    pub(crate) fn without_client(mut self) -> Self {
        self.client = None;
        self
    }

    async fn change(&mut self, kind: ChangeKind) -> Result<()> {
        let (done, applied) = oneshot::channel();
        self.queue.ask(Change { kind, done });
        // No answer means that it has ended, which is what was asked for.
        applied.await.unwrap_or(Ok(()))
    }
}

impl<M: DeserializeOwned> Stream for Subscription<M> {
    type Item = Result<Received<M>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            // Large messages take long to decode, and others wait for this thread.
            if this.decoded >= DECODED_AT_ONCE {
                this.decoded = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(message) = this.own.pop_front() {
                this.decoded = this.decoded.saturating_add(message.payload.len());
                this.unbooked += weight(&message);
                // Not for each message: the count is shared with the task that moves them.
                if this.unbooked >= BOOKED_AT_ONCE || this.own.is_empty() {
                    this.queue.read(std::mem::take(&mut this.unbooked));
                }
                let decoded = codec::decode(&message.subject, &message.payload, this.check);
                return Poll::Ready(Some(decoded.map(|payload| Received { payload, message })));
            }
            // Behind the last message that fitted is where the others are missing.
            if this.dropped > this.reported {
                this.reported = this.dropped;
                let (subject, dropped) = (this.subject.to_string(), this.dropped);
                return Poll::Ready(Some(Err(Error::new(ErrorKind::SlowConsumer { subject, dropped }))));
            }
            match ready!(this.queue.poll_take(&mut this.own, &mut this.dropped, context)) {
                Found::Messages => {}
                Found::Closed if this.dropped > this.reported => {}
                Found::Closed => return Poll::Ready(this.queue.take_refused().map(Err)),
            }
        }
    }
}

impl<M> fmt::Debug for Subscription<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("subject", &self.subject())
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
