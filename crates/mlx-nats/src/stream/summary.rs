//! The figures of a stream that has ended.

use std::time::Duration;

use mlx_types::messages::{FinishReason, Usage};

/// What a stream came to.
///
/// ```no_run
/// # async fn example(client: mlx_nats::Client, worker: mlx_types::WorkerId) -> mlx_nats::Result<()> {
/// use futures_util::StreamExt;
/// use mlx_types::messages::InferenceRequest;
///
/// let mut tokens = client.infer(worker, &InferenceRequest::new("llama-3", "Hello")).await?;
/// while let Some(token) = tokens.next().await {
///     print!("{}", token?.text);
/// }
/// if let Some(summary) = tokens.summary() {
///     println!("{} tokens in {:?}, {:?} to the first", summary.tokens, summary.duration, summary.time_to_first_token);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StreamSummary {
    /// Tokens received.
    pub tokens: u64,
    /// From the request to the first token; unset when none came.
    pub time_to_first_token: Option<Duration>,
    /// From the request to the end.
    pub duration: Duration,
    /// Why the worker stopped, where it finished and said so.
    pub finish_reason: Option<FinishReason>,
    /// What the answer cost, where the worker's engine counts it and said so.
    pub usage: Option<Usage>,
}
