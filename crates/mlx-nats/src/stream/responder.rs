//! The answering side of token streams: one service for a worker's requests and their cancellations.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode, ErrorKind, Result};
use mlx_types::messages::{CancelMode, FinishReason, InferenceAcceptance, InferenceCancel, InferenceRequest, Message};
use mlx_types::{RequestId, WorkerId, subjects};

use super::sink::OutgoingStream;
use super::{TOKENS, TokenSink};
use crate::address::SubscribeTo;
use crate::service::{Begin, Offer, Place, answer_error, deadline, isolated};
use crate::task::AbortOnDrop;
use crate::{Client, ServeOptions, Service, Subscription, codec, headers};

/// How to serve inference.
#[derive(Clone, Debug)]
pub struct InferenceOptions {
    /// Requests answered at once; further ones are refused as `OVERLOADED`. 4 by default.
    pub max_concurrent: usize,
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
        let running = Arc::new(Running::default());
        let cancellations = self.subscribe(&subjects::worker_cancel(worker_id)).await?;
        let canceller = self.runtime().spawn(pass_on(cancellations, Arc::clone(&running)));
        let canceller = AbortOnDrop(canceller.abort_handle());

        let also_running = Arc::clone(&running);
        let (client, handler) = (self.clone(), Arc::new(handler));
        let answer = move |message: async_nats::Message, place: Place| {
            let (client, handler, running) = (client.clone(), Arc::clone(&handler), Arc::clone(&running));
            async move {
                match answer(&client, worker_id, &running, place, &message, handler.as_ref()).await {
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
        let offer = Offer {
            subject,
            name: "inference".to_owned(),
            metadata: BTreeMap::from([("workerId".to_owned(), worker_id.to_string())]),
            begin: Begin::Apart,
            options: ServeOptions { limit: options.max_concurrent, ..ServeOptions::default() },
        };
        let service = self.run_service(offer, answer, overloaded).await?;
        Ok(InferenceService { service, _canceller: canceller })
    }
}

/// A running inference service. Dropping it ends it and its streams at once; [`stop`](Self::stop) lets them finish.
#[derive(Debug)]
pub struct InferenceService {
    service: Service,
    _canceller: AbortOnDrop,
}

impl InferenceService {
    #[cfg(feature = "durable")]
    pub(crate) fn new(service: Service, canceller: AbortOnDrop) -> Self {
        Self { service, _canceller: canceller }
    }

    /// Resolves when the service ends by itself: when its client is closed, or, with the error, when the server takes its
    /// subscription away.
    ///
    /// # Errors
    /// [`ErrorKind::Subscription`], which names the permission that is missing; told once.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn ended(&mut self) -> Result<()> {
        self.service.ended().await
    }

    /// Takes no more requests, and waits up to `deadline` for the streams under way.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when some did not end in time; they are dropped.
    ///
    /// # Cancel safety
    /// Dropping the future drops the service: the streams under way end with it.
    pub async fn stop(self, deadline: Duration) -> Result<()> {
        self.service.stop(deadline).await
    }
}

/// Answers one request. An error is one from before the acceptance: the caller refuses with it. The value is how the
/// stream ended after it.
async fn answer<H, F>(
    client: &Client,
    worker_id: WorkerId,
    running: &Arc<Running>,
    place: Place,
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
    let coalesce = client.options().coalesce && offers_tokens(message);
    let stream = Arc::new(OutgoingStream::new(client.clone(), request_id, coalesce));
    let entry = running.enter(request_id, &stream)?;
    if let Some(reply) = &message.reply {
        let acceptance = InferenceAcceptance { request_id, worker_id };
        let json = codec::encode(reply, &acceptance, InferenceAcceptance::check)?;
        client.send(reply.clone(), None, None, json).await?;
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
    drop((entry, place));
    if let Err(error) = finish(&stream, &ended).await {
        // The client is closed, or the server silent; the requester finds out by its own timeouts.
        tracing::warn!(%request_id, error = &error as &dyn std::error::Error, "the end of a stream could not be sent");
    }
    Ok(match ended {
        // What the requester wants is no failure of ours.
        Err(error) if error.code() != ErrorCode::StreamCancelled => Err(error),
        _ => Ok(()),
    })
}

/// Whether the requester reads frames of several tokens.
pub(crate) fn offers_tokens(message: &async_nats::Message) -> bool {
    let accepted = headers::first(message, headers::ACCEPT).unwrap_or_default();
    accepted.split(',').any(|kind| kind.trim().eq_ignore_ascii_case(TOKENS))
}

/// Sends the one frame that ends a stream, or none if the requester wants to hear no more, and sees to it that it
/// arrives: where the connection drops meanwhile, another one says so on the next connection. A requester that has had
/// its end all the same no longer listens then.
pub(crate) async fn finish(stream: &OutgoingStream, ended: &Result<FinishReason>) -> Result<()> {
    if stream.cancel_mode() == Some(CancelMode::Kill) {
        return Ok(()); // killed while it was returning
    }
    if ended.as_ref().is_err_and(is_disconnection) {
        tracing::warn!("a stream lost its connection");
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
            tracing::warn!(error = error as &dyn std::error::Error, "a stream ended with an error");
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
    if let Some(reply) = message.reply {
        return answer_error(client, reply, error).await;
    }
    let Ok(asked) = serde_json::from_slice::<Asked>(&message.payload) else { return };
    if running.has(asked.request_id) {
        return; // the same request once more: an error would end the stream that answers it
    }
    if let Err(error) = OutgoingStream::new(client.clone(), asked.request_id, false).failed(error).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a refusal could not be sent");
    }
}

/// Who asks: read leniently, because a request that is invalid otherwise may still say that.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    request_id: RequestId,
}

/// Cancellations kept for requests that are not there yet.
const EARLY: usize = 4096;

/// How long: for the last few steps of a request inside this process. The id may be asked for again some day.
const EARLY_FOR: Duration = Duration::from_secs(2);

/// The streams under way, for their cancellations.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    streams: HashMap<RequestId, Arc<OutgoingStream>>,
    /// Of requests unknown so far. Requests and cancellations come by subscriptions of their own, so that a cancellation
    /// may overtake its request on the last few steps, inside this process.
    early: HashMap<RequestId, (CancelMode, Instant)>,
    /// The keys of `early` in the order they came, those taken since among them.
    early_order: VecDeque<RequestId>,
}

impl Running {
    /// Enters a stream, which may have been cancelled already.
    pub(crate) fn enter(self: &Arc<Self>, id: RequestId, stream: &Arc<OutgoingStream>) -> Result<Entry> {
        let mut table = self.lock();
        if table.streams.contains_key(&id) {
            return Err(Error::new(ErrorKind::DuplicateRequest { request: id.to_string() }));
        }
        if let Some((mode, came)) = table.early.remove(&id)
            && came.elapsed() < EARLY_FOR
        {
            stream.cancel(mode);
        }
        table.streams.insert(id, Arc::clone(stream));
        Ok(Entry { running: Arc::clone(self), id })
    }

    fn has(&self, id: RequestId) -> bool {
        self.lock().streams.contains_key(&id)
    }

    fn cancel(&self, id: RequestId, mode: CancelMode) {
        let mut table = self.lock();
        if let Some(stream) = table.streams.get(&id) {
            return stream.cancel(mode);
        }
        // Either early or for a stream that has ended; the latter stay until others take their place.
        if table.early.insert(id, (mode, Instant::now())).is_some() {
            return; // has its place in the order
        }
        table.early_order.push_back(id);
        if table.early_order.len() > EARLY
            && let Some(oldest) = table.early_order.pop_front()
        {
            table.early.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a stream from the table when its handler is done, or dropped.
pub(crate) struct Entry {
    running: Arc<Running>,
    id: RequestId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().streams.remove(&self.id);
    }
}

pub(crate) async fn pass_on(mut cancellations: Subscription<InferenceCancel>, running: Arc<Running>) {
    while let Some(cancellation) = cancellations.next().await {
        match cancellation {
            Ok(cancel) => running.cancel(cancel.request_id, cancel.mode),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "ignored a malformed cancellation");
            }
        }
    }
}
