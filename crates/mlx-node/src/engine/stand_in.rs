//! What there is without a model.

use std::time::Duration;

use futures_util::future::{self, BoxFuture};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use mlx_errors::Result;
use mlx_types::messages::{FinishReason, InferenceRequest};

use super::{Engine, Piece};

/// The id under which the stand-in answers.
pub(super) const MODEL: &str = "stand-in";

/// Stands in for a model: answers from the prompt itself, the same answer each time, at a set rate.
pub(super) struct StandIn {
    interval: Duration,
}

impl StandIn {
    /// An engine of `tokens_per_second`.
    pub(super) fn new(tokens_per_second: f64) -> Self {
        Self { interval: Duration::from_secs_f64(1.0 / tokens_per_second) }
    }
}

impl Engine for StandIn {
    fn models(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        future::ready(Ok(vec![MODEL.to_owned()])).boxed()
    }

    fn generate(&self, request: InferenceRequest) -> BoxStream<'static, Result<Piece>> {
        // The rate is what is asked for, so time itself is the point of waiting.
        let mut clock = tokio::time::interval(self.interval);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        stream::unfold((pieces(&request).into_iter(), clock), |(mut pieces, mut clock)| async move {
            let piece = pieces.next()?;
            if let Piece::Token(_) = piece {
                clock.tick().await;
            }
            Some((Ok(piece), (pieces, clock)))
        })
        .boxed()
    }
}

fn pieces(request: &InferenceRequest) -> Vec<Piece> {
    let answer = answer(&request.prompt);
    let mut tokens = answer.split_inclusive(' ').map(|token| Piece::Token(token.to_owned()));
    let limit = request.max_tokens.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut pieces: Vec<Piece> = tokens.by_ref().take(limit).collect();
    let cut = tokens.next().is_some();
    pieces.push(Piece::End(if cut { FinishReason::Length } else { FinishReason::Stop }));
    pieces
}

fn answer(prompt: &str) -> String {
    let words: Vec<&str> = prompt.split_whitespace().collect();
    let backwards = words.iter().rev().copied().collect::<Vec<_>>().join(" ");
    format!(
        "You said: {prompt} There is no model behind this answer, only a stand-in that works on the prompt itself. \
         Its length is {} in words and {} in characters, and backwards it reads: {backwards}",
        words.len(),
        prompt.chars().count(),
    )
}
