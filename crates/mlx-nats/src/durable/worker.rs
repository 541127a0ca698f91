//! The answering side: a worker pulls requests for the models that it has, while it has room.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Message;
use mlx_errors::{Error, ErrorCode, ErrorKind, Result};
use mlx_types::config::DurableConfig;
use mlx_types::messages::{CancelMode, FinishReason, InferenceRequest, Message as _};
use mlx_types::{RequestId, WorkerId, subjects};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::dead_letter;
use super::delivery::Delivery;
use super::lease::Lease;
use super::puller::{Puller, report, until_stopped};
use super::requester::is_waiting;
use super::streams::{self, Consumer};
use crate::client::Client;
use crate::connection::AbortOnDrop;
use crate::rpc::Service;
use crate::rpc::{deadline, isolated};
use crate::stream::{Accepts, Entry, Marks, OutgoingStream, Running, finish, is_disconnection, pass_on, send_end};
use crate::stream::{InferenceOptions, InferenceService, TokenSink};
use crate::telemetry::log_limit::LogLimit;
use crate::wire::codec;

/// How long one pull waits at the server. Stopping a service waits as long: a pull that is taken back instead may just
/// have been given a request, which the next worker would get only after the wait for a silent one.
const PULL: Duration = Duration::from_millis(250);
/// The same where other models wait for the place that this pull holds.
const SHORT_PULL: Duration = Duration::from_millis(100);
/// Before a failed pull is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Messages that JetStream did not deliver.
static STRAY: LogLimit = LogLimit::new();

/// Requesters that could not be told that their request failed.
static UNTOLD: LogLimit = LogLimit::new();

/// Dead letters that could not be kept.
static UNKEPT: LogLimit = LogLimit::new();

/// Ends of streams that could not be sent.
static UNSENT: LogLimit = LogLimit::new();

impl Client {
    /// Answers requests for `models` that were asked with [`infer_durable`](Client::infer_durable), with a handler as
    /// [`serve_inference`](Client::serve_inference) takes. Both can be served beside each other.
    ///
    /// A request is pulled only while there is room for it. It stays in the queue until the first frame of its answer
    /// has reached the server: should this process die before, another worker gets it, and so may a handler run more
    /// than once for one request. A handler that fails or panics has answered, with an error. What was pulled and not
    /// begun when the service is dropped goes back into the queue at once.
    ///
    /// ```no_run
    /// use mlx_nats::InferenceOptions;
    /// use mlx_types::messages::FinishReason;
    ///
    /// # async fn example(client: mlx_nats::Client, worker_id: mlx_types::WorkerId) -> mlx_nats::Result<()> {
    /// let service = client
    ///     .serve_durable(worker_id, ["llama-3.2-1b"], InferenceOptions::default(), |request, mut tokens| async move {
    ///         tokens.send(request.prompt).await?;
    ///         Ok(FinishReason::Stop)
    ///     })
    ///     .await?;
    /// # service.stop(std::time::Duration::from_secs(5)).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::JetStream`] when JetStream is off or refuses the streams and consumers, [`ErrorKind::InvalidSubject`]
    /// for a model's id of some hundred characters, and those of [`subscribe`](Client::subscribe).
    pub async fn serve_durable<H, F>(
        &self,
        worker_id: WorkerId,
        models: impl IntoIterator<Item = impl AsRef<str>>,
        options: InferenceOptions,
        handler: H,
    ) -> Result<InferenceService>
    where
        H: Fn(InferenceRequest, TokenSink) -> F + Send + Sync + 'static,
        F: Future<Output = Result<FinishReason>> + Send + 'static,
    {
        let settings = streams::settings(self)?.clone();
        let running = Arc::new(Running::default());
        let cancellations = self.subscribe(&subjects::INFERENCE_CANCEL).await?;
        let canceller = self.runtime().spawn(pass_on(cancellations, Arc::clone(&running)));
        let canceller = AbortOnDrop(canceller.abort_handle());

        let worker = Arc::new(Worker {
            client: self.clone(),
            id: worker_id,
            settings,
            places: Arc::new(Semaphore::new(options.max_concurrent.min(Semaphore::MAX_PERMITS))),
            running,
            handler,
        });
        // All of them before the first pull, so that an error leaves nothing running.
        let mut queues = Vec::new();
        for model in models {
            let subject = subjects::inference_queue(model.as_ref())?.to_string();
            let consumer = worker.consumer(&subject).await?;
            queues.push(Source { puller: Puller::new(self).await?, consumer, subject });
        }
        let (stopping, stopped) = watch::channel(false);
        let mut pullers = JoinSet::new();
        let shared = queues.len() > 1;
        for queue in queues {
            pullers.spawn_on(Arc::clone(&worker).pull_all(queue, shared, stopped.clone()), self.runtime());
        }
        let (stop, stops) = mpsc::channel(1);
        let task = self.runtime().spawn(until_stopped(pullers, stopping, stops));
        let subject = subjects::ANY_INFERENCE_QUEUE.as_str().to_owned();
        Ok(InferenceService::new(Service::of(subject, stop, task), canceller))
    }
}

/// Where the requests for one model come from.
struct Source {
    puller: Puller,
    consumer: Consumer,
    subject: String,
}

struct Worker<H> {
    client: Client,
    id: WorkerId,
    settings: DurableConfig,
    places: Arc<Semaphore>,
    running: Arc<Running>,
    handler: H,
}

impl<H, F> Worker<H>
where
    H: Fn(InferenceRequest, TokenSink) -> F + Send + Sync + 'static,
    F: Future<Output = Result<FinishReason>> + Send + 'static,
{
    async fn consumer(&self, subject: &str) -> Result<Consumer> {
        streams::ensure(&self.client, &self.settings).await?;
        Consumer::ensure(&self.client, &self.settings, subject).await
    }

    /// Pulls the requests of one model until the service stops, or the server refuses to let it, and then waits for those under
    /// way.
    async fn pull_all(
        self: Arc<Self>,
        Source { mut puller, mut consumer, subject }: Source,
        shared: bool,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut answering = JoinSet::new();
        let (mut failing, mut result) = (false, Ok(()));
        loop {
            let place = tokio::select! {
                biased;
                // An error: the service is dropped, and this with it.
                _ = stopped.wait_for(|stopped| *stopped) => break,
                // First come, first served: no model keeps the others from a place.
                place = Arc::clone(&self.places).acquire_owned() => place,
            };
            let Ok(place) = place else { break }; // never closed
            while answering.try_join_next().is_some() {}
            match puller.pull(&consumer, self.patience(shared)).await {
                Ok(Some(message)) => {
                    failing = false;
                    answering.spawn(Arc::clone(&self).answer(message, consumer.ack_wait, place));
                }
                Ok(None) => failing = false,
                Err(error) if matches!(error.code(), ErrorCode::NatsPublish | ErrorCode::NatsSubscription) => {
                    tracing::error!(
                        subject,
                        error = &error as &dyn std::error::Error,
                        "this worker may not pull requests"
                    );
                    result = Err(error);
                    break;
                }
                Err(error) => {
                    drop(place);
                    report(&subject, &error, failing);
                    failing = true;
                    streams::forget(&self.client);
                    tokio::select! {
                        _ = stopped.wait_for(|stopped| *stopped) => break,
                        // Nothing tells when the server, or the consumer, is there again.
                        () = sleep(PAUSE) => {}
                    }
                    match self.consumer(&subject).await {
                        Ok(there) => consumer = there,
                        Err(error) => {
                            tracing::debug!(subject, error = &error as &dyn std::error::Error, "no consumer yet");
                        }
                    }
                }
            }
        }
        while answering.join_next().await.is_some() {}
        result
    }

    /// How long a pull may wait.
    fn patience(&self, shared: bool) -> Duration {
        if shared && self.places.available_permits() == 0 { SHORT_PULL } else { PULL }
    }

    /// Answers one delivery, in its place.
    async fn answer(self: Arc<Self>, message: Message, ack_wait: Duration, _place: OwnedSemaphorePermit) {
        let Some((subject, delivery)) =
            message.reply.clone().and_then(|reply| Delivery::parse(&reply).map(|delivery| (reply, delivery)))
        else {
            if let Some(so_far) = STRAY.count(Instant::now()) {
                tracing::warn!(subject = %message.subject, so_far, "ignored something that JetStream did not deliver");
            }
            return;
        };
        let lease = Lease::new(self.client.clone(), subject, ack_wait);
        let request = match codec::decode(&message.subject, &message.payload, InferenceRequest::check) {
            Ok(request) => request,
            Err(error) => return self.give_up(&message, delivery, &lease, asked(&message), error).await,
        };
        let request_id = request.request_id;
        if delivery.count > u64::from(self.settings.max_deliveries) {
            let cause = Error::new(ErrorKind::JetStream {
                action: "hand the request over".to_owned(),
                reason: "no worker lived, or stayed connected, until its first token".to_owned(),
                hint: String::new(),
            });
            return self.give_up(&message, delivery, &lease, Some(request_id), cause).await;
        }
        let accepts = Accepts::of(&message);
        if let Err(error) = deadline(&message) {
            let stream = self.stream(request_id, delivery, accepts);
            return end(&stream, &lease, stream.failed(&error).await).await;
        }
        match self.enter(request_id, delivery, accepts).await {
            Ok(Some((stream, _entry))) => self.run(&message, request, &stream, &lease).await,
            Ok(None) => {
                tracing::debug!(%request_id, "a request came again that this worker is still at");
                lease.leave_alone();
            }
            // The lease is dropped: if it still waits, it comes again.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(%request_id, error, "cannot tell whether a request was cancelled");
            }
        }
    }

    /// Enters a request among those under way; nothing when it is one of them already.
    ///
    /// A cancellation that came before it may have been for an earlier request of the same id, as all workers are told of
    /// each. The request that it was for has left the queue before anybody was told.
    async fn enter(
        &self,
        request_id: RequestId,
        delivery: Delivery,
        accepts: Accepts,
    ) -> Result<Option<(Arc<OutgoingStream>, Entry)>> {
        let enter = || {
            let stream = self.stream(request_id, delivery, accepts);
            self.running.enter(request_id, &stream).ok().map(|entry| (stream, entry))
        };
        let Some((mut stream, mut entry)) = enter() else { return Ok(None) };
        while stream.cancel_mode().is_some() {
            drop(entry);
            // Before the look, so that what comes after it finds a stream to cancel.
            let Some(uncancelled) = enter() else { return Ok(None) };
            if !is_waiting(&self.client, delivery.sequence).await? {
                return Ok(Some((stream, uncancelled.1)));
            }
            (stream, entry) = uncancelled;
        }
        Ok(Some((stream, entry)))
    }

    fn stream(&self, request_id: RequestId, delivery: Delivery, accepts: Accepts) -> Arc<OutgoingStream> {
        let stream = OutgoingStream::new(self.client.clone(), request_id, accepts);
        Arc::new(stream.marked(Marks::new(self.id, delivery.count)))
    }

    async fn run(&self, message: &Message, request: InferenceRequest, stream: &Arc<OutgoingStream>, lease: &Lease) {
        let request_id = request.request_id;
        let sink = TokenSink::new(Arc::clone(stream));
        let ended = if stream.cancel_mode().is_some() {
            Err(stream.cancelled_error()) // before it was begun
        } else {
            tokio::select! {
                // The handler first: while it makes tokens without waiting, they gather into one frame.
                biased;
                ended = isolated(message, async { (self.handler)(request, sink).await }) => ended,
                () = stream.killed() => return lease.end().await,
                never = stream.pump() => match never {},
                () = lease.keep(stream) => Err(stream.disconnected_error()),
                () = stream.interrupted() => Err(stream.disconnected_error()),
                refused = stream.refused() => Err(refused),
            }
        };
        if stream.cancel_mode() == Some(CancelMode::Kill) {
            return lease.end().await;
        }
        if lease.is_settled() {
            return said(finish(stream, &ended).await);
        }
        if ended.as_ref().is_err_and(is_disconnection) {
            // Its beginning may not have arrived. The lease is dropped, and the request begins again.
            return tracing::debug!(%request_id, "the connection dropped before the answer had begun for certain");
        }
        end(stream, lease, send_end(stream, &ended).await).await;
    }

    /// Keeps a request as a dead letter, and tells its requester.
    async fn give_up(
        &self,
        message: &Message,
        delivery: Delivery,
        lease: &Lease,
        request_id: Option<RequestId>,
        cause: Error,
    ) {
        match dead_letter::keep(&self.client, message, delivery, request_id, cause).await {
            Ok(told) => {
                if let Some(request_id) = request_id
                    && let Err(error) = self.stream(request_id, delivery, Accepts::default()).failed(&told).await
                    && let Some(so_far) = UNTOLD.count(Instant::now())
                {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%request_id, error, so_far, "a requester was not told");
                }
                lease.settle().await;
            }
            // It stays in the queue, and comes round again after the wait for a silent worker.
            Err(error) => {
                lease.leave_alone();
                if let Some(so_far) = UNKEPT.count(Instant::now()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, so_far, "a dead letter could not be kept yet");
                }
            }
        }
    }
}

/// The end of a delivery whose last frame was `sent`, or could not be.
async fn end(stream: &OutgoingStream, lease: &Lease, sent: Result<()>) {
    said(sent);
    if let Some(epoch) = stream.begun() {
        lease.settle_behind(epoch).await;
    }
}

fn said(end: Result<()>) {
    if let Err(error) = end
        && let Some(so_far) = UNSENT.count(Instant::now())
    {
        tracing::warn!(error = &error as &dyn std::error::Error, so_far, "the end of a stream could not be sent");
    }
}

/// The id of a request, read even from one that is invalid otherwise.
fn asked(message: &Message) -> Option<RequestId> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        request_id: RequestId,
    }
    serde_json::from_slice::<Asked>(&message.payload).ok().map(|asked| asked.request_id)
}
