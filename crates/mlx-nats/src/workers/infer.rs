//! A request to one worker.

use std::sync::Arc;

use mlx_errors::Result;
use mlx_types::messages::{InferenceRequest, Message, StreamingResponse};
use mlx_types::{WorkerId, subjects};
use tokio::time::Instant;

use crate::client::Client;
use crate::pubsub::SubscribeOptions;
use crate::stream::{Opening, Route, TokenStream, asked_again};
use crate::telemetry::trace::Span;
use crate::wire::{Headers, PublishTo, SubscribeTo, codec, headers};

impl Client {
    /// Asks a worker to answer a prompt, and streams the tokens back.
    ///
    /// Returns once the request is on its way; that nobody listens, or that the worker refuses, is the first item.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// # async fn example(client: mlx_nats::Client, worker_id: mlx_types::WorkerId, request: mlx_types::messages::InferenceRequest) -> mlx_nats::Result<()> {
    /// let mut tokens = client.infer(worker_id, &request).await?;
    /// while let Some(frame) = tokens.next().await {
    ///     print!("{}", frame?.text);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Client::publish): the request is invalid, too large, or the connection is down.
    ///
    /// # Cancel safety
    /// A dropped future has not sent the request, and leaves nothing behind.
    pub async fn infer(&self, worker_id: WorkerId, request: &InferenceRequest) -> Result<TokenStream> {
        // Subjects know case, and the answer comes to the id as it is sent.
        let request_id = request.request_id.in_lower_case();
        let workers = self.workers().await?;
        let worker_id = workers.said(worker_id);
        let subject = subjects::worker_inference(worker_id);
        let json = codec::encode(subject.as_str(), request, InferenceRequest::check)?;
        let started = Instant::now();
        let epoch = self.link().live(|| format!("inference on `{subject}`"))?;

        // Subscription and request go down one connection, whose messages the server handles in order: it knows the
        // one before it sees the other, without a round trip in between. Should the connection drop between the two,
        // the stream ends as disconnected.
        let response = subjects::response(request_id);
        let frames = self
            .subscribe_raw(
                SubscribeTo::<StreamingResponse>::name(&&response).for_subscribe()?,
                &SubscribeOptions::default(),
            )
            .await?;
        let to = PublishTo::<InferenceRequest>::name(&&subject).for_publish()?;
        let (acceptance, reply) = self.inbox().wait_on(to.clone());
        let mut headers = Headers::new();
        headers.set(
            headers::ACCEPT,
            if self.options().coalesce { headers::ACCEPT_TOKENS } else { headers::ACCEPT_EPOCH },
        )?;
        let span = Span::infer(subject.as_str(), request_id);
        span.inject(&mut headers);
        asked_again(request_id, worker_id);
        let mark = reply.clone();
        self.send(to, Some(reply), Some(headers), json).await?;

        Ok(TokenStream::open(Opening {
            client: self.clone(),
            route: Route::Worker(worker_id),
            mark: Some(mark.into()),
            request_id,
            subject: subject.to_string(),
            frames,
            acceptance: Some(acceptance),
            workers: Arc::new(workers),
            epoch,
            first_token_timeout: self.options().first_token_timeout,
            started,
            span,
        }))
    }
}
