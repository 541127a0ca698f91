//! How a stream judges the silence of its worker.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use mlx_errors::ErrorKind;
use tokio::time::Instant;

use super::TokenStream;
use crate::stream::silence::{SUSPICIOUS, Verdict};

/// What a look at the silence comes to.
pub(super) enum Silent {
    /// Everything has been read: look whether something has come.
    Look,
    Over(ErrorKind),
}

/// How long the server may take to show that everything was read, before a stream that was silent for long enough ends.
const READING_TIMEOUT: Duration = Duration::from_secs(1);

impl TokenStream {
    /// Whether the worker has been silent for too long, after all that has come was read.
    pub(super) fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<Silent> {
        if std::mem::take(&mut self.progressed) {
            let now = Instant::now();
            self.silence.progress(now, self.slept(now));
            (self.reading, self.has_read) = (None, false);
            if let Some(suspicion) = self.suspicion.take() {
                suspicion.refuted();
                // The next silence begins here, and the timer stands at the end of the one that is over.
                self.look.as_mut().reset(now + SUSPICIOUS.min(self.silence.timeout()));
            }
        }
        loop {
            if let Some(reading) = &mut self.reading {
                ready!(reading.as_mut().poll(context));
                (self.reading, self.has_read) = (None, true);
                return Poll::Ready(Silent::Look);
            }
            if !self.has_read {
                ready!(self.look.as_mut().poll(context));
            }
            let now = Instant::now();
            let next = match self.silence.look(now, self.slept(now)) {
                Verdict::Fine(next) => next,
                Verdict::Suspicious(next) => {
                    if self.suspicion.is_none()
                        && let Some(worker_id) = self.worker_id
                    {
                        self.suspicion = Some(self.workers.suspect(worker_id));
                    }
                    next
                }
                Verdict::Over if self.has_read => return Poll::Ready(Silent::Over(self.too_silent())),
                Verdict::Over => {
                    let client = self.client.clone();
                    self.reading = Some(Box::pin(async move {
                        // A server that does not answer has nothing to say either.
                        let _ = client.round_trip("tokens", READING_TIMEOUT).await;
                    }));
                    continue;
                }
            };
            self.has_read = false;
            self.look.as_mut().reset(next);
        }
    }

    fn too_silent(&mut self) -> ErrorKind {
        let (timeout, tokens) = (self.silence.timeout(), self.assembly.received());
        match self.first_token {
            // The end itself may have been dropped, and at the least that was.
            Some(_) if self.backlog.overflowed() => self.too_slow(1),
            Some(_) => ErrorKind::InterTokenTimeout { timeout, tokens },
            None => ErrorKind::FirstTokenTimeout { timeout },
        }
    }
}
