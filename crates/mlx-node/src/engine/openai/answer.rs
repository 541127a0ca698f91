//! A model server's stream of events, read as the pieces of an answer.

use std::collections::{HashSet, VecDeque};
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
use serde_json::value::RawValue;
use sse_stream::Sse;
use tokio::time::{Instant, timeout_at};

use super::bounded;
use super::choice::{Choice, Says};
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

/// Asks for so many answers in one, and returns the pieces as they come. Dropping them closes the connection, by which the server knows that nobody
/// wants the rest.
pub(super) async fn begin(
    request: RequestBuilder,
    choices: u64,
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
    let answer = Answer {
        events,
        limits,
        failures,
        deadline,
        taken: 0,
        pieces: VecDeque::new(),
        choices,
        over: HashSet::new(),
        usage: None,
        finish: None,
        ended: false,
    };
    Ok(stream::try_unfold(answer, |mut answer| async move { Ok(answer.next().await?.map(|piece| (piece, answer))) }))
}

struct Answer {
    events: BoxStream<'static, Result<Sse, sse_stream::Error>>,
    limits: Limits,
    failures: Failures,
    /// When the next piece has to be there. Comments and empty pieces do not move it, as they do not at the requester.
    deadline: Instant,
    /// Pieces so far.
    taken: u64,
    /// Those of an event that are not handed on yet.
    pieces: VecDeque<Piece>,
    /// Answers that were asked for.
    choices: u64,
    /// Those that have ended, where there are several.
    over: HashSet<u64>,
    /// What the server counted, until it is passed on.
    usage: Option<Usage>,
    /// Why the server said that it stopped, once it did.
    finish: Option<FinishReason>,
    ended: bool,
}

impl Answer {
    async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(None);
            }
            let event = match timeout_at(self.deadline, self.events.next()).await {
                Ok(Some(Ok(event))) => event,
                // Whatever becomes of the connection once all has been said.
                _ if self.finish.is_some() => return self.end().map(Some),
                Ok(Some(Err(error))) => return Err(self.failures.interrupted(self.taken, error)),
                Ok(None) => return Err(self.failures.cut_off(self.taken)),
                Err(_) => return Err(silence(self.limits, self.taken)),
            };
            let is_error = event.event.as_deref() == Some(ERROR_EVENT);
            let Some(data) = event.data.filter(|data| !data.trim().is_empty()) else { continue };
            if is_error {
                return Err(self.failures.reported(&serde_json::from_str(&data).unwrap_or(Value::String(data))));
            }
            self.read(&data)?;
        }
    }

    /// Takes the pieces of an event.
    fn read(&mut self, data: &str) -> Result<()> {
        if data.trim() == DONE {
            // It ends the stream. Why, the server has said before: one that breaks an answer off says nothing else than this.
            return if self.finish.is_some() { Ok(()) } else { Err(self.failures.broken(self.taken)) };
        }
        let chunk: Chunk<'_> = serde_json::from_str(data).map_err(|error| self.failures.unread(&error))?;
        if let Some(error) = chunk.error {
            return Err(self.failures.reported(&error));
        }
        if let Some(counted) = chunk.usage {
            self.usage = Some(counted.into());
        }
        // An event without any choice tells of the usage.
        for choice in chunk.choices.unwrap_or_default() {
            let choice = Choice::read(choice).map_err(|error| self.failures.unread(&error))?;
            self.take(&choice)?;
        }
        Ok(())
    }

    fn take(&mut self, choice: &Choice<'_>) -> Result<()> {
        let reason = choice.finish_reason.as_deref().filter(|reason| !reason.is_empty()); // some servers say it in every event
        if let Some(reason) = reason.filter(|reason| FAILED.contains(reason)) {
            return Err(self.failures.gave_up(reason));
        }
        if self.choices > 1 {
            // Each has its own end, which goes along with it.
            let delta = choice.as_it_came().map_err(|error| self.failures.unread(&error))?;
            self.put(Piece::Delta { delta, text: None, essential: true });
            if let Some(reason) = reason {
                self.over.insert(choice.index);
                if self.over.len() as u64 == self.choices {
                    self.finish(FinishReason::from(reason));
                }
            }
            return Ok(());
        }
        if choice.index > 0 {
            return Ok(()); // not asked for
        }
        match choice.says() {
            Says::Nothing => {}
            Says::Text(text) => self.put(Piece::Token(text)),
            Says::More { text, essential } => {
                let delta = choice.without_end().map_err(|error| self.failures.unread(&error))?;
                self.put(Piece::Delta { delta, text, essential });
            }
        }
        if let Some(reason) = reason {
            self.finish(FinishReason::from(reason));
        }
        Ok(())
    }

    /// Whatever a server sends of an answer shows that it is at it.
    fn put(&mut self, piece: Piece) {
        self.taken += 1;
        // What came before it was no end.
        self.finish = None;
        self.deadline = Instant::now() + self.limits.between_tokens;
        self.pieces.push_back(piece);
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
        let reason = self.finish.take().ok_or_else(|| self.failures.broken(self.taken))?;
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
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<&'a RawValue>>,
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
