//! What a token stream brings, and the ways in which it ends.

use std::task::Poll;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::FinishReason;
use mlx_types::subjects;

use super::TokenStream;
use crate::log_limit::LogLimit;
use crate::subscribe::RawSubscription;

/// Streams whose reader was too slow.
static TOO_SLOW: LogLimit = LogLimit::new();

/// One token of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFrame {
    /// Its index, from 0, without gaps.
    pub index: u64,
    /// Its text.
    pub text: String,
}

/// What a stream came to.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamSummary {
    /// Tokens received.
    pub tokens: u64,
    /// From the request to the first token; unset when none came.
    pub time_to_first_token: Option<Duration>,
    /// From the request to the end.
    pub duration: Duration,
    /// Why the worker stopped, where it finished and said so.
    pub finish_reason: Option<FinishReason>,
}

impl TokenStream {
    pub(super) fn end(&mut self, finish_reason: Option<FinishReason>, error: Option<&Error>) {
        // What is kept for its summary has no further use for these.
        self.frames = None;
        self.acceptance = None;
        self.departure = None;
        self.suspicion = None;
        self.reading = None;
        self.measure.ended(error);
        self.span.end(error);
        self.summary = Some(StreamSummary {
            tokens: self.assembly.received(),
            time_to_first_token: self.first_token.map(|first| first - self.started),
            duration: self.started.elapsed(),
            finish_reason,
        });
    }

    /// The end with an error; a worker that may still be at it is told to stop.
    pub(super) fn fail(&mut self, kind: impl Into<Error>, worker_goes_on: bool) -> Poll<Option<Result<TokenFrame>>> {
        let mut error = kind.into();
        if self.first_token.is_some()
            && let ErrorKind::Remote(remote) = error.kind()
        {
            // What has been shown would be shown twice.
            error = remote.clone().after_begin().into();
        }
        self.end(None, Some(&error));
        if worker_goes_on {
            self.call_off();
        }
        if let Some(half) = self.joiner.finish() {
            self.epilogue = Some(error);
            return self.last_half(half);
        }
        Poll::Ready(Some(Err(error)))
    }

    /// The rest of the last token: half a character of which the other half never came.
    pub(super) fn last_half(&self, half: char) -> Poll<Option<Result<TokenFrame>>> {
        let index = self.assembly.received().saturating_sub(1);
        Poll::Ready(Some(Ok(TokenFrame { index, text: half.to_string() })))
    }

    /// Says of a reader that it lost tokens by its slowness.
    pub(super) fn too_slow(&self, dropped: u64) -> ErrorKind {
        let subject = subjects::response(self.request_id).to_string();
        if let Some(so_far) = TOO_SLOW.count(std::time::Instant::now()) {
            tracing::warn!(subject, dropped, so_far, "the reader of a token stream is too slow and loses tokens");
        }
        ErrorKind::SlowConsumer { subject, dropped }
    }

    /// The subscription has ended: the server took it away, or the connection is gone.
    pub(super) fn ended_early(&mut self) -> Poll<Option<Result<TokenFrame>>> {
        if let Some(refused) = self.frames.as_ref().and_then(RawSubscription::refused) {
            return self.fail(refused, true);
        }
        let tokens = self.assembly.received();
        self.fail(ErrorKind::StreamDisconnected { tokens }, false)
    }

    pub(super) fn too_silent(&mut self) -> ErrorKind {
        let (timeout, tokens) = (self.silence.timeout(), self.assembly.received());
        match self.first_token {
            // The end itself may have been dropped, and at the least that was.
            Some(_) if self.backlog.overflowed() => self.too_slow(1),
            Some(_) => ErrorKind::InterTokenTimeout { timeout, tokens },
            None => ErrorKind::FirstTokenTimeout { timeout },
        }
    }
}
