//! One request: handed to a worker, to another one while nothing has come back, and read to its one end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use futures_util::StreamExt;
use mlx_errors::Error;
use mlx_nats::{TokenFrame, TokenStream, WorkerInfo};
use mlx_types::RequestId;
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest};

use super::Gateway;
use super::placement::Assignment;
use super::refusal::{ApiError, is_overload};
use super::registry::models_of;
use super::stats::Outcome;
use super::stop::StopSequences;

/// An answer under way. Dropping it tells the worker to stop.
pub struct Answer {
    front: Arc<Gateway>,
    tokens: TokenStream,
    place: Assignment,
    /// What came first, already here.
    first: Option<TokenFrame>,
    stop: StopSequences,
    max_tokens: Option<u64>,
    count: u64,
    outcome: Option<Outcome>,
}

/// More of an answer.
#[derive(Debug, Default)]
pub struct Piece {
    /// Text, possibly none.
    pub text: String,
    /// How it ended, if it did.
    pub end: Option<Ending>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// `stop` or `length`.
    pub reason: &'static str,
    /// Tokens made.
    pub tokens: u64,
}

impl Gateway {
    /// Hands a request to the least loaded worker that has its model, and returns with the first token.
    ///
    /// A worker that cannot answer is replaced by the next, each asked once, as long as no token has come.
    ///
    /// # Errors
    /// No such model, no worker, all of them busy, or the last error where it may not be tried elsewhere.
    ///
    /// # Cancel safety
    /// A dropped future tells the worker to stop.
    pub async fn ask(self: &Arc<Self>, request: InferenceRequest, stop: Vec<String>) -> Result<Answer, ApiError> {
        let began = Instant::now();
        // Counts the request, however it ends: by being dropped too.
        let mut unanswered = Unanswered { front: Arc::clone(self), outcome: Some(Outcome::Cancelled) };
        let asked = tokio::select! {
            asked = self.ask_in_turn(&request) => asked,
            () = self.ended() => Err(shutting_down()),
        };
        unanswered.outcome = asked.as_ref().err().map(|refusal| Outcome::Failed(refusal.code.clone()));
        let (tokens, place, first) = asked?;
        if first.is_some() {
            self.stats.first_token(began.elapsed());
        }
        Ok(Answer {
            front: Arc::clone(self),
            tokens,
            place,
            first,
            stop: StopSequences::new(stop),
            max_tokens: request.max_tokens,
            count: 0,
            outcome: Some(Outcome::Cancelled),
        })
    }

    async fn ask_in_turn(
        &self,
        request: &InferenceRequest,
    ) -> Result<(TokenStream, Assignment, Option<TokenFrame>), ApiError> {
        let mut asked = HashSet::new();
        let (mut busy, mut last) = (None, None);
        loop {
            let workers = self.registry.list();
            let able = workers.iter().filter(|worker| models_of(worker).any(|model| model == request.model_id));
            let Some(place) = self.placement.choose(able.filter(|worker| !asked.contains(&worker.worker_id))) else {
                // One that is only busy may be free a moment later, so that this is what is worth saying.
                let error: Option<Error> = busy.or(last);
                return Err(error.map_or_else(|| self.nobody_has(&request.model_id, &workers), |e| ApiError::from(&e)));
            };
            asked.insert(place.worker);
            match self.first_token(&place, request).await {
                Ok((tokens, first)) => return Ok((tokens, place, first)),
                Err(error) if error.is_retryable() => {
                    tracing::info!(worker = %place.worker, error = &error as &dyn std::error::Error, "asking elsewhere");
                    self.stats.retried();
                    let kept = if is_overload(&error) { &mut busy } else { &mut last };
                    *kept = Some(error);
                }
                Err(error) => return Err(ApiError::from(&error)),
            }
        }
    }

    async fn first_token(
        &self,
        place: &Assignment,
        request: &InferenceRequest,
    ) -> mlx_errors::Result<(TokenStream, Option<TokenFrame>)> {
        // An id of its own for each attempt: nothing that a former one still sends can get in between.
        let request = request.clone().request_id(RequestId::new());
        let mut tokens = self.client.infer(place.worker, &request).await?;
        let first = tokens.next().await.transpose()?;
        Ok((tokens, first))
    }

    fn nobody_has(&self, model: &str, workers: &[WorkerInfo]) -> ApiError {
        if !self.client.state().is_connected() {
            let message = "the controller has lost its message bus, and tries to get it back";
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "NATS_DISCONNECTED", message);
        }
        if workers.is_empty() {
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_workers", "no worker is online");
        }
        let models = self.models();
        let known: Vec<String> = models.keys().map(|model| format!("`{model}`")).collect();
        let message = format!("no worker has a model `{model}`; there are: {}", known.join(", "));
        let refusal = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
        ApiError { param: Some("model".to_owned()), ..refusal }
    }
}

impl Answer {
    /// Who answers.
    pub fn worker(&self) -> WorkerId {
        self.place.worker
    }

    /// What comes next. Nothing comes after an end or an error.
    ///
    /// # Errors
    /// The worker died, fell silent, or failed; or the front door closes.
    ///
    /// # Cancel safety
    /// No text is lost by dropping the future.
    pub async fn next(&mut self) -> Result<Piece, ApiError> {
        let frame = if let Some(first) = self.first.take() {
            Some(Ok(first))
        } else {
            tokio::select! {
                frame = self.tokens.next() => frame,
                () = self.front.ended() => return Err(self.failed(shutting_down())),
            }
        };
        match frame {
            Some(Ok(frame)) => {
                self.count += 1;
                self.front.stats.token(self.place.worker, Instant::now());
                let (text, stopped) = self.stop.push(&frame.text);
                // What the worker would say after a stop sequence nobody wants; dropping the stream tells it so.
                Ok(Piece { text, end: stopped.then(|| self.ended("stop")) })
            }
            Some(Err(error)) => Err(self.failed(ApiError::from(&error))),
            None => {
                let reason = self.tokens.summary().and_then(|summary| summary.finish_reason.as_ref());
                let reason = match reason {
                    Some(FinishReason::Length) => "length",
                    Some(FinishReason::Cancelled) => {
                        let message = "the worker ended the answer before it was whole";
                        let refusal = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "STREAM_CANCELLED", message);
                        return Err(self.failed(refusal));
                    }
                    // A TypeScript worker does not say.
                    None if self.max_tokens == Some(self.count) => "length",
                    _ => "stop",
                };
                Ok(Piece { text: self.stop.finish(), end: Some(self.ended(reason)) })
            }
        }
    }

    fn ended(&mut self, reason: &'static str) -> Ending {
        self.outcome = Some(Outcome::Answered);
        Ending { reason, tokens: self.count }
    }

    fn failed(&mut self, refusal: ApiError) -> ApiError {
        self.outcome = Some(Outcome::Failed(refusal.code.clone()));
        refusal
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.front.stats.ended(outcome);
        }
    }
}

struct Unanswered {
    front: Arc<Gateway>,
    outcome: Option<Outcome>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.front.stats.ended(outcome);
        }
    }
}

fn shutting_down() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the controller is shutting down")
}
