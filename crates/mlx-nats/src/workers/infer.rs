//! A request to one worker.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::{Feature, InferenceRequest, Message, StreamingResponse};
use mlx_types::{SessionId, WorkerId, subjects};
use tokio::time::Instant;

use crate::client::Client;
use crate::pubsub::SubscribeOptions;
use crate::stream::{Accepts, Opening, Route, TokenStream, asked_again};
use crate::telemetry::trace::Span;
use crate::wire::{Headers, PublishTo, SubscribeTo, codec, headers};

use super::watch::Workers;

/// How to ask for an answer in tokens. What is unset is as the client's configuration says.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use mlx_nats::InferOptions;
///
/// let options = InferOptions::default()
///     .first_token_timeout(Duration::from_secs(5))
///     .deadline(SystemTime::now() + Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct InferOptions {
    /// How long the first token may take; `streaming.firstTokenTimeoutMs` by default.
    pub first_token_timeout: Option<Duration>,
    /// How long a silence between two tokens may be; `streaming.interTokenTimeoutMs` by default.
    pub inter_token_timeout: Option<Duration>,
    /// When the answer is no longer of use. It travels with the request, a worker past it refuses the work, and a stream that
    /// is not over by then ends with [`ErrorKind::DeadlineExceeded`]. Unset by default.
    pub deadline: Option<SystemTime>,
    /// Headers to send along.
    pub headers: Headers,
    /// The conversation that the request belongs to, in the place of the request's own.
    pub session: Option<SessionId>,
    /// What the request [needs](InferenceRequest::needs) and a worker need not accept all the same: whoever asks makes up for it, as by
    /// looking for stop sequences itself. Nothing by default.
    pub optional: Vec<Feature>,
}

mlx_errors::setters! {
    InferOptions {
        first_token_timeout: option Duration,
        inter_token_timeout: option Duration,
        deadline: option SystemTime,
        headers: set Headers,
        session: option SessionId,
        optional: into Vec<Feature>,
    }
}

impl InferOptions {
    /// What a worker has to accept.
    pub(super) fn needs(&self, request: &InferenceRequest) -> Vec<Feature> {
        let mut needs = request.needs();
        needs.retain(|feature| !self.optional.contains(feature));
        needs
    }
}

impl Client {
    /// Asks a worker to answer a prompt, and streams the tokens back.
    ///
    /// Returns once the request is on its way; that nobody listens, or that the worker refuses, is the first item.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// # async fn example(client: mlx_nats::Client, worker_id: mlx_types::WorkerId, request: mlx_types::messages::InferenceRequest) -> mlx_nats::Result<()> {
    /// let mut tokens = client.infer(worker_id, &request).await?;
    /// while let Some(frame) = tokens.next().await {
    ///     print!("{}", frame?.text);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Client::publish): the request is invalid, too large, or the connection is down;
    /// [`ErrorKind::Unsupported`] when the worker has registered, and does not accept what the request
    /// [needs](InferenceRequest::needs).
    ///
    /// # Cancel safety
    /// A dropped future has not sent the request, and leaves nothing behind.
    pub async fn infer(&self, worker_id: WorkerId, request: &InferenceRequest) -> Result<TokenStream> {
        self.infer_with(worker_id, request, InferOptions::default()).await
    }

    /// [`infer`](Client::infer) with options.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client, worker: mlx_types::WorkerId, request: mlx_types::messages::InferenceRequest) -> mlx_nats::Result<()> {
    /// use std::time::Duration;
    /// use mlx_nats::InferOptions;
    ///
    /// let soon = InferOptions::default().first_token_timeout(Duration::from_secs(5));
    /// let tokens = client.infer_with(worker, &request, soon).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`infer`](Client::infer), and [`ErrorKind::DeadlineExceeded`] for a deadline that has passed.
    pub async fn infer_with(
        &self,
        worker_id: WorkerId,
        request: &InferenceRequest,
        options: InferOptions,
    ) -> Result<TokenStream> {
        // Subjects know case, and the answer comes to the id as it is sent.
        let request_id = request.request_id.in_lower_case();
        let workers = self.workers().await?;
        let worker_id = workers.said(worker_id);
        refuse_lacking(&workers, worker_id, request, &options)?;
        let subject = subjects::worker_inference(worker_id);
        let request = match options.session {
            Some(session) => Cow::Owned(request.clone().session_id(session)),
            None => Cow::Borrowed(request),
        };
        let json = codec::encode(subject.as_str(), request.as_ref(), InferenceRequest::check)?;
        let started = Instant::now();
        let mut headers = options.headers;
        let time_left =
            options.deadline.map(|deadline| time_left(deadline, subject.as_str(), &mut headers)).transpose()?;
        let epoch = self.link().live(|| format!("inference on `{subject}`"))?;

        // Subscription and request go down one connection, whose messages the server handles in order: it knows the
        // one before it sees the other, without a round trip in between. Should the connection drop between the two,
        // the stream ends as disconnected.
        let response = subjects::response(request_id);
        let frames = self
            .subscribe_raw(
                SubscribeTo::<StreamingResponse>::name(&&response).for_subscribe()?,
                &SubscribeOptions::default(),
            )
            .await?;
        let to = PublishTo::<InferenceRequest>::name(&&subject).for_publish()?;
        let (acceptance, reply) = self.inbox().wait_on(to.clone());
        headers.set(headers::ACCEPT, Accepts::own(self.options().coalesce))?;
        let span = Span::infer(subject.as_str(), request_id);
        span.inject(&mut headers);
        asked_again(request_id, worker_id);
        let mark = reply.clone();
        self.send(to, Some(reply), Some(headers), json).await?;

        Ok(TokenStream::open(Opening {
            client: self.clone(),
            route: Route::Worker(worker_id),
            mark: Some(mark.into()),
            request_id,
            subject: subject.to_string(),
            frames,
            acceptance: Some(acceptance),
            workers: Arc::new(workers),
            epoch,
            first_token_timeout: options.first_token_timeout.unwrap_or(self.options().first_token_timeout),
            inter_token_timeout: options.inter_token_timeout.unwrap_or(self.options().inter_token_timeout),
            time_left,
            started,
            span,
        }))
    }
}

/// Refuses what the worker has not said that it accepts, where it has said anything: it would answer something else.
fn refuse_lacking(
    workers: &Workers,
    worker_id: WorkerId,
    request: &InferenceRequest,
    options: &InferOptions,
) -> Result<()> {
    let mut lacking = options.needs(request);
    if lacking.is_empty() {
        return Ok(());
    }
    let Some(registration) = workers.get(worker_id).and_then(|info| info.registration) else { return Ok(()) };
    let accepts = registration.capabilities.and_then(|known| known.accepts).unwrap_or_default();
    lacking.retain(|feature| !accepts.contains(feature));
    if lacking.is_empty() {
        return Ok(());
    }
    let lacking = lacking.iter().map(ToString::to_string).collect();
    Err(Error::new(ErrorKind::Unsupported { model: request.model_id.clone(), lacking }))
}

/// How long it is to the deadline, which goes along in a header.
fn time_left(deadline: SystemTime, subject: &str, headers: &mut Headers) -> Result<Duration> {
    let Ok(left) = deadline.duration_since(SystemTime::now()) else {
        return Err(Error::new(ErrorKind::DeadlineExceeded { subject: subject.to_owned() }));
    };
    let since_epoch = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    headers.set(headers::DEADLINE, since_epoch.as_millis().to_string())?;
    Ok(left)
}
