//! Services: handlers that answer requests, many at once, up to a limit.

mod answer;
mod run;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use mlx_errors::{Error, ErrorKind, Result, Violations};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::answer::answer_error;
use self::answer::refuse;
pub use self::run::Service;
pub(crate) use self::run::{Begin, EndpointSpec, Permit};
use crate::client::Client;
use crate::telemetry::trace::Span;
use crate::wire::address::ServeTo;
use crate::wire::{Headers, codec, headers};

/// Requests that a service handles at once, unless set otherwise.
const DEFAULT_MAX_CONCURRENT: usize = 64;

/// How to serve.
///
/// ```
/// use mlx_nats::ServeOptions;
///
/// // At most two requests at once, shared with the others of the group, and not shown by `nats micro`.
/// let options = ServeOptions::default().max_concurrent(2).queue_group("sums").discoverable(false);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Requests handled at once; further ones are answered `OVERLOADED` straight away. 64 by default.
    pub max_concurrent: usize,
    /// The queue group: each request goes to one member of it. Unset by default: every server answers.
    pub queue_group: Option<String>,
    /// List the service for `nats micro` and the like, where the client does that at all (see
    /// [`Discovery`](crate::Discovery)). True by default.
    pub discoverable: bool,
}

mlx_errors::setters! {
    ServeOptions {
        max_concurrent: set usize,
        queue_group: text,
        discoverable: set bool,
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { max_concurrent: DEFAULT_MAX_CONCURRENT, queue_group: None, discoverable: true }
    }
}

/// A request as its handler sees it: the payload, to which it dereferences, and what came with it.
///
/// ```no_run
/// use mlx_nats::{Request, Result};
///
/// async fn answer(numbers: Request<Vec<u64>>) -> Result<u64> {
///     println!("{} numbers, and {:?} left for them", numbers.len(), numbers.time_left());
///     Ok(numbers.payload.into_iter().sum())
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Request<Q> {
    /// The decoded payload.
    pub payload: Q,
    subject: async_nats::Subject,
    headers: Headers,
    deadline: Option<SystemTime>,
}

impl<Q> Request<Q> {
    /// The subject that it came on, which a service on a wildcard is told nowhere else.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What came with it.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// How long the requester will still wait, where it said so.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

impl<Q> Deref for Request<Q> {
    type Target = Q;

    fn deref(&self) -> &Q {
        &self.payload
    }
}

impl Client {
    /// Answers requests with `handler`, many at once.
    ///
    /// An error of the handler travels as its public message and code; sources stay here and are logged. A handler
    /// that panics answers `INTERNAL_ERROR`, and the service goes on. The service runs until the handle returned is
    /// stopped or dropped.
    ///
    /// A handler begins on the task of the service, and gets one of its own where it first waits. One that computes for
    /// long without waiting holds up the requests behind it until then: let it do so by `tokio::task::spawn_blocking`.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let service = client.serve("lab.greet", |name: mlx_nats::Request<String>| async move { Ok(format!("hello {}", *name)) }).await?;
    /// # service.stop(std::time::Duration::from_secs(5)).await
    /// # }
    /// ```
    /// On a subject of the contract, requests and answers are held to their bounds:
    /// ```no_run
    /// use mlx_types::messages::{HealthCheck, HealthReport, WorkerStatus};
    /// use mlx_types::{WorkerId, subjects};
    ///
    /// # async fn example(client: mlx_nats::Client, worker_id: WorkerId) -> mlx_nats::Result<()> {
    /// let service = client
    ///     .serve(&subjects::HEALTH_CHECK, move |check: mlx_nats::Request<HealthCheck>| async move {
    ///         Ok(HealthReport::new(worker_id, WorkerStatus::Online).request_id(check.request_id))
    ///     })
    ///     .await?;
    /// # service.stop(std::time::Duration::from_secs(5)).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`subscribe`](Client::subscribe).
    ///
    /// # Cancel safety
    /// A dropped future leaves no service behind.
    pub async fn serve<S, Q, R, H, F>(&self, to: S, handler: H) -> Result<Service>
    where
        S: ServeTo<Q, R>,
        Q: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        H: Fn(Request<Q>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        self.serve_with(to, ServeOptions::default(), handler).await
    }

    /// [`serve`](Client::serve) with options.
    ///
    /// ```no_run
    /// use mlx_nats::{Request, ServeOptions};
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// // At most two at once here; what the queue group gives to others does not count.
    /// let options = ServeOptions::default().max_concurrent(2).queue_group("sums");
    /// let sum = |numbers: Request<Vec<u64>>| async move { Ok(numbers.iter().sum::<u64>()) };
    /// let service = client.serve_with("lab.sum", options, sum).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`subscribe`](Client::subscribe).
    ///
    /// # Cancel safety
    /// A dropped future leaves no service behind.
    pub async fn serve_with<S, Q, R, H, F>(&self, to: S, options: ServeOptions, handler: H) -> Result<Service>
    where
        S: ServeTo<Q, R>,
        Q: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        H: Fn(Request<Q>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let subject = to.name().for_subscribe()?;
        let client = self.clone();
        // As pointers, so that what is spawned does not carry the type of the address.
        let check_request: fn(&Q) -> Result<(), Violations> = S::check_request;
        let check_reply: fn(&R) -> Result<(), Violations> = S::check_reply;
        let handler = Arc::new(handler);
        let answer = move |message: async_nats::Message, permit: Permit| {
            let client = client.clone();
            let handler = Arc::clone(&handler);
            async move {
                let answer = isolated(&message, async {
                    let deadline = deadline(&message)?;
                    let payload = codec::decode(&message.subject, &message.payload, check_request)?;
                    let headers = message.headers.clone().map(Headers::from_transport).unwrap_or_default();
                    let subject = message.subject.clone();
                    let reply = handler(Request { payload, subject, headers, deadline }).await?;
                    codec::encode(&message.subject, &reply, check_reply)
                });
                let answer = answer.await;
                drop(permit);
                let sent = match (answer, message.reply.clone()) {
                    (Ok(json), Some(reply)) => client.send(reply, None, None, json).await,
                    (Ok(_), None) => Ok(()),
                    (Err(error), _) => Err(error),
                };
                if let Err(error) = &sent {
                    refuse(&client, message, error).await;
                }
                sent
            }
        };
        let client = self.clone();
        let overloaded = move |message, error| {
            let client = client.clone();
            async move { refuse(&client, message, &error).await }
        };
        let spec = EndpointSpec {
            name: subject.to_string(),
            subject,
            metadata: BTreeMap::new(),
            begin: Begin::Inline,
            options,
        };
        self.run_service(spec, answer, overloaded).await
    }
}

/// The handler's result; a panic is an error like another, and already in the log.
pub(crate) fn isolated<T>(
    message: &async_nats::Message,
    handler: impl Future<Output = Result<T>>,
) -> impl Future<Output = Result<T>> {
    // Nothing of ours is shared with a handler, so nothing of ours can be left half changed.
    let caught = AssertUnwindSafe(handler).catch_unwind().map(|result| {
        let panicked = |_| Err(Error::new(ErrorKind::Internal { reason: "a handler panicked".to_owned() }));
        result.unwrap_or_else(panicked)
    });
    Span::serve(message).around(caught)
}

/// The deadline of a request, or the error that it has passed, or that it is none.
pub(crate) fn deadline(message: &async_nats::Message) -> Result<Option<SystemTime>> {
    let Some(text) = headers::first(message, headers::DEADLINE) else { return Ok(None) };
    let millis = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let Some(deadline) = millis.and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis))) else {
        // Work for a deadline that nobody knows would be work for nobody.
        return Err(Error::new(ErrorKind::InvalidHeader {
            name: headers::DEADLINE.to_owned(),
            reason: "a deadline is a number of milliseconds since the Unix epoch".to_owned(),
        }));
    };
    if deadline <= SystemTime::now() {
        return Err(Error::new(ErrorKind::DeadlineExceeded { subject: message.subject.to_string() }));
    }
    Ok(Some(deadline))
}
