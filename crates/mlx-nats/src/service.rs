//! Services: handlers that answer requests, many at once, up to a limit.

use std::future::Future;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{FutureExt, StreamExt};
use mlx_errors::{Error, ErrorCode, ErrorKind, RemoteError, Result, Violations};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::address::RequestTo;
use crate::measure::{self, ServiceMeasure};
use crate::subscribe::{ChangeKind, RawSubscription, SubscribeOptions};
use crate::trace::Span;
use crate::{Client, Headers, codec, headers};

/// Requests that a service handles at once, unless set otherwise.
const DEFAULT_LIMIT: usize = 64;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Requests handled at once; further ones are answered `OVERLOADED` straight away. 64 by default.
    pub limit: usize,
    /// The queue group: each request goes to one member of it. Unset by default: every server answers.
    pub queue_group: Option<String>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, queue_group: None }
    }
}

/// A request as its handler sees it: the payload, to which it dereferences, and what came with it.
#[derive(Debug)]
pub struct Request<Q> {
    /// The decoded payload.
    pub payload: Q,
    deadline: Option<SystemTime>,
}

impl<Q> Request<Q> {
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
    /// ```no_run
    /// use mlx_types::messages::{HealthCheck, HealthReport, WorkerStatus};
    /// use mlx_types::{Timestamp, WorkerId, subjects};
    ///
    /// # async fn example(client: mlx_nats::Client, worker_id: WorkerId) -> mlx_nats::Result<()> {
    /// let service = client
    ///     .serve(&subjects::HEALTH_CHECK, move |check: mlx_nats::Request<HealthCheck>| async move {
    ///         Ok(HealthReport {
    ///             worker_id,
    ///             request_id: Some(check.request_id),
    ///             status: WorkerStatus::Online,
    ///             metrics: None,
    ///             timestamp: Timestamp::now(),
    ///         })
    ///     })
    ///     .await?;
    /// # service.stop(std::time::Duration::from_secs(5)).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`subscribe`](Client::subscribe).
    pub async fn serve<S, Q, R, H, F>(&self, to: S, handler: H) -> Result<Service>
    where
        S: RequestTo<Q, R>,
        Q: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        H: Fn(Request<Q>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
    {
        self.serve_with(to, ServeOptions::default(), handler).await
    }

    /// [`serve`](Client::serve) with options.
    pub async fn serve_with<S, Q, R, H, F>(&self, to: S, options: ServeOptions, handler: H) -> Result<Service>
    where
        S: RequestTo<Q, R>,
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
        let answer = move |message: async_nats::Message| {
            let client = client.clone();
            let handler = Arc::clone(&handler);
            async move {
                let answer = isolated(&message, async {
                    let deadline = deadline(&message)?;
                    let payload = codec::decode(&message.subject, &message.payload, check_request)?;
                    let reply = handler(Request { payload, deadline }).await?;
                    codec::encode(&message.subject, &reply, check_reply)
                });
                let sent = match (answer.await, message.reply.clone()) {
                    (Ok(json), Some(reply)) => client.send(reply, None, None, json).await,
                    (Ok(_), None) => Ok(()),
                    (Err(error), _) => Err(error),
                };
                if let Err(error) = sent {
                    refuse(&client, message, error).await;
                }
            }
        };
        let client = self.clone();
        let overloaded = move |message, error| {
            let client = client.clone();
            async move { refuse(&client, message, error).await }
        };
        self.run_service(subject, options, answer, overloaded).await
    }

    /// Runs `handle` for each message, at most `options.limit` at once, and `refuse` for those beyond.
    pub(crate) async fn run_service<H, F, E, G>(
        &self,
        subject: async_nats::Subject,
        options: ServeOptions,
        handle: H,
        refuse: E,
    ) -> Result<Service>
    where
        H: Fn(async_nats::Message) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
        E: Fn(async_nats::Message, Error) -> G + Send + Sync + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        let shared = SubscribeOptions { queue_group: options.queue_group, capacity: None };
        let subscription = self.subscribe_raw(subject.clone(), &shared).await?;
        self.confirm(&subscription).await?;
        let (stop, stopped) = mpsc::channel(1);
        let measure = ServiceMeasure::new(&subject);
        let task = self.runtime().spawn(dispatch(subscription, measure, options.limit, handle, refuse, stopped));
        Ok(Service { subject: subject.to_string(), stop, task: Some(task) })
    }
}

/// A running service. Dropping it ends it at once; [`stop`](Self::stop) lets what runs finish.
#[derive(Debug)]
pub struct Service {
    subject: String,
    stop: mpsc::Sender<()>,
    task: Option<JoinHandle<()>>,
}

impl Service {
    /// The subject served.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Takes no more requests, and waits up to `deadline` for those under way.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when some did not finish in time; they are dropped.
    pub async fn stop(mut self, deadline: Duration) -> Result<()> {
        let _ = self.stop.send(()).await;
        let Some(mut task) = self.task.take() else { return Ok(()) };
        if timeout(deadline, &mut task).await.is_ok() {
            return Ok(());
        }
        task.abort();
        let subject = format!("handlers on {}", self.subject);
        Err(Error::new(ErrorKind::Timeout { subject, timeout: deadline }))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn dispatch<H, F, E, G>(
    mut subscription: RawSubscription,
    measure: ServiceMeasure,
    limit: usize,
    handle: H,
    refuse: E,
    mut stopped: mpsc::Receiver<()>,
) where
    H: Fn(async_nats::Message) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
    E: Fn(async_nats::Message, Error) -> G + Send + Sync + 'static,
    G: Future<Output = ()> + Send + 'static,
{
    // Dropping the set, when the service is dropped, ends the handlers in it.
    let mut running = JoinSet::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            // Finished handlers first, so that their places are free for the next message.
            biased;
            Some(finished) = running.join_next(), if !running.is_empty() => drop(finished),
            _ = stopped.recv(), if !stopping => {
                stopping = true;
                // What the server sent before it saw this is still handled: the stream ends behind it.
                if subscription.apply(ChangeKind::Drain).await.is_err() {
                    break;
                }
            }
            message = subscription.next() => match message {
                None => break,
                Some(message) if running.len() < limit => drop(running.spawn(measure.handling(handle(message)))),
                Some(message) => refuse(message, Error::new(ErrorKind::Overloaded { limit })).await,
            }
        }
    }
    while running.join_next().await.is_some() {}
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

async fn refuse(client: &Client, message: async_nats::Message, error: Error) {
    let Some(reply) = message.reply else {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(subject = %message.subject, error, "a request without a reply inbox failed");
        return;
    };
    answer_error(client, reply, &error).await;
}

/// Answers with an error: our code and the NATS services' headers, and a body that a TypeScript node reads too.
pub(crate) async fn answer_error(client: &Client, reply: async_nats::Subject, error: &Error) {
    measure::refused(error);
    let remote = error.to_remote();
    tracing::debug!(code = remote.code(), error = error as &dyn std::error::Error, "answering with an error");
    let sent = match error_headers(&remote) {
        Ok(headers) => {
            let json = serde_json::to_vec(&remote).unwrap_or_default();
            client.send(reply, None, Some(headers), json.into()).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::warn!(error = &error as &dyn std::error::Error, "an error could not be answered");
    }
}

fn error_headers(remote: &RemoteError) -> Result<Headers> {
    let mut headers = Headers::new();
    // A header is one line; a message may be more.
    let line = remote.message().split(['\r', '\n']).next().unwrap_or_default();
    headers.set(headers::SERVICE_ERROR, line)?;
    headers.set(headers::SERVICE_ERROR_CODE, numeric_code(remote.known_code()).to_string())?;
    headers.set(headers::ERROR_CODE, remote.code())?;
    Ok(headers)
}

/// The nearest HTTP status, which is what other NATS services put there.
fn numeric_code(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::MessageDecode | ErrorCode::MessageValidation | ErrorCode::SubjectInvalid => 400,
        ErrorCode::NatsPayloadTooLarge => 413,
        ErrorCode::Overloaded => 429,
        ErrorCode::NatsNoResponders | ErrorCode::NatsDisconnected | ErrorCode::WorkerLost => 503,
        ErrorCode::DeadlineExceeded | ErrorCode::NatsTimeout => 504,
        _ => 500,
    }
}

/// The deadline of a request, or the error that it has passed. A header that is none is as good as absent.
pub(crate) fn deadline(message: &async_nats::Message) -> Result<Option<SystemTime>> {
    let millis = headers::first(message, headers::DEADLINE).and_then(|text| text.parse().ok());
    let Some(deadline) = millis.and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis))) else {
        return Ok(None);
    };
    if deadline <= SystemTime::now() {
        return Err(Error::new(ErrorKind::DeadlineExceeded { subject: message.subject.to_string() }));
    }
    Ok(Some(deadline))
}
