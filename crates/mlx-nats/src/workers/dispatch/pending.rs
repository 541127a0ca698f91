//! A request on its way to a worker: its place while it waits, and its place at the worker.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::InferenceRequest;
use mlx_types::{RequestId, WorkerId};
use tokio::sync::oneshot;

use super::affinity::Key;
use super::breaker::Outcome;
use super::core::{Decision, Wanted};
use super::{Shared, Told, policy};
use crate::stream::{Companion, StreamSummary, TokenStream};
use crate::telemetry::measure::dispatched_again;
use crate::workers::InferOptions;

/// A request that has broken so many workers, or their engines, would break the next one too.
const POISONOUS: u32 = 2;

/// Of a request that does not wait.
const NO_TICKET: u64 = u64::MAX;

/// A request that is going to be asked; from [`Dispatcher::enqueue`](super::Dispatcher::enqueue).
#[must_use = "a request is asked by `answer`"]
#[derive(Debug)]
pub struct PendingInference {
    place: QueuePosition,
    request: InferenceRequest,
    options: InferOptions,
}

impl PendingInference {
    pub(super) fn new(shared: &Arc<Shared>, request: InferenceRequest, options: InferOptions) -> Self {
        Self { place: QueuePosition::new(shared), request, options }
    }
}

/// The place of a request in the waiting room. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QueuePosition {
    shared: Arc<Shared>,
    ticket: Arc<AtomicU64>,
}

impl QueuePosition {
    /// How many are before it, itself included; `None` while it does not wait.
    pub fn get(&self) -> Option<usize> {
        match self.ticket.load(Ordering::Relaxed) {
            NO_TICKET => None,
            ticket => self.shared.state.lock().core.place(ticket),
        }
    }
}

impl PendingInference {
    /// Its place, for as long as it waits.
    pub fn position(&self) -> QueuePosition {
        self.place.clone()
    }

    /// Asks, and returns when the answer has begun.
    ///
    /// # Errors
    /// Those of [`Dispatcher::infer`](super::Dispatcher::infer).
    ///
    /// # Cancel safety
    /// As [`Dispatcher::infer`](super::Dispatcher::infer).
    pub async fn answer(self) -> Result<TokenStream> {
        let Self { place, mut request, options } = self;
        let settings = &place.shared.options;
        request.session_id = options.session.or(request.session_id);
        let whole = request.stream == Some(false);
        let timeout = if whole { settings.whole_begin_timeout } else { settings.begin_timeout };
        let prefixes = settings.strategy == mlx_types::config::Strategy::Smart;
        let key = Key::of(&request, settings.session_life.is_some(), prefixes);
        let (model, needs) = (request.model_id.clone(), options.needs(&request));
        let wanted = Wanted { model, needs, key, tried: HashSet::new() };
        let deadline = options.deadline;
        let (mut assignment, mut tokens) =
            place.attempts(wanted, timeout, deadline, Inference { request, options }).await?;
        assignment.asked = Some(Instant::now());
        tokens.accompany(Box::new(assignment));
        Ok(tokens)
    }
}

/// Something that is asked of one worker after another until one answers.
pub(super) trait Ask: Send {
    /// What the answer is, or begins as.
    type Answer: Send;

    /// Asks a worker.
    fn ask(
        &self,
        shared: &Shared,
        worker: WorkerId,
        left: Duration,
    ) -> impl Future<Output = Result<Self::Answer>> + Send;

    /// An id of its own for each attempt: nothing that a former one still sends can get in between.
    fn renew(&mut self);
}

/// A request for tokens.
struct Inference {
    request: InferenceRequest,
    options: InferOptions,
}

impl Ask for Inference {
    type Answer = TokenStream;

    /// Returns with the first token, or with a whole answer that has none.
    async fn ask(&self, shared: &Shared, worker: WorkerId, left: Duration) -> Result<TokenStream> {
        let first_token = self.options.first_token_timeout.unwrap_or(shared.client.options().first_token_timeout);
        let options = self.options.clone().first_token_timeout(first_token.min(left));
        let mut tokens = shared.client.infer_with(worker, &self.request, options).await?;
        if let Some(first) = tokens.next().await.transpose()? {
            tokens.unread(first);
        }
        Ok(tokens)
    }

    fn renew(&mut self) {
        self.request.request_id = RequestId::new();
    }
}

impl QueuePosition {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), ticket: Arc::new(AtomicU64::new(NO_TICKET)) }
    }

    /// Asks one worker after another until one answers.
    pub(super) async fn attempts<A: Ask>(
        &self,
        mut wanted: Wanted,
        timeout: Duration,
        deadline: Option<SystemTime>,
        mut asking: A,
    ) -> Result<(Assignment, A::Answer)> {
        let shared = &self.shared;
        let settings = &shared.options;
        let until_deadline = deadline.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        let has_deadline = until_deadline.is_some_and(|left| left < timeout);
        let timeout = until_deadline.map_or(timeout, |left| left.min(timeout));
        let began = Instant::now();
        let (mut last, mut refused, mut retries, mut broken) = (None, None, 0, 0);
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            let assignment = match self.take(&wanted, refused.take(), left).await? {
                Taken::Assigned(assignment) => assignment,
                Taken::Exhausted => return Err(last.unwrap_or_else(|| shared.no_worker(&wanted.model))),
                Taken::Late if has_deadline => {
                    let subject = format!("a request to `{}`", wanted.model);
                    return Err(Error::new(ErrorKind::DeadlineExceeded { subject }));
                }
                Taken::Late => {
                    let subject = format!("a worker with room for `{}`", wanted.model);
                    let timed_out = Error::new(ErrorKind::Timeout { subject, timeout });
                    let limit = shared.under_way(&wanted.model);
                    return Err(last.unwrap_or_else(|| Error::with_source(ErrorKind::Overloaded { limit }, timed_out)));
                }
            };
            let left = timeout.saturating_sub(began.elapsed());
            let error = match asking.ask(shared, assignment.worker, left).await {
                Ok(answer) => return Ok((assignment, answer)),
                Err(error) => error,
            };
            if policy::is_full(&error) {
                // It was not begun. It waits where it would have, had that been known: before those that came later.
                (last, refused) = (Some(error), Some(assignment));
                continue;
            }
            let worker = assignment.worker;
            assignment.end(policy::outcome(Some(&error)), None);
            broken += u32::from(policy::broke(&error));
            if broken == POISONOUS {
                return Err(Error::with_source(ErrorKind::Poisonous { workers: broken }, error));
            }
            if !policy::may_go_elsewhere(&error, &settings.retry_on)
                || settings.max_retries.is_some_and(|max| retries >= max)
            {
                return Err(error);
            }
            tracing::info!(%worker, error = &error as &dyn std::error::Error, "asking another worker");
            wanted.tried.insert(worker);
            retries += 1;
            dispatched_again(1);
            last = Some(error);
            asking.renew();
            // Time itself is the point: what made one worker fail may pass meanwhile. Never longer than the answer may take to
            // begin, and not at all where the configuration wants none.
            if !settings.retry_delay.is_zero() {
                tokio::time::sleep(settings.retry_delay.min(timeout.saturating_sub(began.elapsed()))).await;
            }
        }
    }
}

enum Taken {
    Assigned(Assignment),
    Exhausted,
    Late,
}

impl QueuePosition {
    /// Takes a place at a worker, or waits for one: before all others, if a worker `refused` it for want of room.
    async fn take(&self, wanted: &Wanted, refused: Option<Assignment>, left: Duration) -> Result<Taken> {
        let shared = &self.shared;
        let (decision, reply) = {
            let now = Instant::now();
            let mut state = shared.state.lock();
            let front = refused.is_some();
            if let Some(mut assignment) = refused {
                assignment.over = true;
                state.core.candidates.refused(assignment.worker, now);
            }
            let told = if front { Vec::new() } else { state.core.admit(now) };
            let decision = state.core.request(wanted.clone(), front, now);
            let (sender, reply) = oneshot::channel();
            if let Decision::Waits(ticket) = decision {
                state.senders.insert(ticket, sender);
            }
            let told = state.senders_of(told);
            drop(state);
            shared.tell(told);
            (decision, reply)
        };
        let decision = if let Decision::Waits(ticket) = decision {
            self.ticket.store(ticket, Ordering::Relaxed);
            let _waits = Waits { place: self, ticket };
            shared.waits.notify_one();
            match tokio::time::timeout(left, reply).await {
                Ok(Ok(Told::Assigned(assignment))) => return Ok(Taken::Assigned(assignment)),
                Ok(Ok(Told::Over(decision))) => decision,
                Ok(Err(_)) | Err(_) => return Ok(Taken::Late),
            }
        } else {
            decision
        };
        match decision {
            Decision::Assigned(worker) => Ok(Taken::Assigned(Assignment::new(shared, worker))),
            Decision::Refused => Err(Error::new(ErrorKind::Overloaded { limit: shared.options.max_waiting })),
            Decision::Nobody => Err(shared.no_worker(&wanted.model)),
            Decision::Lacks(features) => {
                let lacking = features.iter().map(ToString::to_string).collect();
                Err(Error::new(ErrorKind::Unsupported { model: wanted.model.clone(), lacking }))
            }
            Decision::Exhausted | Decision::Waits(_) => Ok(Taken::Exhausted),
        }
    }
}

/// Gives the place in the waiting room up when it is dropped.
struct Waits<'a> {
    place: &'a QueuePosition,
    ticket: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.place.ticket.store(NO_TICKET, Ordering::Relaxed);
        let sender = {
            let mut state = self.place.shared.state.lock();
            state.core.leave(self.ticket);
            state.senders.remove(&self.ticket)
        };
        drop(sender);
    }
}

/// A request's place at a worker, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Assignment {
    shared: Arc<Shared>,
    pub(super) worker: WorkerId,
    /// When its first token came.
    asked: Option<Instant>,
    over: bool,
}

impl Assignment {
    pub(super) fn new(shared: &Arc<Shared>, worker: WorkerId) -> Self {
        Self { shared: Arc::clone(shared), worker, asked: None, over: false }
    }

    pub(super) fn end(mut self, outcome: Outcome, tokens_per_second: Option<f64>) {
        self.give_back(outcome, tokens_per_second);
    }

    fn give_back(&mut self, outcome: Outcome, tokens_per_second: Option<f64>) {
        if !std::mem::replace(&mut self.over, true) {
            let worker = self.worker;
            self.shared.change(|core, now| core.end(worker, outcome, tokens_per_second, now));
        }
    }
}

impl Companion for Assignment {
    #[expect(clippy::cast_precision_loss, reason = "tokens in a second")]
    fn ended(&mut self, summary: &StreamSummary, error: Option<&Error>) {
        let elapsed = self.asked.map_or(0.0, |asked| asked.elapsed().as_secs_f64());
        let rate = (summary.tokens > 1 && elapsed > 0.0).then(|| (summary.tokens - 1) as f64 / elapsed);
        self.give_back(policy::outcome(error), rate);
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.give_back(Outcome::Neutral, None);
    }
}
