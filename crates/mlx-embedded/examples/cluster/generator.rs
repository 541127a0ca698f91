//! What makes the text: a trait with one stand-in behind it.

use std::time::Duration;

use futures_util::Stream;
use mlx_errors::Result;
use mlx_types::messages::InferenceRequest;

/// A source of tokens. Put a model behind it.
pub trait Generator: Send + Sync + 'static {
    /// The ids of the models that it can answer with.
    fn models(&self) -> Vec<String>;

    /// The tokens that answer a request, as they are made; dropped when the requester cancels.
    fn generate(&self, request: &InferenceRequest) -> impl Stream<Item = Result<String>> + Send + 'static;
}

/// The id under which the stand-in answers.
pub const STAND_IN: &str = "stand-in";

/// Stands in for a model: answers from the prompt itself, the same answer each time, at a set rate.
pub struct StandInGenerator {
    interval: Duration,
}

impl StandInGenerator {
    /// A generator of `tokens_per_second`.
    pub fn new(tokens_per_second: f64) -> Self {
        Self { interval: Duration::from_secs_f64(1.0 / tokens_per_second) }
    }
}

impl Generator for StandInGenerator {
    fn models(&self) -> Vec<String> {
        vec![STAND_IN.to_owned()]
    }

    fn generate(&self, request: &InferenceRequest) -> impl Stream<Item = Result<String>> + Send + 'static {
        let tokens: Vec<String> = answer(&request.prompt).split_inclusive(' ').map(str::to_owned).collect();
        // The rate is what is asked for, so time itself is the point of waiting.
        let mut clock = tokio::time::interval(self.interval);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        futures_util::stream::unfold((tokens.into_iter(), clock), |(mut tokens, mut clock)| async move {
            let token = tokens.next()?;
            clock.tick().await;
            Some((Ok(token), (tokens, clock)))
        })
    }
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
