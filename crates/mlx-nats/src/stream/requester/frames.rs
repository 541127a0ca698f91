//! What a stream makes of a frame.

use std::task::Poll;
use std::time::Duration;

use mlx_errors::{ErrorKind, Result};
use mlx_types::messages::{Frame, RawObject, StreamingResponse};
use serde::Deserialize;
use tokio::time::Instant;

use super::{TokenFrame, TokenStream};
use crate::stream::assembly::Step;
use crate::stream::silence::SUSPICIOUS;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::measure;
use crate::wire::{codec, headers, surrogates};

/// Frames that belong to other answers.
static FOREIGN: LogLimit = LogLimit::new();

impl TokenStream {
    /// Notes which attempt, by which worker, brought the first token.
    fn settle_on(&mut self, attempt: u64, message: &async_nats::Message) {
        self.attempt = Some(attempt);
        if self.worker_id.is_none()
            && let Some(worker_id) = headers::first(message, headers::WORKER).and_then(|id| id.parse().ok())
        {
            self.depend_on(worker_id);
        }
    }

    pub(super) fn take(&mut self, message: &async_nats::Message) -> Option<Poll<Option<Result<TokenFrame>>>> {
        let (Frame { response: frame, epoch, .. }, halves) = match self.read(message) {
            Ok(read) => read,
            // A frame that cannot be read may have held tokens: going on would be a silent gap.
            Err(error) => return Some(self.fail(error, true)),
        };
        if frame.request_id() != self.request_id || !self.run.admits(epoch) {
            self.foreign();
            return None;
        }
        let attempt = headers::first(message, headers::ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(1);
        if self.attempt.is_some_and(|settled| settled != attempt) {
            return None; // of a second run of what is being answered already
        }
        match self.assembly.accept(frame) {
            Step::Token { index, token } => {
                self.took_tokens(attempt, message, 1);
                let text = self.whole(token, halves);
                Some(Poll::Ready(Some(Ok(TokenFrame { index, text, delta: None }))))
            }
            Step::Delta { index, delta } => {
                self.took_tokens(attempt, message, 1);
                // Behind the rest of a character that no token came to finish.
                let text = self.joiner.finish().into_iter().map(String::from).chain(text_in(&delta)).collect();
                Some(Poll::Ready(Some(Ok(TokenFrame { index, text, delta: Some(delta) }))))
            }
            Step::Tokens { index, tokens } => {
                self.took_tokens(attempt, message, tokens.len());
                for (index, token) in (index..).zip(tokens) {
                    let text = self.whole(token, halves);
                    self.ready.push_back(TokenFrame { index, text, delta: None });
                }
                None
            }
            Step::Repeated => {
                self.backlog.took();
                None
            }
            Step::Done(finish_reason, usage) => {
                self.end(finish_reason, usage, None);
                Some(self.joiner.finish().map_or(Poll::Ready(None), |half| self.last_half(half)))
            }
            Step::Failed(ErrorKind::StreamGap { expected, got }) if self.backlog.overflowed() => {
                Some(self.fail(self.too_slow(got.saturating_sub(expected)), true))
            }
            Step::Failed(ErrorKind::StreamGap { .. }) if self.first_token.is_none() && self.route.begins_again() => {
                None
            }
            Step::Failed(kind) => {
                let worker_goes_on = matches!(kind, ErrorKind::StreamGap { .. });
                Some(self.fail(kind, worker_goes_on))
            }
        }
    }

    fn took_tokens(&mut self, attempt: u64, message: &async_nats::Message, count: usize) {
        self.backlog.took();
        if self.attempt.is_none() {
            self.settle_on(attempt, message);
        }
        self.progressed = true;
        if self.first_token.is_none() {
            self.begun();
        }
        self.measure.tokens(count);
    }

    fn begun(&mut self) {
        let now = Instant::now();
        self.first_token = Some(now);
        self.silence.progress(now, self.slept(now));
        // The timeout between tokens may be shorter than what is left of that for the first one.
        let next = now.checked_add(self.silence.timeout().min(SUSPICIOUS)).unwrap_or(now);
        self.look.as_mut().reset(next);
        if self.run.is_marked() {
            self.knows_to_answer();
        }
    }

    /// Only a worker that says its incarnation answers when it is asked for a sign of life.
    pub(super) fn knows_to_answer(&mut self) {
        if let Some(worker_id) = self.worker_id
            && !self.is_known_to_answer
        {
            self.is_known_to_answer = true;
            self.workers.answers(worker_id);
        }
    }

    pub(super) fn slept(&self, now: Instant) -> Duration {
        self.client.link().clock().slept(now.into_std())
    }

    /// The frame, and whether its tokens have stand-ins for half characters.
    fn read(&mut self, message: &async_nats::Message) -> Result<(Frame, bool)> {
        if let Some(frame) = codec::decode_whole(&message.subject, &message.payload, Frame::check) {
            return Ok((frame?, false));
        }
        let read = |json: &[u8]| codec::decode(&message.subject, json, Frame::check);
        let Some(json) = surrogates::replace_halves(&message.payload) else {
            return Ok((read(&message.payload)?, false));
        };
        let frame = read(&json)?;
        if matches!(frame.response, StreamingResponse::Token { .. } | StreamingResponse::Tokens { .. }) {
            self.has_halves = true;
            return Ok((frame, true));
        }
        // Only between tokens is there another half to wait for.
        Ok((read(&message.payload)?, false))
    }

    /// The text of a token, with what was held back of the one before.
    fn whole(&mut self, token: String, halves: bool) -> String {
        match (self.has_halves, halves) {
            (false, _) => token,
            (true, true) => self.joiner.join(&token),
            (true, false) => self.joiner.before(token),
        }
    }

    /// A frame of another request, or of another worker with the same id: counted, and never text.
    pub(super) fn foreign(&self) {
        measure::foreign_frame();
        if let Some(so_far) = FOREIGN.count(std::time::Instant::now()) {
            let request = self.request_id;
            tracing::warn!(%request, so_far, "dropped a frame of another answer: have two workers one id?");
        }
    }
}

/// The text of the first answer in a delta, for readers of text alone.
fn text_in(delta: &RawObject) -> Option<String> {
    #[derive(Deserialize)]
    struct Entry {
        index: Option<u64>,
        delta: Option<Content>,
        text: Option<String>,
    }
    #[derive(Deserialize)]
    struct Content {
        content: Option<String>,
    }
    // One in which the text is something else than a text has none.
    let entry = delta.read::<Entry>().ok().filter(|entry| entry.index.unwrap_or(0) == 0)?;
    entry.delta.and_then(|delta| delta.content).or(entry.text)
}
