//! Where a worker puts its tokens.

use std::sync::Arc;

use mlx_errors::{Error, Result};
use mlx_types::messages::{CancelMode, RawObject, Usage};
use tokio::sync::watch;

use super::coalesce::Piece;
use super::meter::TokenMeter;
use super::outgoing::OutgoingStream;

/// The answering side of one token stream.
///
/// Give it tokens with [`send`](Self::send); the end is sent by the service when the handler returns. To a requester
/// that reads frames of several tokens, those made while an earlier frame is still being written go out together; the
/// first token, and any other that finds the line free, is sent at once.
#[derive(Debug)]
pub struct TokenSink {
    stream: Arc<OutgoingStream>,
    /// Has changed once the stream is cancelled, and is never looked into: for that it would have to be locked.
    cancelled: watch::Receiver<Option<CancelMode>>,
}

impl TokenSink {
    pub(crate) fn new(stream: Arc<OutgoingStream>) -> Self {
        let mut cancelled = stream.cancellations();
        if stream.cancel_mode().is_some() {
            cancelled.mark_changed();
        }
        Self { stream, cancelled }
    }

    /// Sends the next token. Waits while the connection is behind by more than a few hundred tokens of this stream.
    ///
    /// ```no_run
    /// # async fn example(mut tokens: mlx_nats::TokenSink) -> mlx_nats::Result<()> {
    /// for word in ["Hello", " ", "world"] {
    ///     tokens.send(word).await?; // an error means that nobody wants the answer any more: `?` ends the work
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](mlx_errors::ErrorKind::Cancelled) when the requester no longer wants any: return it from the handler, which then ends
    /// the stream the way that the requester asked for. Otherwise those of [`publish`](crate::Client::publish), of this token
    /// or of an earlier one.
    ///
    /// # Cancel safety
    /// A token whose future is dropped may or may not have been sent; the handler should end then.
    pub async fn send(&mut self, token: impl Into<String>) -> Result<()> {
        self.put(Piece::Token(token.into())).await
    }

    /// Whether the requester reads what a token cannot say. Most do.
    pub fn accepts_deltas(&self) -> bool {
        self.stream.accepts().deltas
    }

    /// Sends what a token cannot say, behind all that was sent: an entry of `choices` of a streamed answer in OpenAI's protocol, as
    /// the engine has it. Waits as [`send`](Self::send) does.
    ///
    /// ```no_run
    /// # async fn example(mut tokens: mlx_nats::TokenSink) -> mlx_nats::Result<()> {
    /// use mlx_types::messages::RawObject;
    ///
    /// let call = r#"{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"now"}}]}}"#;
    /// if tokens.accepts_deltas()
    ///     && let Ok(delta) = RawObject::from_json(call)
    /// {
    ///     tokens.send_delta(delta).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`send`](Self::send), and [`ErrorKind::Validation`](mlx_errors::ErrorKind::Validation) for a requester that does
    /// not [accept it](Self::accepts_deltas), or a delta of more than
    /// [`MAX_RAW_DEPTH`](mlx_types::messages::MAX_RAW_DEPTH) levels.
    ///
    /// # Cancel safety
    /// That of [`send`](Self::send).
    pub async fn send_delta(&mut self, delta: RawObject) -> Result<()> {
        if !self.accepts_deltas() {
            return Err(self.stream.unread_error());
        }
        self.put(Piece::Delta(delta)).await
    }

    async fn put(&mut self, piece: Piece) -> Result<()> {
        // The sender lives in the stream.
        if self.cancelled.has_changed().unwrap_or(true) {
            return Err(self.stream.cancelled_error());
        }
        self.stream.send(piece).await
    }

    /// Sets what the answer cost, as the engine counts it. It goes out with the end.
    ///
    /// ```no_run
    /// # use mlx_types::messages::{FinishReason, Usage};
    /// # fn example(mut tokens: mlx_nats::TokenSink) -> FinishReason {
    /// tokens.set_usage(Usage::default().prompt_tokens(12).completion_tokens(40));
    /// FinishReason::Stop
    /// # }
    /// ```
    pub fn set_usage(&mut self, usage: Usage) {
        self.stream.set_usage(usage);
    }

    /// Tokens and deltas taken so far.
    pub fn sent(&self) -> u64 {
        self.stream.taken()
    }

    /// Where its tokens are counted, to measure beside the handler.
    pub(crate) fn meter(&self) -> TokenMeter {
        TokenMeter::new(Arc::clone(&self.stream))
    }

    /// Resolves when the requester no longer wants any tokens, with the error to return from the handler.
    ///
    /// For handlers that wait for something else meanwhile, for example a model server.
    ///
    /// ```no_run
    /// use mlx_nats::{Result, TokenSink};
    ///
    /// # async fn next_token() -> Option<String> { None }
    /// async fn answer(tokens: &mut TokenSink) -> Result<()> {
    ///     loop {
    ///         let token = tokio::select! {
    ///             token = next_token() => token,
    ///             cancelled = tokens.cancelled() => return Err(cancelled),
    ///         };
    ///         let Some(token) = token else { return Ok(()) };
    ///         tokens.send(token).await?;
    ///     }
    /// }
    /// ```
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn cancelled(&mut self) -> Error {
        if self.cancelled.clone().changed().await.is_err() {
            // The service that would tell is gone, and this handler goes with it.
            std::future::pending::<()>().await;
        }
        self.stream.cancelled_error()
    }
}
