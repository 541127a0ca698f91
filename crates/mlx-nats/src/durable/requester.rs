//! The asking side.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::ErrorCode as ApiCode;
use async_nats::jetstream::publish::PublishAck;
use mlx_errors::{Error, ErrorCode, ErrorKind, Result};
use mlx_types::messages::{CancelMode, FinishReason, InferenceCancel, InferenceRequest, Message, StreamingResponse};
use mlx_types::subjects;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::api::{self, ApiResponse};
use super::streams::{self, QUEUE};
use crate::client::Client;
use crate::pubsub::SubscribeOptions;
use crate::stream::{Accepts, Opening, Route, TokenStream};
use crate::telemetry::trace::Span;
use crate::wire::address::SubscribeTo;
use crate::wire::{Headers, codec, headers};

/// How to ask through the queue.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use mlx_nats::DurableOptions;
///
/// let options = DurableOptions::default().deadline(SystemTime::now() + Duration::from_secs(600));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DurableOptions {
    /// When the answer is no longer of use: a worker past it refuses. As long as the stream waits for its first token
    /// (`requestRouting.durable.firstTokenTimeoutMs`) where unset; a later one does not make it wait longer.
    pub deadline: Option<SystemTime>,
}

mlx_errors::setters! {
    DurableOptions {
        deadline: option SystemTime,
    }
}

impl Client {
    /// Asks whichever worker has the model, through JetStream, which keeps the request until its answer has begun.
    ///
    /// Returns once the request is kept. From then on it is answered at least once, or ends as a dead letter, whatever
    /// becomes of the workers, the connection or the server; what the stream brings is one answer, the first that
    /// begins. It ends as [`infer`](Client::infer)'s does, with a longer wait for the first token. Dropping the stream,
    /// [`stop`](TokenStream::stop) and [`kill`](TokenStream::kill) take a request out of the queue that waits there;
    /// a connection that drops does not.
    ///
    /// The id of the request tells it from others: asked again while it waits, also after a disconnection or by another
    /// process, it is one request, whose answer all of the askers get.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// # async fn example(client: mlx_nats::Client, request: mlx_types::messages::InferenceRequest) -> mlx_nats::Result<()> {
    /// let mut tokens = client.infer_durable(&request).await?;
    /// while let Some(frame) = tokens.next().await {
    ///     print!("{}", frame?.text);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Any worker of the model takes it from the queue, whatever it [accepts](mlx_types::messages::WorkerCapabilities::accepts): a
    /// request with `params`, or with messages that are more than texts, is for models all of whose workers read those.
    ///
    /// # Errors
    /// [`ErrorKind::JetStream`] when JetStream is off, or the queue full; [`ErrorKind::RequestTaken`] when a request of
    /// this id is no longer in the queue; those of [`publish`](Client::publish). After [`ErrorKind::Timeout`] or
    /// [`ErrorKind::Disconnected`] the request may have been kept: asking again with the same id is safe.
    ///
    /// # Cancel safety
    /// Dropping the future takes the request back, as far as it got.
    pub async fn infer_durable(&self, request: &InferenceRequest) -> Result<TokenStream> {
        self.infer_durable_with(request, DurableOptions::default()).await
    }

    /// [`infer_durable`](Client::infer_durable) with options.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client, request: mlx_types::messages::InferenceRequest) -> mlx_nats::Result<()> {
    /// use std::time::{Duration, SystemTime};
    /// use mlx_nats::DurableOptions;
    ///
    /// let by_tonight = DurableOptions::default().deadline(SystemTime::now() + Duration::from_secs(8 * 3600));
    /// let tokens = client.infer_durable_with(&request, by_tonight).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn infer_durable_with(&self, request: &InferenceRequest, options: DurableOptions) -> Result<TokenStream> {
        let settings = streams::settings(self)?;
        let subject = subjects::inference_queue(&request.model_id)?;
        let request_id = request.request_id.in_lower_case();
        let json = codec::encode(subject.as_str(), request, InferenceRequest::check)?;
        let (patience, mut headers) =
            self.patience_and_headers(request, settings.first_token_timeout_ms.into(), &options)?;
        let started = Instant::now();
        streams::ensure(self, settings).await?;
        let workers = self.workers().await?;

        // As for a plain request: the server knows of the subscription before it sees the request.
        let epoch = self.link().live(|| format!("inference on `{subject}`"))?;
        let response = subjects::response(request_id);
        let frames = SubscribeTo::<StreamingResponse>::name(&&response).for_subscribe()?;
        let frames = self.subscribe_raw(frames, &SubscribeOptions::default()).await?;
        let span = Span::infer(subject.as_str(), request_id);
        span.inject(&mut headers);
        let (client, to) = (self.clone(), async_nats::Subject::from(subject.as_str()));
        let (sender, kept) = oneshot::channel();
        // A task of its own, so that a request whose asker went away meanwhile is taken back rather than left there.
        self.runtime().spawn(async move {
            let kept = keep(&client, &to, headers, json).await;
            if let Err(Ok(unwanted)) = sender.send(kept) {
                let cancellation = InferenceCancel::new(request_id, CancelMode::Kill);
                if let Err(error) = cancel(&client, unwanted.sequence, &cancellation, false).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a request could not be taken back");
                }
            }
        });
        let gone = |_| Error::new(ErrorKind::Internal { reason: "the runtime is shutting down".to_owned() });
        let kept = kept.await.map_err(gone)??;
        if kept.duplicate && !is_waiting(self, kept.sequence).await? {
            return Err(Error::new(ErrorKind::RequestTaken { request: request_id.to_string() }));
        }
        Ok(TokenStream::open(Opening {
            mark: None,
            client: self.clone(),
            route: Route::Queue { sequence: kept.sequence, joined: kept.duplicate, cancel: cancel_boxed },
            request_id,
            subject: subject.to_string(),
            frames,
            acceptance: None,
            workers: Arc::new(workers),
            epoch,
            first_token_timeout: patience,
            inter_token_timeout: self.options().inter_token_timeout,
            time_left: None,
            started,
            span,
        }))
    }

    /// How long the first token is waited for, and what goes along with the request.
    fn patience_and_headers(
        &self,
        request: &InferenceRequest,
        timeout: Duration,
        options: &DurableOptions,
    ) -> Result<(Duration, Headers)> {
        let now = SystemTime::now();
        let deadline = options.deadline.unwrap_or_else(|| now + timeout);
        let Ok(left) = deadline.duration_since(now) else {
            let subject = subjects::inference_queue(&request.model_id)?.to_string();
            return Err(Error::new(ErrorKind::DeadlineExceeded { subject }));
        };
        let mut headers = Headers::new();
        headers.set(headers::MESSAGE_ID, request.request_id.to_string())?;
        let since_epoch = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        headers.set(headers::DEADLINE, since_epoch.as_millis().to_string())?;
        headers.set(headers::ACCEPT, Accepts::own(self.options().coalesce))?;
        Ok((timeout.min(left), headers))
    }
}

/// Has JetStream keep the request.
async fn keep(
    client: &Client,
    subject: &async_nats::Subject,
    headers: Headers,
    json: bytes::Bytes,
) -> Result<PublishAck> {
    let kept = api::ask(client, subject, headers, json, "keep a request").await;
    if let Err(error) = &kept {
        streams::forget(client); // nobody keeps requests where the stream is gone
        if matches!(error.kind(), ErrorKind::Timeout { .. }) {
            streams::check_disk(client).await?;
        }
    }
    kept?.done(|| format!("keep a request on `{subject}`"))
}

/// Whether a request is still in the queue, which it is until its answer has begun.
pub(super) async fn is_waiting(client: &Client, sequence: u64) -> Result<bool> {
    let get = format!("STREAM.MSG.GET.{QUEUE}");
    match api::call::<_, IgnoredAny>(client, &get, &json!({ "seq": sequence })).await? {
        ApiResponse::Done(_) => Ok(true),
        ApiResponse::Refused(error) if error.error_code() == ApiCode::NO_MESSAGE_FOUND => Ok(false),
        refused @ ApiResponse::Refused(_) => refused.done(|| "look for a request".to_owned()).map(|_| false),
    }
}

fn cancel_boxed(
    client: Client,
    sequence: u64,
    cancellation: InferenceCancel,
    begun: bool,
) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
    Box::pin(async move { cancel(&client, sequence, &cancellation, begun).await })
}

/// Takes a request out of the queue, and tells the worker that took it before. Any other requester that waits for an answer that has not
/// begun is told the end of it.
async fn cancel(client: &Client, sequence: u64, cancel: &InferenceCancel, begun: bool) -> Result<()> {
    if begun {
        return client.publish(&subjects::INFERENCE_CANCEL, cancel).await;
    }
    let delete = format!("STREAM.MSG.DELETE.{QUEUE}");
    // Refused when it is no longer there, which is as good.
    let _: ApiResponse<IgnoredAny> = api::call(client, &delete, &json!({ "seq": sequence, "no_erase": true })).await?;
    client.publish(&subjects::INFERENCE_CANCEL, cancel).await?;
    let request_id = cancel.request_id;
    let end = if cancel.mode == CancelMode::Stop {
        let finish_reason = Some(FinishReason::Cancelled);
        StreamingResponse::Done { request_id, total_tokens: 0, latency_ms: 0.0, finish_reason, usage: None }
    } else {
        let cancelled = Error::new(ErrorKind::Cancelled { tokens: 0 });
        let code = ErrorCode::StreamCancelled.as_str().to_owned();
        StreamingResponse::Error { request_id, error: cancelled.to_string(), code, retryable: None }
    };
    client.publish(&subjects::response(request_id), &end).await
}
