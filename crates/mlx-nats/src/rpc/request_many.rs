//! One question, many answers.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::client::Client;
use crate::pubsub::SubscribeOptions;
use crate::rpc::check_answer;
use crate::telemetry::trace::Span;
use crate::wire::address::RequestTo;
use crate::wire::codec;
use crate::wire::inbox::Answer;

/// When enough answers have been gathered: at the first of these limits.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RequestManyOptions {
    /// So many answers. Unset by default.
    pub max_responses: Option<usize>,
    /// So long without another answer, counted from the first one. Unset by default.
    pub stall: Option<Duration>,
    /// So long in all; `requestTimeoutMs` of the configuration by default.
    pub timeout: Option<Duration>,
}

mlx_errors::setters! {
    RequestManyOptions {
        max_responses: option usize,
        stall: option Duration,
        timeout: option Duration,
    }
}

impl Client {
    /// Asks everyone who listens, and gathers the answers in the order of their arrival: each one decoded, or the error
    /// that its sender answered with.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use mlx_nats::RequestManyOptions;
    /// use mlx_types::{Timestamp, RequestId, messages::HealthCheck, subjects};
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let check = HealthCheck::new();
    /// let options = RequestManyOptions::default().stall(Duration::from_millis(200));
    /// for report in client.request_many(&subjects::HEALTH_CHECK, &check, options).await? {
    ///     println!("{:?}", report?.status);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NoResponders`] at once when nobody listens, [`ErrorKind::Timeout`] when nobody answers,
    /// [`ErrorKind::Disconnected`] when the connection drops meanwhile, and those of [`publish`](Client::publish).
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind; the request may have been sent.
    pub async fn request_many<S, Q, R>(&self, to: S, payload: &Q, options: RequestManyOptions) -> Result<Vec<Result<R>>>
    where
        S: RequestTo<Q, R>,
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let span = Span::request(to.name().as_str());
        let gathering = self.collect_many(to, payload, options, &span);
        span.around(self.measure().request(gathering)).await
    }

    async fn collect_many<S, Q, R>(
        &self,
        to: S,
        payload: &Q,
        options: RequestManyOptions,
        span: &Span,
    ) -> Result<Vec<Result<R>>>
    where
        S: RequestTo<Q, R>,
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let name = to.name();
        let json = codec::encode(name.as_str(), payload, S::check_request)?;
        let subject = name.for_publish()?;
        let during = format!("request on `{subject}`");
        let epoch = self.link().live(|| during.clone())?;
        // An inbox of its own, because that of single requests forgets each one at its first answer.
        let inbox = self.nats().new_inbox();
        let mut answers = self.subscribe_raw(inbox.clone().into(), &SubscribeOptions::default()).await?;
        // Should the server refuse the request, nothing else would say so.
        let (question, _) = self.inbox().wait_on(subject.clone());
        let refusal = async move {
            match question.await {
                Some(Answer::Refused(refused)) => refused,
                _ => std::future::pending().await,
            }
        };
        let mut refusal = pin!(refusal);
        self.send(subject.clone(), Some(inbox), span.headers(), json).await?;

        let limit = options.timeout.unwrap_or_else(|| self.request_timeout());
        // Both limits count from here: later moments may be beyond what a clock can tell.
        let began = Instant::now();
        let mut until = limit;
        let mut gathered = Vec::new();
        let mut has_read = false;
        while options.max_responses.is_none_or(|max| gathered.len() < max) {
            let answer = tokio::select! {
                answer = timeout(until.saturating_sub(began.elapsed()), answers.next()) => answer,
                refused = &mut refusal => return Err(refused.publish(&subject)),
                () = self.link().lost(epoch) => return Err(self.link().down(&during)),
            };
            let Ok(answer) = answer else {
                // Once more, for what has come while this process slept.
                if !has_read && self.has_read_late(began, until).await {
                    has_read = true;
                    continue;
                }
                break;
            };
            let Some(message) = answer else { return Err(answers.end(&during, self.link())) };
            match check_answer::<R>(&subject, &message) {
                Ok(()) => gathered.push(codec::decode(&subject, &message.payload, S::check_reply)),
                Err(error) if matches!(error.kind(), ErrorKind::NoResponders { .. }) => return Err(error),
                Err(error) => gathered.push(Err(error)),
            }
            if let Some(stall) = options.stall {
                until = limit.min(began.elapsed().saturating_add(stall));
            }
        }
        if gathered.is_empty() && options.max_responses != Some(0) {
            return Err(Error::new(ErrorKind::Timeout { subject: subject.to_string(), timeout: limit }));
        }
        Ok(gathered)
    }
}
