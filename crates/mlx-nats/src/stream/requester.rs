//! The asking side of a token stream.

mod acceptance;
mod frames;
mod judge;
mod opening;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::{CancelMode, FinishReason, InferenceCancel, RawObject, Usage};
use mlx_types::{RequestId, WorkerId, subjects};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep};

use self::judge::Silent;
pub(crate) use self::opening::Opening;
use super::assembly::Assembly;
use super::backlog::Backlog;
use super::cancel;
use super::lifeline::{Departure, Lifelines, Suspicion};
use super::route::Route;
use super::run::Run;
use super::silence::Silence;
use super::summary::StreamSummary;
use crate::client::Client;
use crate::pubsub::RawSubscription;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::measure::StreamMeasure;
use crate::telemetry::trace::Span;
use crate::wire::inbox::Waiter;
use crate::wire::surrogates::Joiner;

/// Streams whose reader was too slow.
static TOO_SLOW: LogLimit = LogLimit::new();

/// One token of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenFrame {
    /// Its index, from 0, without gaps.
    pub index: u64,
    /// Its text; where it brings a delta, the text in that, which is often none.
    pub text: String,
    /// In the place of a token, what a token cannot say: an entry of `choices` of a streamed answer in OpenAI's protocol, as the
    /// engine has it. Only engines that were asked for tools, log probabilities and the like, or that show how they reason, send
    /// any.
    pub delta: Option<RawObject>,
}

/// The tokens of one request, as a [`Stream`].
///
/// It ends in exactly one way: after the last token when the worker finished, or with one error item. It cannot hang:
/// silence before the first token and between two is bounded (see [`ClientOptions`](crate::ClientOptions)), and a lost
/// worker or connection ends it at once. Dropping it before its end tells the worker to stop; while the connection is down,
/// as soon as it is back, if that is within a minute and the same request has not been made again.
///
/// Dropping the future of `next` loses no token.
///
/// ```no_run
/// use futures_util::StreamExt;
/// # async fn example(mut tokens: mlx_nats::TokenStream) -> mlx_nats::Result<()> {
/// while let Some(frame) = tokens.next().await {
///     print!("{}", frame?.text);
///     if tokens.request_id().to_string().ends_with('0') {
///         tokens.stop().await?; // what is under way still comes, and then the end
///     }
/// }
/// println!("{:?}", tokens.summary());
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the stream cancels the request: read it to its end"]
#[expect(clippy::struct_excessive_bools, reason = "what has happened so far, each by itself")]
pub struct TokenStream {
    client: Client,
    route: Route,
    /// Who answers, once it is known.
    worker_id: Option<WorkerId>,
    request_id: RequestId,
    /// The subject of the request, for errors.
    subject: String,
    /// Until the end.
    frames: Option<RawSubscription>,
    /// Until the worker accepts, refuses, or turns out not to listen.
    acceptance: Option<Waiter>,
    workers: Arc<dyn Lifelines>,
    /// The end of the worker, once there is one.
    departure: Option<Pin<Box<dyn Future<Output = Departure> + Send>>>,
    /// The end of the connection that the stream began on.
    disconnection: Signal,
    /// Fires at the deadline of the request, where it has one.
    deadline: Option<Pin<Box<Sleep>>>,
    silence: Silence,
    /// Fires when the silence has to be looked at. Moved only when it fires, and at the first token.
    look: Pin<Box<Sleep>>,
    /// Tokens were taken since the clock was last looked at, which for each of them would cost as much as the rest.
    progressed: bool,
    /// The worker is being asked for a sign of life.
    suspicion: Option<Box<dyn Suspicion>>,
    /// Before a silence is judged: a round trip, behind all that had come.
    reading: Option<Signal>,
    /// It has been read, and nothing was there.
    has_read: bool,
    /// Whose frames these are.
    run: Run,
    /// The worker was said to answer when it is asked for a sign of life.
    is_known_to_answer: bool,
    /// Puts half characters together, once there were any.
    joiner: Joiner,
    has_halves: bool,
    /// The end, where the rest of a character comes before it.
    epilogue: Option<Error>,
    /// The request's reply inbox, so that its cancellation means no other request of the same id.
    mark: Option<Arc<str>>,
    assembly: Assembly,
    backlog: Backlog,
    /// Which attempt at the request brought the first token: the only one that is listened to from then on.
    attempt: Option<u64>,
    ready: VecDeque<TokenFrame>,
    started: Instant,
    first_token: Option<Instant>,
    /// Set at the end, and by nothing else.
    summary: Option<StreamSummary>,
    companion: Option<Box<dyn Companion>>,
    measure: StreamMeasure,
    span: Span,
}

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Goes along with a stream, and hears of its end. A stream that is dropped before just drops it.
pub(crate) trait Companion: Send {
    fn ended(&mut self, summary: &StreamSummary, error: Option<&Error>);
}

impl TokenStream {
    /// The request that is being answered.
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// The worker that answers: the one asked, or, for a queued request, the one that sent the first token.
    pub fn worker_id(&self) -> Option<WorkerId> {
        self.worker_id
    }

    /// What the stream came to, once it has ended.
    pub fn summary(&self) -> Option<&StreamSummary> {
        self.summary.as_ref()
    }

    /// Asks the worker to finish here. The stream goes on to its end, with what was still under way.
    ///
    /// The future does not borrow the stream, which could not be shared with another thread.
    ///
    /// # Errors
    /// Those of [`publish`](Client::publish).
    ///
    /// # Cancel safety
    /// When the future is dropped, the worker may have been asked or not.
    pub fn stop(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let ended = self.summary.is_some();
        let cancellation = self.cancellation(CancelMode::Stop);
        async move { if ended { Ok(()) } else { cancellation.await } }
    }

    /// Tells the worker to drop the request now, and ends the stream as cancelled.
    ///
    /// ```no_run
    /// # async fn example(mut tokens: mlx_nats::TokenStream) -> mlx_nats::Result<()> {
    /// tokens.kill().await?; // the worker drops the request, and sends nothing more
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`publish`](Client::publish); the stream has ended even then.
    ///
    /// # Cancel safety
    /// When the future is dropped, the stream has ended, but the worker may not have been told.
    pub async fn kill(&mut self) -> Result<()> {
        if self.summary.is_some() {
            return Ok(());
        }
        self.ready.clear();
        self.end(None, None, Some(&Error::new(ErrorKind::Cancelled { tokens: self.assembly.received() })));
        self.cancellation(CancelMode::Kill).await
    }

    fn end(&mut self, finish_reason: Option<FinishReason>, usage: Option<Usage>, error: Option<&Error>) {
        // What is kept for its summary has no further use for these.
        self.frames = None;
        self.acceptance = None;
        self.departure = None;
        self.suspicion = None;
        self.reading = None;
        self.measure.ended(error);
        self.span.end(error);
        let summary = StreamSummary {
            tokens: self.assembly.received(),
            time_to_first_token: self.first_token.map(|first| first - self.started),
            duration: self.started.elapsed(),
            finish_reason,
            usage,
        };
        if let Some(mut companion) = self.companion.take() {
            companion.ended(&summary, error);
        }
        self.summary = Some(summary);
    }

    /// Puts a token back that was read: it comes next.
    pub(crate) fn unread(&mut self, token: TokenFrame) {
        self.ready.push_front(token);
    }

    /// Takes a companion along.
    pub(crate) fn accompany(&mut self, mut companion: Box<dyn Companion>) {
        match &self.summary {
            Some(summary) => companion.ended(summary, None),
            None => self.companion = Some(companion),
        }
    }

    /// The end with an error; a worker that may still be at it is told to stop.
    fn fail(&mut self, kind: impl Into<Error>, worker_goes_on: bool) -> Poll<Option<Result<TokenFrame>>> {
        let mut error = kind.into();
        if self.first_token.is_some()
            && let ErrorKind::Remote(remote) = error.kind()
        {
            // What has been shown would be shown twice.
            error = remote.clone().after_begin().into();
        }
        self.end(None, None, Some(&error));
        if worker_goes_on {
            self.cancel_in_background();
        }
        if let Some(half) = self.joiner.finish() {
            self.epilogue = Some(error);
            return self.last_half(half);
        }
        Poll::Ready(Some(Err(error)))
    }

    /// The rest of the last token, under its index: half a character of which the other half never came.
    fn last_half(&self, half: char) -> Poll<Option<Result<TokenFrame>>> {
        let index = self.assembly.received().saturating_sub(1);
        Poll::Ready(Some(Ok(TokenFrame { index, text: half.to_string(), delta: None })))
    }

    /// Says of a reader that it lost tokens by its slowness.
    fn too_slow(&self, dropped: u64) -> ErrorKind {
        let subject = subjects::response(self.request_id).to_string();
        if let Some(so_far) = TOO_SLOW.count(std::time::Instant::now()) {
            tracing::warn!(subject, dropped, so_far, "the reader of a token stream is too slow and loses tokens");
        }
        ErrorKind::SlowConsumer { subject, dropped }
    }

    /// The subscription has ended: the server took it away, or the connection is gone.
    fn ended_early(&mut self) -> Poll<Option<Result<TokenFrame>>> {
        if let Some(refused) = self.frames.as_ref().and_then(RawSubscription::refused) {
            return self.fail(refused, true);
        }
        let tokens = self.assembly.received();
        self.fail(ErrorKind::StreamDisconnected { tokens }, false)
    }

    fn cancel_in_background(&self) {
        cancel::cancel_in_background(
            &self.client,
            self.route,
            self.request_id,
            self.mark.clone(),
            self.first_token.is_some(),
        );
    }

    /// Cancels the request at the worker, and takes it out of its queue if it waits in one.
    fn cancellation(&self, mode: CancelMode) -> impl Future<Output = Result<()>> + Send + 'static {
        let cancel = InferenceCancel::new(self.request_id, mode);
        self.route.cancel(self.client.clone(), cancel, self.mark.clone(), self.first_token.is_some())
    }

    fn depend_on(&mut self, worker_id: WorkerId) {
        self.worker_id = Some(worker_id);
        self.departure = Some(self.workers.departure(worker_id));
    }
}

impl Stream for TokenStream {
    type Item = Result<TokenFrame>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            // What has arrived comes before whatever ends the stream from outside.
            let Some(frames) = &mut this.frames else { return Poll::Ready(this.epilogue.take().map(Err)) };
            match Pin::new(frames).poll_next(context) {
                Poll::Ready(Some(message)) => match this.take(&message) {
                    Some(end) => return end,
                    None => continue,
                },
                Poll::Ready(None) => {
                    return this.ended_early();
                }
                // Tokio makes a task that has had its share wait, whatever there is.
                Poll::Pending if has_budget_remaining() => this.backlog.emptied(),
                Poll::Pending => {}
            }
            if let Poll::Ready(error) = this.poll_acceptance(context) {
                return this.fail(error, false);
            }
            if let Some(departure) = &mut this.departure
                && let Poll::Ready(how) = departure.as_mut().poll(context)
            {
                if how == Departure::LeftUnmarked && this.first_token.is_some() && !this.run.is_marked() {
                    // Such a worker says farewell first, and then finishes what it has begun.
                    this.departure = None;
                    continue;
                }
                let worker = this.worker_id.map(|id| id.to_string()).unwrap_or_default();
                let tokens = this.assembly.received();
                // One that is not there any more need not be told.
                return this.fail(ErrorKind::WorkerLost { worker, tokens }, how != Departure::Dead);
            }
            if this.disconnection.as_mut().poll(context).is_ready() {
                // Nobody has begun a request that is queued: it waits on, and may be asked for again.
                let worker_goes_on = this.first_token.is_some() || !this.route.is_queued();
                let tokens = this.assembly.received();
                return this.fail(ErrorKind::StreamDisconnected { tokens }, worker_goes_on);
            }
            if let Some(deadline) = &mut this.deadline
                && deadline.as_mut().poll(context).is_ready()
            {
                let subject = this.subject.clone();
                return this.fail(ErrorKind::DeadlineExceeded { subject }, true);
            }
            return match this.poll_silence(context) {
                Poll::Ready(Silent::Look) => continue,
                Poll::Ready(Silent::Over(kind)) => this.fail(kind, true),
                Poll::Pending => Poll::Pending,
            };
        }
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if self.summary.is_none() {
            self.cancel_in_background();
        }
    }
}

impl fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenStream")
            .field("request_id", &self.request_id)
            .field("worker_id", &self.worker_id)
            .field("received", &self.assembly.received())
            .field("summary", &self.summary)
            .finish_non_exhaustive()
    }
}
