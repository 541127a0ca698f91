//! The stream that a worker sends: what the handler's sink puts into it, and the service ends.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mlx_errors::{Error, ErrorCode, ErrorKind, Result, Violation};
use mlx_types::messages::{CancelMode, FinishReason, Message, StreamingResponse, Usage};
use mlx_types::{Epoch, RequestId, WorkerId, subjects};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::accepts::Accepts;
use super::coalesce::{Coalescer, Piece};
use crate::client::Client;
use crate::connection::Watch;
use crate::telemetry::measure;
use crate::wire::{Headers, codec, headers};

/// A TypeScript controller subscribes only after it has published its request.
const LATE_LISTENER: Duration = Duration::from_millis(50);

/// What the handler's sink and the service that ends the stream share.
#[derive(Debug)]
pub(crate) struct OutgoingStream {
    client: Client,
    request_id: RequestId,
    /// As the transport takes it, made once: a clone of it is a count, where text would be copied for every token.
    subject: async_nats::Subject,
    /// Tokens taken from the handler. Written by the one sink alone.
    taken: AtomicU64,
    accepts: Accepts,
    /// Tokens on their way into one frame; unset where each goes alone.
    gather: Option<Coalescer>,
    cancel: watch::Sender<Option<CancelMode>>,
    /// What the end says that the answer cost.
    usage: Mutex<Option<Usage>>,
    /// Only where a queue may hand the request out again.
    marks: Option<Marks>,
    started: Instant,
    /// What is appended to every frame: the incarnation of the worker.
    epoch: Option<String>,
    /// The reply inbox of the request.
    reply: Option<async_nats::Subject>,
    /// No frame is sent before this: a requester without a reply inbox may not listen yet.
    not_before: Option<Instant>,
    /// Hears of it when the server refuses the frames.
    watch: Watch,
}

/// What tells the frames of one attempt at a request from those of another.
#[derive(Debug)]
pub(crate) struct Marks {
    worker_id: WorkerId,
    /// From 1.
    attempt: u64,
    /// The connection that the first frame went out on, once it did.
    begun: watch::Sender<Option<u64>>,
}

#[cfg(feature = "durable")]
impl Marks {
    pub(crate) fn new(worker_id: WorkerId, attempt: u64) -> Self {
        Self { worker_id, attempt, begun: watch::Sender::new(None) }
    }
}

impl Marks {
    fn headers(&self, first: bool) -> Result<Headers> {
        let mut headers = Headers::new();
        if first {
            headers.set(headers::WORKER, self.worker_id.to_string())?;
        }
        if self.attempt > 1 {
            headers.set(headers::ATTEMPT, self.attempt.to_string())?;
        }
        Ok(headers)
    }
}

impl OutgoingStream {
    pub(crate) fn new(client: Client, request_id: RequestId, accepts: Accepts) -> Self {
        let gathers = accepts.tokens && client.options().coalesce;
        let gather = gathers.then(|| Coalescer::new(request_id, client.max_payload()));
        let subject = async_nats::Subject::from(subjects::response(request_id).as_str());
        let watch = client.refusals().publisher(subject.clone());
        Self {
            client,
            request_id,
            subject,
            watch,
            taken: AtomicU64::new(0),
            accepts,
            gather,
            cancel: watch::Sender::new(None),
            usage: Mutex::new(None),
            marks: None,
            started: Instant::now(),
            epoch: None,
            reply: None,
            not_before: None,
        }
    }

    /// The same, by this incarnation of its worker.
    pub(super) fn of(self, epoch: Epoch) -> Self {
        Self { epoch: Some(format!(",\"epoch\":{epoch}}}")), ..self }
    }

    /// The same, of a request with this reply inbox, or without one.
    pub(super) fn asked_by(self, reply: Option<&async_nats::Subject>) -> Self {
        let not_before = reply.is_none().then(|| Instant::now() + LATE_LISTENER);
        Self { reply: reply.cloned(), not_before, ..self }
    }

    /// The reply inbox of the request.
    pub(super) fn reply(&self) -> Option<&str> {
        self.reply.as_deref()
    }

    #[cfg(feature = "durable")]
    pub(crate) fn marked(self, marks: Marks) -> Self {
        Self { marks: Some(marks), ..self }
    }

    /// The connection that the first frame went out on; `None` before, and where nobody has to know.
    #[cfg(feature = "durable")]
    pub(crate) fn begun(&self) -> Option<u64> {
        self.marks.as_ref().and_then(|marks| *marks.begun.borrow())
    }

    /// Resolves when the first frame went out.
    #[cfg(feature = "durable")]
    pub(crate) async fn until_begun(&self) -> u64 {
        if let Some(marks) = &self.marks
            && let Ok(begun) = marks.begun.subscribe().wait_for(Option::is_some).await
            && let Some(epoch) = *begun
        {
            return epoch;
        }
        std::future::pending().await
    }

    pub(super) fn accepts(&self) -> Accepts {
        self.accepts
    }

    pub(super) fn set_usage(&self, usage: Usage) {
        *self.usage.lock() = Some(usage);
    }

    pub(super) fn cancellations(&self) -> watch::Receiver<Option<CancelMode>> {
        self.cancel.subscribe()
    }

    pub(crate) fn cancel(&self, mode: CancelMode) {
        self.cancel.send_replace(Some(mode));
    }

    pub(crate) fn cancel_mode(&self) -> Option<CancelMode> {
        *self.cancel.borrow()
    }

    /// Resolves when the requester wants the stream dropped.
    pub(crate) async fn killed(&self) {
        let mut cancel = self.cancel.subscribe();
        let killed = cancel.wait_for(|mode| *mode == Some(CancelMode::Kill)).await;
        // The sender is in `self`, so waiting for it cannot fail.
        debug_assert!(killed.is_ok());
    }

    /// Resolves when the server refuses the frames: nobody will have the answer.
    pub(crate) async fn refused(&self) -> Error {
        self.watch.until_refused().await.publish(&self.subject)
    }

    /// Resolves when a connection drops on which tokens were sent: some of them may be lost with it. Before the first
    /// token nothing is, and the stream simply goes on.
    pub(crate) async fn interrupted(&self) {
        loop {
            let Ok(epoch) = self.client.link().connected().await else { return std::future::pending().await };
            self.client.link().lost(epoch).await;
            if self.taken.load(Ordering::Relaxed) > 0 {
                return;
            }
        }
    }

    /// Sends gathered tokens whenever the line is free; runs beside the handler, in the same task.
    pub(crate) async fn pump(&self) -> Infallible {
        let Some(gather) = &self.gather else { return std::future::pending().await };
        loop {
            gather.filled().await;
            if let Err(error) = self.send_gathered(gather).await {
                gather.fail(error);
            }
            // Not a round trip: only until the socket has taken what was written. Meanwhile tokens gather.
            if self.client.nats().flush().await.is_err() {
                return std::future::pending().await; // the transport has ended, as the next `send` will find
            }
        }
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The clean end, behind every token.
    pub(crate) async fn done(&self, finish_reason: FinishReason) -> Result<()> {
        self.send_rest().await?;
        let frame = StreamingResponse::Done {
            request_id: self.request_id,
            total_tokens: self.taken(),
            latency_ms: self.started.elapsed().as_secs_f64() * 1000.0,
            finish_reason: Some(finish_reason),
            usage: *self.usage.lock(),
        };
        self.publish(&frame).await
    }

    /// The end with an error: its public message and code.
    pub(crate) async fn failed(&self, error: &Error) -> Result<()> {
        measure::refused(error);
        self.send_rest().await?;
        self.send_error(error).await
    }

    /// The end of a stream that lost its connection, once there is another one: without the tokens that still wait,
    /// which would only show as a gap.
    pub(super) async fn disconnected(&self) -> Result<()> {
        let error = self.disconnected_error();
        measure::refused(&error);
        loop {
            let epoch = self.client.link().connected().await?;
            let sent = self.send_error(&error).await;
            let arrived = if sent.is_ok() { self.arrived().await } else { sent };
            match arrived {
                Err(error) if error.code() == ErrorCode::NatsDisconnected => self.client.link().lost(epoch).await,
                arrived => return arrived,
            }
        }
    }

    /// Makes sure that what was sent is at the server, and was not lost with the connection.
    pub(super) async fn arrived(&self) -> Result<()> {
        self.client.round_trip("end of a token stream", self.client.request_timeout()).await
    }

    async fn send_error(&self, error: &Error) -> Result<()> {
        let remote = error.to_remote();
        let frame = StreamingResponse::Error {
            request_id: self.request_id,
            error: remote.message().to_owned(),
            code: remote.code().to_owned(),
            retryable: remote.said_retryable(),
        };
        self.publish(&frame).await
    }

    pub(super) async fn send(&self, piece: Piece) -> Result<()> {
        if let Some(refused) = self.watch.refused() {
            return Err(refused.publish(&self.subject));
        }
        let index = self.taken.load(Ordering::Relaxed);
        match &self.gather {
            Some(gather) if index > 0 => gather.put(index, piece).await?,
            _ => self.publish(&piece.into_frame(self.request_id, index)).await?,
        }
        self.taken.store(index + 1, Ordering::Relaxed);
        Ok(())
    }

    async fn send_rest(&self) -> Result<()> {
        let Some(gather) = &self.gather else { return Ok(()) };
        while !gather.is_empty() {
            self.send_gathered(gather).await?;
        }
        gather.take_error().map_or(Ok(()), Err)
    }

    async fn send_gathered(&self, gather: &Coalescer) -> Result<()> {
        let Some(frame) = gather.next() else { return Ok(()) };
        self.publish(&frame).await?;
        gather.sent();
        Ok(())
    }

    async fn publish(&self, frame: &StreamingResponse) -> Result<()> {
        let ending = self.epoch.as_deref();
        let json = codec::encode_ending(self.subject.as_str(), frame, StreamingResponse::check, ending)?;
        if let Some(not_before) = self.not_before {
            tokio::time::sleep_until(not_before.into()).await; // at once, but for the first frame
        }
        let subject = self.subject.clone();
        // Without a span of its own: a trace wants one for the stream, not one for each token.
        let Some(marks) = &self.marks else { return self.client.publish_plain(subject, json).await };
        let first = marks.begun.borrow().is_none();
        let epoch = self.client.link().live(|| format!("publish on `{}`", self.subject))?;
        self.client.send(subject, None, Some(marks.headers(first)?), json).await?;
        if first {
            marks.begun.send_replace(Some(epoch));
        }
        Ok(())
    }

    pub(crate) fn cancelled_error(&self) -> Error {
        Error::new(ErrorKind::Cancelled { tokens: self.taken.load(Ordering::Relaxed) })
    }

    /// The error of what the requester would not read.
    pub(super) fn unread_error(&self) -> Error {
        let violation = Violation::new("delta", "accept", "the requester has not said that it reads deltas");
        Error::new(ErrorKind::Validation { subject: self.subject.to_string(), violations: vec![violation].into() })
    }

    pub(crate) fn disconnected_error(&self) -> Error {
        Error::new(ErrorKind::StreamDisconnected { tokens: self.taken.load(Ordering::Relaxed) })
    }
}
