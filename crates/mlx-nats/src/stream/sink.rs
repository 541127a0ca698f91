//! Where a worker puts its tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::{CancelMode, FinishReason, StreamingResponse};
use mlx_types::{RequestId, Subject, subjects};
use tokio::sync::watch;

use crate::Client;

/// The answering side of one token stream.
///
/// Give it tokens with [`send`](Self::send); the end is sent by the service when the handler returns.
#[derive(Debug)]
pub struct TokenSink {
    stream: Arc<OutgoingStream>,
    cancelled: watch::Receiver<Option<CancelMode>>,
}

impl TokenSink {
    pub(super) fn new(stream: Arc<OutgoingStream>) -> Self {
        let cancelled = stream.cancel.subscribe();
        Self { stream, cancelled }
    }

    /// Sends the next token.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when the requester no longer wants any: return it from the handler, which then ends
    /// the stream the way that the requester asked for. Otherwise those of [`publish`](Client::publish).
    ///
    /// # Cancel safety
    /// A token whose future is dropped may or may not have been sent; the handler should end then.
    pub async fn send(&mut self, token: impl Into<String>) -> Result<()> {
        if self.cancelled.borrow().is_some() {
            return Err(self.stream.cancelled_error());
        }
        let index = self.stream.sent.load(Ordering::Relaxed);
        let frame = StreamingResponse::Token { request_id: self.stream.request_id, token: token.into(), index };
        self.stream.publish(&frame).await?;
        self.stream.sent.store(index + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Tokens sent so far.
    pub fn sent(&self) -> u64 {
        self.stream.sent.load(Ordering::Relaxed)
    }

    /// Resolves when the requester no longer wants any tokens, with the error to return from the handler.
    ///
    /// For handlers that wait for something else meanwhile, for example a model server.
    pub async fn cancelled(&mut self) -> Error {
        if self.cancelled.wait_for(Option::is_some).await.is_err() {
            // The service that would tell is gone, and this handler goes with it.
            std::future::pending::<()>().await;
        }
        self.stream.cancelled_error()
    }
}

/// What the handler's sink and the service that ends the stream share.
#[derive(Debug)]
pub(super) struct OutgoingStream {
    client: Client,
    request_id: RequestId,
    subject: Subject<StreamingResponse>,
    /// Written by the one sink alone.
    sent: AtomicU64,
    cancel: watch::Sender<Option<CancelMode>>,
    started: Instant,
}

impl OutgoingStream {
    pub(super) fn new(client: Client, request_id: RequestId) -> Self {
        let subject = subjects::response(request_id);
        let (sent, cancel) = (AtomicU64::new(0), watch::Sender::new(None));
        Self { client, request_id, subject, sent, cancel, started: Instant::now() }
    }

    pub(super) fn cancel(&self, mode: CancelMode) {
        self.cancel.send_replace(Some(mode));
    }

    pub(super) fn cancel_mode(&self) -> Option<CancelMode> {
        *self.cancel.borrow()
    }

    /// Resolves when the requester wants the stream dropped.
    pub(super) async fn killed(&self) {
        let mut cancel = self.cancel.subscribe();
        let killed = cancel.wait_for(|mode| *mode == Some(CancelMode::Kill)).await;
        // The sender is in `self`, so waiting for it cannot fail.
        debug_assert!(killed.is_ok());
    }

    /// The clean end.
    pub(super) async fn done(&self, finish_reason: FinishReason) -> Result<()> {
        let frame = StreamingResponse::Done {
            request_id: self.request_id,
            total_tokens: self.sent.load(Ordering::Relaxed),
            latency_ms: self.started.elapsed().as_secs_f64() * 1000.0,
            finish_reason: Some(finish_reason),
        };
        self.publish(&frame).await
    }

    /// The end with an error: its public message and code.
    pub(super) async fn failed(&self, error: &Error) -> Result<()> {
        let remote = error.to_remote();
        let frame = StreamingResponse::Error {
            request_id: self.request_id,
            error: remote.message().to_owned(),
            code: remote.code().to_owned(),
        };
        self.publish(&frame).await
    }

    async fn publish(&self, frame: &StreamingResponse) -> Result<()> {
        self.client.publish(&self.subject, frame).await
    }

    fn cancelled_error(&self) -> Error {
        Error::new(ErrorKind::Cancelled { tokens: self.sent.load(Ordering::Relaxed) })
    }
}
