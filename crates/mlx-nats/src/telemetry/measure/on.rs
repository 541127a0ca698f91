//! The `metrics` facade.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use futures_util::FutureExt;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use mlx_errors::{Error, ErrorCode, Result};
use mlx_types::subjects::{self, Parsed};
use tokio::time::Instant;

use super::table;

/// The outcome of what succeeded.
const OK: &str = "ok";
/// The state of a connection that counts as one more.
const CONNECTED: &str = "connected";
/// The outcome of what its caller dropped before it ended.
const DROPPED: &str = "dropped";

/// The handles of one client, registered with the recorder that is installed when it connects.
#[derive(Clone)]
pub(crate) struct Measure(Arc<Handles>);

struct Handles {
    published_messages: Counter,
    published_bytes: Counter,
    received_messages: Counter,
    received_bytes: Counter,
    requests_ok: Counter,
    request_duration: Histogram,
    streams_ok: Counter,
    streams_running: Gauge,
    stream_tokens: Counter,
    stream_duration: Histogram,
    first_token: Histogram,
}

impl Measure {
    pub(crate) fn new() -> Self {
        table::describe();
        Self(Arc::new(Handles {
            published_messages: counter!(table::PUBLISHED_MESSAGES),
            published_bytes: counter!(table::PUBLISHED_BYTES),
            received_messages: counter!(table::RECEIVED_MESSAGES),
            received_bytes: counter!(table::RECEIVED_BYTES),
            requests_ok: counter!(table::REQUESTS, "outcome" => OK),
            request_duration: histogram!(table::REQUEST_DURATION),
            streams_ok: counter!(table::STREAMS, "outcome" => OK),
            streams_running: gauge!(table::STREAMS_RUNNING),
            stream_tokens: counter!(table::STREAM_TOKENS),
            stream_duration: histogram!(table::STREAM_DURATION),
            first_token: histogram!(table::FIRST_TOKEN),
        }))
    }

    pub(crate) fn published(&self, bytes: usize) {
        self.0.published_messages.increment(1);
        self.0.published_bytes.increment(bytes as u64);
    }

    pub(crate) fn received(&self, message: &async_nats::Message) {
        self.0.received_messages.increment(1);
        self.0.received_bytes.increment(message.payload.len() as u64);
    }

    /// Runs one exchange of a request and its answer.
    pub(crate) fn request<T>(&self, exchange: impl Future<Output = Result<T>>) -> impl Future<Output = Result<T>> {
        let pending = Pending { handles: &*self.0, started: Instant::now(), outcome: DROPPED };
        // Not an async block: one that awaits what it was given holds it twice.
        exchange.map(move |answer| {
            pending.ended(answer.as_ref().err());
            answer
        })
    }

    /// An exchange of which the caller says when it has ended.
    pub(crate) fn exchange(&self) -> Exchange {
        Exchange(Some(Pending { handles: Arc::clone(&self.0), started: Instant::now(), outcome: DROPPED }))
    }

    /// A token stream that was asked for at `started`.
    pub(crate) fn stream(&self, started: Instant) -> StreamMeasure {
        self.0.streams_running.increment(1);
        StreamMeasure { handles: Arc::clone(&self.0), started, any_token: false, ended: false }
    }
}

/// A request under way. Counted when it is dropped, so that one whose future is dropped counts as well.
struct Pending<H: Deref<Target = Handles>> {
    handles: H,
    started: Instant,
    outcome: &'static str,
}

impl<H: Deref<Target = Handles>> Pending<H> {
    fn ended(mut self, error: Option<&Error>) {
        self.outcome = outcome(error);
    }
}

impl<H: Deref<Target = Handles>> Drop for Pending<H> {
    fn drop(&mut self) {
        self.handles.request_duration.record(self.started.elapsed());
        count(table::REQUESTS, &self.handles.requests_ok, self.outcome);
    }
}

/// A request under way that has many answers.
pub(crate) struct Exchange(Option<Pending<Arc<Handles>>>);

impl Exchange {
    /// The end, of which the first one counts.
    pub(crate) fn ended(&mut self, error: Option<&Error>) {
        if let Some(pending) = self.0.take() {
            pending.ended(error);
        }
    }
}

/// A token stream under way.
pub(crate) struct StreamMeasure {
    handles: Arc<Handles>,
    started: Instant,
    any_token: bool,
    ended: bool,
}

impl StreamMeasure {
    /// So many tokens more.
    pub(crate) fn tokens(&mut self, count: usize) {
        if !self.any_token {
            self.any_token = true;
            self.handles.first_token.record(self.started.elapsed());
        }
        self.handles.stream_tokens.increment(count as u64);
    }

    /// The end: a clean one, or the one of `error`.
    pub(crate) fn ended(&mut self, error: Option<&Error>) {
        self.end(outcome(error));
    }

    fn end(&mut self, outcome: &'static str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.handles.streams_running.decrement(1);
        self.handles.stream_duration.record(self.started.elapsed());
        count(table::STREAMS, &self.handles.streams_ok, outcome);
    }
}

impl Drop for StreamMeasure {
    fn drop(&mut self) {
        self.end(DROPPED);
    }
}

fn outcome(error: Option<&Error>) -> &'static str {
    error.map_or(OK, |error| error.code().as_str())
}

fn count(name: &'static str, ok: &Counter, outcome: &'static str) {
    match outcome {
        OK => ok.increment(1),
        other => counter!(name, "outcome" => other).increment(1),
    }
}

/// The handlers of one service.
#[derive(Clone)]
pub(crate) struct ServiceMeasure {
    running: Gauge,
    duration: Histogram,
}

impl ServiceMeasure {
    pub(crate) fn new(subject: &str) -> Self {
        let kind = match subjects::parse(subject) {
            Some(Parsed::WorkerInference(_)) => "inference",
            _ => "request",
        };
        Self {
            running: gauge!(table::HANDLERS_RUNNING, "service" => kind),
            duration: histogram!(table::HANDLER_DURATION, "service" => kind),
        }
    }

    /// Runs one handler.
    pub(crate) fn handling<F: Future>(&self, handler: F) -> impl Future<Output = F::Output> + use<F> {
        let running = Running::begin(self.clone());
        handler.map(move |output| {
            drop(running);
            output
        })
    }
}

struct Running {
    measure: ServiceMeasure,
    started: Instant,
}

impl Running {
    fn begin(measure: ServiceMeasure) -> Self {
        measure.running.increment(1);
        Self { measure, started: Instant::now() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.measure.running.decrement(1);
        self.measure.duration.record(self.started.elapsed());
    }
}

/// One client's connection: counted in the gauge of the state that it is in, until this is dropped.
pub(crate) struct ConnectionMeasure {
    state: Option<&'static str>,
    ever_connected: bool,
}

impl ConnectionMeasure {
    pub(crate) fn new() -> Self {
        let mut measure = Self { state: None, ever_connected: false };
        measure.moved("connecting");
        measure
    }

    /// The state is this now, which may be the one that it was.
    pub(crate) fn moved(&mut self, state: &'static str) {
        if self.state == Some(state) {
            return;
        }
        if state == CONNECTED && std::mem::replace(&mut self.ever_connected, true) {
            counter!(table::RECONNECTS).increment(1);
        }
        self.enter(Some(state));
    }

    /// It is over.
    pub(crate) fn closed(&mut self, reason: &'static str) {
        counter!(table::CLOSED_CONNECTIONS, "reason" => reason).increment(1);
        self.enter(None);
    }

    fn enter(&mut self, state: Option<&'static str>) {
        let former = std::mem::replace(&mut self.state, state);
        if let Some(former) = former {
            gauge!(table::CONNECTIONS, "state" => former).decrement(1);
        }
        if let Some(state) = state {
            gauge!(table::CONNECTIONS, "state" => state).increment(1);
        }
    }
}

impl Drop for ConnectionMeasure {
    fn drop(&mut self) {
        self.enter(None);
    }
}

/// A message that had waited for the connection is on its way.
pub(crate) fn published_late(bytes: usize) {
    counter!(table::PUBLISHED_MESSAGES).increment(1);
    counter!(table::PUBLISHED_BYTES).increment(bytes as u64);
}

pub(crate) fn decode_failed(code: ErrorCode) {
    counter!(table::DECODE_ERRORS, "code" => code.as_str()).increment(1);
}

/// Requests were asked of another worker; 0 has the counter be there from the start.
pub(crate) fn dispatched_again(times: u64) {
    counter!(table::DISPATCH_RETRIES).increment(times);
}

/// A frame came that belongs to another answer.
pub(crate) fn foreign_frame() {
    counter!(table::FOREIGN_FRAMES).increment(1);
}

/// The server refused a publish.
pub(crate) fn publish_refused() {
    counter!(table::REFUSED_PUBLISHES).increment(1);
}

pub(crate) fn dropped(messages: usize) {
    counter!(table::DROPPED_MESSAGES).increment(messages as u64);
}

pub(crate) fn refused(error: &Error) {
    counter!(table::REFUSED_REQUESTS, "code" => error.code().as_str()).increment(1);
}
