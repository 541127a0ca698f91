//! One request: handed to a worker, to another one while nothing has come back, and read to its one end.

use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind};
use mlx_nats::{InferOptions, TokenStream};
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, RawObject, Usage};

use super::Gateway;
use super::error::ApiError;
use super::openai::Asked;
use super::stats::Outcome;
use super::stop::StopSequences;

/// Models that an error lists at the most.
const KNOWN: usize = 32;

/// An answer under way. Dropping it tells the worker to stop.
pub(super) struct Answer {
    gateway: Arc<Gateway>,
    tokens: TokenStream,
    began: Instant,
    stop: StopSequences,
    max_tokens: Option<u64>,
    count: u64,
    outcome: Option<Outcome>,
}

/// More of an answer.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// Text, possibly none.
    pub(super) text: String,
    /// Behind the text, what is more than one: an entry of `choices`, as the engine sent it.
    pub(super) delta: Option<RawObject>,
    /// How it ended, if it did.
    pub(super) end: Option<Ending>,
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// As the protocol has it: `stop`, `length`, `tool_calls` and so on.
    pub(super) reason: String,
    /// Pieces made, which is what there is where the engine counts nothing.
    pub(super) tokens: u64,
    /// As the engine counts.
    pub(super) usage: Usage,
}

impl Gateway {
    /// Hands a request to the worker that suits best, and returns with the first token.
    ///
    /// While no token has come, a worker that cannot answer is replaced by the next, each asked once; while all are full, the
    /// request waits for one that has room.
    ///
    /// # Errors
    /// No such model, no worker, all of them busy for too long, or the last error where it may not be tried elsewhere.
    ///
    /// # Cancel safety
    /// A dropped future tells the worker to stop.
    pub(super) async fn ask(self: &Arc<Self>, asked: Asked) -> Result<Answer, ApiError> {
        let Asked { request, optional, demands, stop, .. } = asked;
        let began = Instant::now();
        // Counts the request, however it ends: by being dropped too.
        let mut unanswered = Unanswered { gateway: Arc::clone(self), outcome: Some(Outcome::Cancelled) };
        let asked = tokio::select! {
            asked = self.dispatcher.infer_with(&request, InferOptions::default().optional(optional)) => {
                asked.map_err(|error| self.refusal(&error, &demands))
            }
            () = self.ended() => Err(ApiError::shutting_down()),
        };
        unanswered.outcome = asked.as_ref().err().map(|refusal| Outcome::Failed(refusal.code.clone()));
        Ok(Answer {
            gateway: Arc::clone(self),
            tokens: asked?,
            began,
            stop: StopSequences::new(stop),
            max_tokens: request.max_tokens,
            count: 0,
            outcome: Some(Outcome::Cancelled),
        })
    }

    pub(super) fn refusal(&self, error: &Error, demands: &[String]) -> ApiError {
        if !self.client.state().is_connected() {
            let message = "the controller has lost its message bus, and tries to get it back";
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "NATS_DISCONNECTED", message);
        }
        if let ErrorKind::Unsupported { model, .. } = error.kind() {
            return unsupported(model, demands);
        }
        let ErrorKind::NoWorker { model, known } = error.kind() else { return ApiError::from(error) };
        if known.is_empty() && self.registry.list().is_empty() {
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_workers", "no worker is online");
        }
        let known: Vec<String> = known.iter().take(KNOWN).map(|model| format!("`{model}`")).collect();
        let message = format!("no worker has a model `{model}`; there are: {}", known.join(", "));
        let refusal = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
        ApiError { param: Some("model".to_owned()), ..refusal }
    }
}

impl Answer {
    /// Who answers.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        self.tokens.worker_id()
    }

    /// What comes next. Nothing comes after an end or an error.
    ///
    /// # Errors
    /// The worker died, fell silent, or failed; or the gateway closes.
    ///
    /// # Cancel safety
    /// No text is lost by dropping the future.
    pub(super) async fn next(&mut self) -> Result<Piece, ApiError> {
        let frame = tokio::select! {
            frame = self.tokens.next() => frame,
            () = self.gateway.ended() => return Err(self.failed(ApiError::shutting_down())),
        };
        match frame {
            Some(Ok(frame)) => {
                if self.count == 0 {
                    self.gateway.stats.begun(self.began.elapsed(), Instant::now());
                }
                self.count += 1;
                if let Some(worker) = self.worker() {
                    self.gateway.stats.token(worker, Instant::now());
                }
                if frame.delta.is_some() {
                    // Its text goes along in it; what was held back comes before.
                    return Ok(Piece { text: self.stop.finish(), delta: frame.delta, end: None });
                }
                let (text, stopped) = self.stop.push(&frame.text);
                // What the worker would say after a stop sequence nobody wants; dropping the stream tells it so.
                Ok(Piece { text, delta: None, end: stopped.then(|| self.ended("stop")) })
            }
            Some(Err(error)) => Err(self.failed(ApiError::from(&error))),
            None => {
                let reason = self.tokens.summary().and_then(|summary| summary.finish_reason.as_ref());
                let reason = match reason {
                    Some(FinishReason::Cancelled) => {
                        let message = "the worker ended the answer before it was whole";
                        let refusal = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "STREAM_CANCELLED", message);
                        return Err(self.failed(refusal));
                    }
                    // A TypeScript worker does not say.
                    None if self.max_tokens == Some(self.count) => "length".to_owned(),
                    None => "stop".to_owned(),
                    Some(reason) => reason.to_string(),
                };
                Ok(Piece { text: self.stop.finish(), delta: None, end: Some(self.ended(reason)) })
            }
        }
    }

    fn ended(&mut self, reason: impl Into<String>) -> Ending {
        self.outcome = Some(Outcome::Answered);
        let usage = self.tokens.summary().and_then(|summary| summary.usage).unwrap_or_default();
        Ending { reason: reason.into(), tokens: self.count, usage }
    }

    fn failed(&mut self, refusal: ApiError) -> ApiError {
        self.outcome = Some(Outcome::Failed(refusal.code.clone()));
        refusal
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.gateway.stats.ended(outcome);
        }
    }
}

struct Unanswered {
    gateway: Arc<Gateway>,
    outcome: Option<Outcome>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.gateway.stats.ended(outcome);
        }
    }
}

/// Names the members that no worker accepts, in the words of the request.
fn unsupported(model: &str, demands: &[String]) -> ApiError {
    let names: Vec<String> = demands.iter().map(|name| format!("`{name}`")).collect();
    let message = format!(
        "no worker of the model `{model}` passes on {}: none of them has an engine that takes it",
        names.join(", ")
    );
    let refusal = ApiError::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message);
    ApiError { param: demands.first().cloned(), ..refusal }
}
