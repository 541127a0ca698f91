//! A model server's stream of events, read as the pieces of an answer.

use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use mlx_errors::{ErrorKind, Result};
use mlx_types::config::StreamingConfig;
use mlx_types::messages::{FinishReason, Usage};
use reqwest::RequestBuilder;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;
use sse_stream::Sse;
use tokio::time::{Instant, timeout_at};

use super::bounded;
use super::failure::Failures;
use crate::engine::Piece;

/// What follows the last token is waited for so long at the most: once it is read, the connection can be used again.
const AFTERWORD: Duration = Duration::from_millis(250);
/// What ends a stream, beside its connection's end.
const DONE: &str = "[DONE]";
/// The name of an event that tells of an error.
const ERROR_EVENT: &str = "error";
/// Reasons to stop that are failures: of an engine that died (vLLM), or gave up.
const FAILED: [&str; 2] = ["abort", "error"];

/// How long silence is borne.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    first_token: Duration,
    between_tokens: Duration,
}

impl From<&StreamingConfig> for Limits {
    fn from(config: &StreamingConfig) -> Self {
        Self {
            first_token: config.first_token_timeout_ms.as_duration(),
            between_tokens: config.inter_token_timeout_ms.as_duration(),
        }
    }
}

/// Asks, and returns the pieces as they come. Dropping them closes the connection, by which the server knows that nobody
/// wants the rest.
pub(super) async fn begin(
    request: RequestBuilder,
    limits: Limits,
    failures: Failures,
) -> Result<impl Stream<Item = Result<Piece>> + Send + 'static> {
    let deadline = Instant::now() + limits.first_token;
    let asked = timeout_at(deadline, request.header(ACCEPT, "text/event-stream").send()).await;
    let response = asked.map_err(|_| silence(limits, 0))?.map_err(|error| failures.unreachable(error))?;
    if !response.status().is_success() {
        return Err(timeout_at(deadline, failures.refused(response)).await.unwrap_or_else(|_| silence(limits, 0)));
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("text/event-stream") {
        // Some servers tell of an error by a 200.
        let told = timeout_at(deadline, failures.refused_by_success(response)).await;
        return Err(told.unwrap_or_else(|_| silence(limits, 0)));
    }
    let events = bounded::events(response);
    let answer = Answer { events, limits, failures, deadline, tokens: 0, usage: None, finish: None, ended: false };
    Ok(stream::try_unfold(answer, |mut answer| async move { Ok(answer.next().await?.map(|piece| (piece, answer))) }))
}

struct Answer {
    events: BoxStream<'static, Result<Sse, sse_stream::Error>>,
    limits: Limits,
    failures: Failures,
    /// When the next token has to be there. Comments and empty pieces do not move it, as they do not at the requester.
    deadline: Instant,
    /// Tokens so far.
    tokens: u64,
    /// What the server counted, until it is passed on.
    usage: Option<Usage>,
    /// Why the server said that it stopped, once it did.
    finish: Option<FinishReason>,
    ended: bool,
}

impl Answer {
    async fn next(&mut self) -> Result<Option<Piece>> {
        while !self.ended {
            let event = match timeout_at(self.deadline, self.events.next()).await {
                Ok(Some(Ok(event))) => event,
                // Whatever becomes of the connection once all has been said.
                _ if self.finish.is_some() => return self.end().map(Some),
                Ok(Some(Err(error))) => return Err(self.failures.interrupted(self.tokens, error)),
                Ok(None) => return Err(self.failures.broken(self.tokens)),
                Err(_) => return Err(silence(self.limits, self.tokens)),
            };
            let is_error = event.event.as_deref() == Some(ERROR_EVENT);
            let Some(data) = event.data.filter(|data| !data.trim().is_empty()) else { continue };
            if is_error {
                return Err(self.failures.reported(&serde_json::from_str(&data).unwrap_or(Value::String(data))));
            }
            if let Some(text) = self.read(&data)? {
                self.tokens += 1;
                return Ok(Some(Piece::Token(text)));
            }
        }
        Ok(None)
    }

    /// The text of an event, if it has any.
    fn read(&mut self, data: &str) -> Result<Option<String>> {
        if data.trim() == DONE {
            // It ends the stream. Why, the server has said before: one that breaks an answer off says nothing else than this.
            return if self.finish.is_some() { Ok(None) } else { Err(self.failures.broken(self.tokens)) };
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|error| self.failures.unread(&error))?;
        if let Some(error) = chunk.error {
            return Err(self.failures.reported(&error));
        }
        if let Some(counted) = chunk.usage {
            self.usage = Some(counted.into());
        }
        // One choice is asked for; an event without any tells of the usage.
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(None) };
        let text = choice.delta.and_then(|delta| delta.content).or(choice.text).filter(|text| !text.is_empty());
        if text.is_some() {
            // What came before it was no end.
            self.finish = None;
            self.deadline = Instant::now() + self.limits.between_tokens;
        }
        match choice.finish_reason.as_deref() {
            // Some servers say so in every event.
            None | Some("") => {}
            Some(reason) if FAILED.contains(&reason) => return Err(self.failures.gave_up(reason)),
            Some(reason) => self.finish(FinishReason::from(reason)),
        }
        Ok(text)
    }

    /// The first reason counts.
    fn finish(&mut self, reason: FinishReason) {
        if self.finish.is_none() {
            self.finish = Some(reason);
            self.deadline = Instant::now() + AFTERWORD;
        }
    }

    fn end(&mut self) -> Result<Piece> {
        if let Some(usage) = self.usage.take() {
            return Ok(Piece::Usage(usage)); // the end is what comes next
        }
        self.ended = true;
        let reason = self.finish.take().ok_or_else(|| self.failures.broken(self.tokens))?;
        Ok(Piece::End(reason))
    }
}

fn silence(limits: Limits, tokens: u64) -> mlx_errors::Error {
    match tokens {
        0 => ErrorKind::FirstTokenTimeout { timeout: limits.first_token },
        tokens => ErrorKind::InterTokenTimeout { timeout: limits.between_tokens, tokens },
    }
    .into()
}

/// An event of either API, as far as it matters.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<Value>,
    usage: Option<Counted>,
}

/// What a server counts. It is there for people's figures: what cannot be read of it is left out.
#[derive(Deserialize)]
struct Counted {
    prompt_tokens: Option<Value>,
    completion_tokens: Option<Value>,
    prompt_tokens_details: Option<Value>,
}

impl From<Counted> for Usage {
    fn from(counted: Counted) -> Self {
        let count = |value: &Option<Value>| value.as_ref().and_then(Value::as_u64);
        let cached = counted.prompt_tokens_details.as_ref().and_then(|details| details.get("cached_tokens")?.as_u64());
        Self::default()
            .prompt_tokens(count(&counted.prompt_tokens))
            .completion_tokens(count(&counted.completion_tokens))
            .cached_tokens(cached)
    }
}

#[derive(Deserialize)]
struct Choice {
    /// Of a chat.
    delta: Option<Delta>,
    /// Of a plain completion.
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}
