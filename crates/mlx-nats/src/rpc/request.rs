//! Requests: one question, one typed answer or one typed error.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use mlx_errors::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::client::Client;
use crate::telemetry::trace::Span;
use crate::wire::address::RequestTo;
use crate::wire::error_reply::remote_error;
use crate::wire::inbox::Reply;
use crate::wire::{Headers, codec, headers};

/// How to ask.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use mlx_nats::RequestOptions;
///
/// let options = RequestOptions::default()
///     .timeout(Duration::from_secs(2)) // how long this side waits
///     .deadline(SystemTime::now() + Duration::from_secs(2)); // tells the other side, too
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RequestOptions {
    /// How long to wait for the answer; `requestTimeoutMs` of the configuration by default.
    pub timeout: Option<Duration>,
    /// When the answer is no longer of use. It travels with the request, and a receiver past it refuses the work.
    pub deadline: Option<SystemTime>,
    /// Headers to send along.
    pub headers: Headers,
}

mlx_errors::setters! {
    RequestOptions {
        timeout: option Duration,
        deadline: option SystemTime,
        headers: set Headers,
    }
}

impl Client {
    /// Asks, and waits for the answer up to `requestTimeoutMs`.
    ///
    /// ```no_run
    /// use mlx_types::{RequestId, Timestamp, messages::HealthCheck, subjects};
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let check = HealthCheck::new();
    /// let report = client.request(&subjects::HEALTH_CHECK, &check).await?; // a `HealthReport`, as the subject says
    /// println!("{:?}", report.status);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NoResponders`] at once when nobody listens, [`ErrorKind::Timeout`],
    /// [`ErrorKind::Disconnected`] as soon as the connection drops, [`ErrorKind::Remote`] when the peer answers with
    /// an error, and those of [`publish`](Client::publish).
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind; the request may have been sent.
    pub async fn request<S, Q, R>(&self, to: S, payload: &Q) -> Result<R>
    where
        S: RequestTo<Q, R>,
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.request_with(to, payload, RequestOptions::default()).await
    }

    /// [`request`](Client::request) with options.
    ///
    /// ```no_run
    /// use std::time::{Duration, SystemTime};
    /// use mlx_nats::RequestOptions;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let deadline = Some(SystemTime::now() + Duration::from_millis(250));
    /// let options = RequestOptions::default().deadline(deadline);
    /// let sum: u64 = client.request_with("lab.sum", &[1, 2, 3], options).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`request`](Client::request), and [`ErrorKind::DeadlineExceeded`] at once when the deadline has passed already.
    ///
    /// # Cancel safety
    /// As [`request`](Client::request).
    pub async fn request_with<S, Q, R>(&self, to: S, payload: &Q, options: RequestOptions) -> Result<R>
    where
        S: RequestTo<Q, R>,
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let span = Span::request(to.name().as_str());
        let exchange = self.exchange(to, payload, options, &span);
        span.around(self.measure().request(exchange)).await
    }

    async fn exchange<S, Q, R>(&self, to: S, payload: &Q, options: RequestOptions, span: &Span) -> Result<R>
    where
        S: RequestTo<Q, R>,
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let name = to.name();
        let json = codec::encode(name.as_str(), payload, S::check_request)?;
        let subject = name.for_publish()?;
        let (limit, mut headers) = self.limit_and_headers(&subject, options)?;
        span.inject(&mut headers);

        let message = self.one_answer(&subject, headers, json, limit).await?;
        check_answer::<R>(&subject, &message)?;
        codec::decode(&subject, &message.payload, S::check_reply)
    }

    /// One message out, and the first that comes back, whatever it holds.
    pub(crate) async fn one_answer(
        &self,
        subject: &async_nats::Subject,
        headers: Headers,
        json: Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message> {
        let epoch = self.link().live(|| format!("request on `{subject}`"))?;
        let (mut waiter, reply) = self.inbox().wait_on(subject.clone());
        let late = |_| Error::new(ErrorKind::Timeout { subject: subject.to_string(), timeout });
        let started = Instant::now();
        // One after the other rather than as one future, which would hold what is sent a second time.
        tokio::time::timeout(timeout, self.send(subject.clone(), Some(reply), Some(headers), json))
            .await
            .map_err(late)??;
        // The table may have been emptied between the look at the state and the wait: then nobody will answer.
        let answer = if self.link().is_live(epoch) {
            match tokio::time::timeout(timeout.saturating_sub(started.elapsed()), &mut waiter).await {
                Ok(answer) => answer,
                // It may lie in the socket, since before this process slept.
                Err(elapsed) if !self.has_read_late(started, timeout).await => return Err(late(elapsed)),
                Err(elapsed) => waiter.now_or_never().ok_or_else(|| late(elapsed))?,
            }
        } else {
            None
        };
        let message = match answer {
            Some(Reply::Message(message)) => message,
            Some(Reply::Refused(refused)) => return Err(refused.publish(subject)),
            Some(Reply::NoInbox(refused)) => return Err(self.inbox().refusal_error(&refused)),
            None => return Err(self.link().down(&format!("request on `{subject}`"))),
        };
        self.measure().received(&message);
        Ok(message)
    }

    fn limit_and_headers(&self, subject: &str, options: RequestOptions) -> Result<(Duration, Headers)> {
        let mut limit = options.timeout.unwrap_or_else(|| self.request_timeout());
        let mut headers = options.headers;
        if let Some(deadline) = options.deadline {
            let Ok(left) = deadline.duration_since(SystemTime::now()) else {
                return Err(Error::new(ErrorKind::DeadlineExceeded { subject: subject.to_owned() }));
            };
            limit = limit.min(left);
            let since_epoch = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
            headers.set(headers::DEADLINE, since_epoch.as_millis().to_string())?;
        }
        Ok((limit, headers))
    }
}

/// Tells an answer, an `R`, from an error: the server's, one by headers, or one by body.
pub(crate) fn check_answer<R: DeserializeOwned>(subject: &str, message: &async_nats::Message) -> Result<()> {
    if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
        return Err(Error::new(ErrorKind::NoResponders { subject: subject.to_owned() }));
    }
    match remote_error::<R>(message) {
        Some(remote) => Err(Error::new(ErrorKind::Remote(remote))),
        None => Ok(()),
    }
}
