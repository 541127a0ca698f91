//! The answering side of token streams: one service for a worker's requests and their cancellations.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode, ErrorKind, Result};
use mlx_types::messages::{CancelMode, FinishReason, InferenceAcceptance, InferenceCancel, InferenceRequest, Message};
use mlx_types::{Epoch, RequestId, WorkerId, subjects};

use super::TokenSink;
use super::accepts::Accepts;
use super::incarnation::{Incarnation, Presence};
use super::outgoing::OutgoingStream;
use super::running::Running;
use crate::client::Client;
use crate::connection::AbortOnDrop;
use crate::pubsub::Subscription;
use crate::rpc::{Begin, EndpointSpec, Permit, answer_error, deadline, isolated};
use crate::rpc::{ServeOptions, Service};
use crate::telemetry::log_limit::LogLimit;
use crate::wire::address::SubscribeTo;
use crate::wire::{Headers, codec, headers};

/// Ends of streams that could not be sent.
static UNSENT: LogLimit = LogLimit::new();

/// Streams that lost their connection.
static CUT_OFF: LogLimit = LogLimit::new();

/// Streams that ended with an error.
static FAILED: LogLimit = LogLimit::new();

/// Refusals that could not be sent.
static UNTOLD: LogLimit = LogLimit::new();

/// How to serve inference.
///
/// ```
/// use mlx_nats::InferenceOptions;
///
/// let options = InferenceOptions::default().max_concurrent(4); // what the model server takes at once
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InferenceOptions {
    /// Requests answered at once; further ones are refused as `OVERLOADED`. 4 by default.
    pub max_concurrent: usize,
}

mlx_errors::setters! {
    InferenceOptions {
        max_concurrent: set usize,
    }
}

impl Default for InferenceOptions {
    fn default() -> Self {
        Self { max_concurrent: 4 }
    }
}

impl Client {
    /// Serves `worker.{workerId}.inference`: `handler` gets a request and a sink for its tokens, and returns why it
    /// stopped, or an error.
    ///
    /// The service accepts or refuses in the requester's inbox, passes cancellations to the sink, and sends the one
    /// frame that ends each stream.
    ///
    /// ```no_run
    /// use mlx_nats::InferenceOptions;
    /// use mlx_types::messages::FinishReason;
    ///
    /// # async fn example(client: mlx_nats::Client, worker_id: mlx_types::WorkerId) -> mlx_nats::Result<()> {
    /// let service = client
    ///     .serve_inference(worker_id, InferenceOptions::default(), |request, mut tokens| async move {
    ///         for word in request.prompt.split_inclusive(' ') {
    ///             tokens.send(word).await?; // fails once the requester has cancelled
    ///         }
    ///         Ok(FinishReason::Stop)
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
    pub async fn serve_inference<H, F>(
        &self,
        worker_id: WorkerId,
        options: InferenceOptions,
        handler: H,
    ) -> Result<InferenceService>
    where
        H: Fn(InferenceRequest, TokenSink) -> F + Send + Sync + 'static,
        F: Future<Output = Result<FinishReason>> + Send + 'static,
    {
        // In the case in which the worker tells its id.
        let worker_id = worker_id.in_lower_case();
        let running = Arc::new(Running::default());
        let own = Incarnation::now();
        let presence = Presence::begin(self, worker_id, own).await?;
        let cancellations = self.subscribe(&subjects::worker_cancel(worker_id)).await?;
        let canceller = self.runtime().spawn(pass_on(cancellations, Arc::clone(&running)));
        let canceller = AbortOnDrop(canceller.abort_handle());

        let also_running = Arc::clone(&running);
        let (client, handler) = (self.clone(), Arc::new(handler));
        let answer = move |message: async_nats::Message, permit: Permit| {
            let (client, handler, running) = (client.clone(), Arc::clone(&handler), Arc::clone(&running));
            async move {
                match answer(&client, worker_id, own, &running, permit, &message, handler.as_ref()).await {
                    Ok(ended) => ended,
                    Err(error) => {
                        refuse(&client, &running, message, &error).await;
                        Err(error)
                    }
                }
            }
        };
        let client = self.clone();
        let overloaded = move |message, error| {
            let (client, running) = (client.clone(), Arc::clone(&also_running));
            async move { refuse(&client, &running, message, &error).await }
        };
        let subject = subjects::worker_inference(worker_id);
        let subject = SubscribeTo::<InferenceRequest>::name(&&subject).for_subscribe()?;
        let spec = EndpointSpec {
            subject,
            name: "inference".to_owned(),
            metadata: BTreeMap::from([("workerId".to_owned(), worker_id.to_string())]),
            begin: Begin::Spawned,
            options: ServeOptions::default().max_concurrent(options.max_concurrent),
        };
        let mut service = self.run_service(spec, answer, overloaded).await?;
        if let Some(presence) = &presence {
            service.stop_when(self, presence.replaced(worker_id));
        }
        Ok(InferenceService { service, epoch: own.epoch, _canceller: canceller, _presence: presence })
    }
}

/// A running inference service. Dropping it ends it and its streams at once; [`stop`](Self::stop) lets them finish.
#[must_use = "dropping the service ends it and its streams at once: keep it for as long as it is to answer"]
#[derive(Debug)]
pub struct InferenceService {
    service: Service,
    epoch: Epoch,
    _canceller: AbortOnDrop,
    /// Kept until the last stream has ended, so that a draining worker still answers.
    _presence: Option<Presence>,
}

impl InferenceService {
    #[cfg(feature = "durable")]
    pub(crate) fn new(service: Service, canceller: AbortOnDrop) -> Self {
        Self { service, epoch: Epoch::now(), _canceller: canceller, _presence: None }
    }

    /// Its incarnation: when it began, which its acceptances and frames tell, and its worker's heartbeats should.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Resolves when the service ends by itself: when its client is closed, or, with the error, when the server takes its
    /// subscription away.
    ///
    /// ```no_run
    /// # async fn example(mut service: mlx_nats::InferenceService) -> mlx_nats::Result<()> {
    /// service.ended().await?; // only when the server took a subscription away, or the client is closed
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Subscription`], which names the permission that is missing; told once.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn ended(&mut self) -> Result<()> {
        self.service.ended().await
    }

    /// Takes no more requests, and waits up to `timeout` for the streams under way.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when some did not end in time; they are dropped.
    ///
    /// # Cancel safety
    /// Dropping the future drops the service: the streams under way end with it.
    pub async fn stop(self, timeout: Duration) -> Result<()> {
        self.service.stop(timeout).await
    }
}

/// Answers one request. An error is one from before the acceptance: the caller refuses with it. The value is how the
/// stream ended after it.
async fn answer<H, F>(
    client: &Client,
    worker_id: WorkerId,
    own: Incarnation,
    running: &Arc<Running>,
    permit: Permit,
    message: &async_nats::Message,
    handler: &H,
) -> Result<Result<()>>
where
    H: Fn(InferenceRequest, TokenSink) -> F,
    F: Future<Output = Result<FinishReason>>,
{
    deadline(message)?;
    let request = codec::decode(&message.subject, &message.payload, InferenceRequest::check)?;
    let request_id = request.request_id;
    let accepts = Accepts::of(message);
    let stream = OutgoingStream::new(client.clone(), request_id, accepts);
    // Only for requesters that read more than the plain frames, which stay as they always were.
    let stream = if accepts.epochs { stream.of(own.epoch) } else { stream };
    let stream = Arc::new(stream.asked_by(message.reply.as_ref()));
    let entry = running.enter(request_id, &stream)?;
    if let Some(reply) = &message.reply {
        let acceptance = InferenceAcceptance::new(request_id, worker_id);
        let json = codec::encode(reply, &acceptance, InferenceAcceptance::check)?;
        let mut headers = Headers::new();
        headers.set(headers::EPOCH, own.epoch.to_string())?;
        client.send(reply.clone(), None, Some(headers), json).await?;
    }
    let sink = TokenSink::new(Arc::clone(&stream));
    let ended = if stream.cancel_mode().is_some() {
        Err(stream.cancelled_error()) // before it was begun
    } else {
        tokio::select! {
            // The handler first: while it makes tokens without waiting, they gather into one frame.
            biased;
            ended = isolated(message, async { handler(request, sink).await }) => ended,
            // A killed handler is dropped where it stands, whatever it is waiting for.
            () = stream.killed() => return Ok(Ok(())),
            () = stream.interrupted() => Err(stream.disconnected_error()),
            refused = stream.refused() => Err(refused),
            never = stream.pump() => match never {},
        }
    };
    drop((entry, permit));
    // On an error the client is closed, or the server silent; the requester finds out by its own timeouts.
    if let Err(error) = finish(&stream, &ended).await
        && let Some(so_far) = UNSENT.count(Instant::now())
    {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(%request_id, error, so_far, "the end of a stream could not be sent");
    }
    Ok(match ended {
        // What the requester wants is no failure of ours.
        Err(error) if error.code() != ErrorCode::StreamCancelled => Err(error),
        _ => Ok(()),
    })
}

/// Sends the one frame that ends a stream, or none if the requester wants to hear no more, and sees to it that it
/// arrives: where the connection drops meanwhile, another one says so on the next connection. A requester that has had
/// its end all the same no longer listens then.
pub(crate) async fn finish(stream: &OutgoingStream, ended: &Result<FinishReason>) -> Result<()> {
    if stream.cancel_mode() == Some(CancelMode::Kill) {
        return Ok(()); // killed while it was returning
    }
    if ended.as_ref().is_err_and(is_disconnection) {
        if let Some(so_far) = CUT_OFF.count(Instant::now()) {
            tracing::warn!(so_far, "a stream lost its connection");
        }
        return stream.disconnected().await;
    }
    let sent = send_end(stream, ended).await;
    let arrived = if sent.is_ok() { stream.arrived().await } else { sent };
    match arrived {
        Err(error) if is_disconnection(&error) => stream.disconnected().await,
        arrived => arrived,
    }
}

/// Sends the one frame that ends a stream.
pub(crate) async fn send_end(stream: &OutgoingStream, ended: &Result<FinishReason>) -> Result<()> {
    match (ended, stream.cancel_mode()) {
        (Ok(reason), _) => stream.done(reason.clone()).await,
        (Err(error), Some(CancelMode::Stop)) if error.code() == ErrorCode::StreamCancelled => {
            stream.done(FinishReason::Cancelled).await
        }
        (Err(error), _) => {
            if let Some(so_far) = FAILED.count(Instant::now()) {
                tracing::warn!(error = error as &dyn std::error::Error, so_far, "a stream ended with an error");
            }
            stream.failed(error).await
        }
    }
}

/// Whether an error is that of our own connection, which a handler may also have passed on.
pub(crate) fn is_disconnection(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Disconnected { .. } | ErrorKind::StreamDisconnected { .. })
}

/// Refuses a request where its requester listens: in its inbox, or, without one, on the stream itself.
async fn refuse(client: &Client, running: &Running, message: async_nats::Message, error: &Error) {
    tracing::debug!(subject = %message.subject, error = error as &dyn std::error::Error, "refused a request");
    // The connection may be back already: then its drop is told as it is of a stream that had begun.
    let dropped = is_disconnection(error).then(|| Error::new(ErrorKind::StreamDisconnected { tokens: 0 }));
    let error = dropped.as_ref().unwrap_or(error);
    if let Some(reply) = message.reply {
        return answer_error(client, reply, error).await;
    }
    let Ok(asked) = serde_json::from_slice::<Asked>(&message.payload) else { return };
    if running.has(asked.request_id) {
        return; // the same request once more: an error would end the stream that answers it
    }
    let stream = OutgoingStream::new(client.clone(), asked.request_id, Accepts::default()).asked_by(None);
    // On a task of its own, since a requester without a reply inbox may not listen yet, and others wait behind it.
    let remote = Error::from(error.to_remote());
    client.runtime().spawn(async move {
        if let Err(error) = stream.failed(&remote).await
            && let Some(so_far) = UNTOLD.count(Instant::now())
        {
            tracing::warn!(error = &error as &dyn std::error::Error, so_far, "a refusal could not be sent");
        }
    });
}

/// The request's id, read leniently: a request that is invalid otherwise may still have it.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    request_id: RequestId,
}

pub(crate) async fn pass_on(mut cancellations: Subscription<InferenceCancel>, running: Arc<Running>) {
    let limit = LogLimit::new();
    while let Some(cancellation) = cancellations.next().await {
        match cancellation {
            Ok(cancel) => {
                let mark = cancel.header(headers::REPLY).map(Arc::from);
                running.cancel(cancel.request_id, cancel.mode, mark, Instant::now());
            }
            Err(error) if matches!(error.kind(), ErrorKind::Subscription { .. }) => {
                tracing::error!(error = &error as &dyn std::error::Error, "no cancellations are heard any more");
            }
            Err(error) => {
                if let Some(so_far) = limit.count(Instant::now()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, so_far, "ignored a malformed cancellation");
                }
            }
        }
    }
}
