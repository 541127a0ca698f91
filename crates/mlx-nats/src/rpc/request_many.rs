//! One question, many answers.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use mlx_errors::{Error, ErrorKind, Result, Violations};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::client::Client;
use crate::pubsub::{RawSubscription, SubscribeOptions};
use crate::rpc::check_answer;
use crate::telemetry::measure::Exchange;
use crate::telemetry::trace::Span;
use crate::wire::address::RequestTo;
use crate::wire::codec;
use crate::wire::inbox::Reply;
use crate::wire::refused::Refused;

/// When enough answers have come: at the first of these limits.
///
/// ```
/// use std::time::Duration;
/// use mlx_nats::RequestManyOptions;
///
/// let options = RequestManyOptions::default().max_responses(3).timeout(Duration::from_secs(1));
/// ```
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
    /// Asks everyone who listens, and brings the answers as they come, until `requestTimeoutMs` has passed.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// use mlx_types::{messages::HealthCheck, subjects};
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let mut reports = client.request_many(&subjects::HEALTH_CHECK, &HealthCheck::new()).await?;
    /// while let Some(report) = reports.next().await {
    ///     println!("{:?}", report?.status);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`publish`](Client::publish). What happens once the question is out is told by the stream.
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind; the question may have been sent.
    pub async fn request_many<S, Q, R>(&self, to: S, payload: &Q) -> Result<Responses<R>>
    where
        S: RequestTo<Q, R>,
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.request_many_with(to, payload, RequestManyOptions::default()).await
    }

    /// [`request_many`](Client::request_many) with options: when there are answers enough.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use futures_util::StreamExt;
    /// use mlx_nats::RequestManyOptions;
    /// use mlx_types::messages::{HealthCheck, HealthReport};
    /// use mlx_types::subjects;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// // Ends 200 ms after the last answer.
    /// let options = RequestManyOptions::default().stall(Duration::from_millis(200));
    /// let reports = client.request_many_with(&subjects::HEALTH_CHECK, &HealthCheck::new(), options).await?;
    /// let all: Vec<mlx_nats::Result<HealthReport>> = reports.collect().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`request_many`](Client::request_many).
    pub async fn request_many_with<S, Q, R>(
        &self,
        to: S,
        payload: &Q,
        options: RequestManyOptions,
    ) -> Result<Responses<R>>
    where
        S: RequestTo<Q, R>,
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let name = to.name();
        let mut span = Span::request(name.as_str());
        let mut exchange = self.measure().exchange();
        let asked = async {
            let json = codec::encode(name.as_str(), payload, S::check_request)?;
            let subject = name.for_publish()?;
            self.ask_many(&subject, json, &options, &span).await.map(|waiting| (subject, waiting))
        };
        match span.around(asked).await {
            Ok((subject, waiting)) => Ok(Responses {
                subject,
                // An option from the start: who wants no answer waits for none.
                waiting: (options.max_responses != Some(0)).then_some(waiting),
                check: S::check_reply,
                exchange,
                span,
                payload: PhantomData,
            }),
            Err(error) => {
                exchange.ended(Some(&error));
                span.end(Some(&error));
                Err(error)
            }
        }
    }

    async fn ask_many(
        &self,
        subject: &async_nats::Subject,
        json: bytes::Bytes,
        options: &RequestManyOptions,
        span: &Span,
    ) -> Result<Messages> {
        let during = format!("request on `{subject}`");
        let epoch = self.link().live(|| during.clone())?;
        // An inbox of its own, because that of single requests forgets each one at its first answer.
        let inbox = self.nats().new_inbox();
        let answers = self.subscribe_raw(inbox.clone().into(), &SubscribeOptions::default()).await?;
        // Should the server refuse the request, nothing else would say so.
        let (question, _) = self.inbox().wait_on(subject.clone());
        let refusal = async move {
            match question.await {
                Some(Reply::Refused(refused)) => refused,
                _ => std::future::pending().await,
            }
        };
        self.send(subject.clone(), Some(inbox), span.headers(), json).await?;
        let timeout = options.timeout.unwrap_or_else(|| self.request_timeout());
        let waiting = PendingResponses {
            client: self.clone(),
            subject: subject.clone(),
            during,
            answers,
            refusal: Box::pin(refusal),
            epoch,
            stall: options.stall,
            timeout,
            began: Instant::now(),
            until: timeout,
            came: 0,
            left: options.max_responses.unwrap_or(usize::MAX),
            has_read: false,
        };
        Ok(Box::pin(stream::unfold(Some(waiting), |waiting| async move {
            let mut waiting = waiting?;
            let item = waiting.next().await?;
            let goes_on = item.is_ok() && waiting.left > 0;
            Some((item, goes_on.then_some(waiting)))
        })))
    }
}

/// The answers to one question as messages; after an error comes nothing more.
type Messages = Pin<Box<dyn Stream<Item = Result<async_nats::Message>> + Send>>;

/// The answers to one question, in the order of their arrival, from [`Client::request_many`].
///
/// An item is an answer, or the error that its sender answered with; others may follow. The stream ends at the limit that is
/// met first, cleanly where anyone had answered by then. Otherwise its last item is [`ErrorKind::Timeout`]. Where nobody
/// listens, that is [`ErrorKind::NoResponders`], and comes at once; where the connection drops, [`ErrorKind::Disconnected`].
///
/// The limits count from the question on, also while nobody reads. Dropping the stream leaves nothing behind.
///
/// ```no_run
/// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
/// use futures_util::StreamExt;
///
/// let mut names = client.request_many::<_, _, String>("lab.who", "?").await?;
/// while let Some(name) = names.next().await {
///     println!("{}", name?);
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "answers are only told to whoever reads them"]
pub struct Responses<R> {
    subject: async_nats::Subject,
    /// Gone once the stream has ended.
    waiting: Option<Messages>,
    check: fn(&R) -> Result<(), Violations>,
    exchange: Exchange,
    span: Span,
    payload: PhantomData<fn() -> R>,
}

impl<R> Responses<R> {
    fn end(&mut self, error: Option<&Error>) {
        self.waiting = None;
        self.exchange.ended(error);
        self.span.end(error);
    }
}

impl<R: DeserializeOwned> Stream for Responses<R> {
    type Item = Result<R>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(waiting) = &mut this.waiting else {
            this.end(None);
            return Poll::Ready(None);
        };
        Poll::Ready(match ready!(waiting.as_mut().poll_next(context)) {
            Some(Ok(message)) => match check_answer::<R>(&this.subject, &message) {
                Ok(()) => Some(codec::decode(&this.subject, &message.payload, this.check)),
                Err(error) => {
                    if matches!(error.kind(), ErrorKind::NoResponders { .. }) {
                        this.end(Some(&error));
                    }
                    Some(Err(error))
                }
            },
            Some(Err(error)) => {
                this.end(Some(&error));
                Some(Err(error))
            }
            None => {
                this.end(None);
                None
            }
        })
    }
}

impl<R> std::fmt::Debug for Responses<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = self.waiting.is_none();
        f.debug_struct("Responses")
            .field("subject", &self.subject.as_str())
            .field("ended", &ended)
            .finish_non_exhaustive()
    }
}

/// A question that is out.
struct PendingResponses {
    client: Client,
    subject: async_nats::Subject,
    during: String,
    answers: RawSubscription,
    refusal: Pin<Box<dyn Future<Output = Refused> + Send>>,
    /// The epoch of the connection that the question went out on.
    epoch: u64,
    stall: Option<Duration>,
    timeout: Duration,
    /// All limits count from here: later moments may be beyond what a clock can tell.
    began: Instant,
    until: Duration,
    came: usize,
    left: usize,
    has_read: bool,
}

impl PendingResponses {
    async fn next(&mut self) -> Option<Result<async_nats::Message>> {
        loop {
            let link = self.client.link();
            let answer = tokio::select! {
                answer = timeout(self.until.saturating_sub(self.began.elapsed()), self.answers.next()) => answer,
                refused = &mut self.refusal => return Some(Err(refused.publish(&self.subject))),
                () = link.lost(self.epoch) => return Some(Err(link.down(&self.during))),
            };
            let Ok(answer) = answer else {
                // Once more, for what has come while this process slept.
                if !self.has_read && self.client.has_read_late(self.began, self.until).await {
                    self.has_read = true;
                    continue;
                }
                let late = ErrorKind::Timeout { subject: self.subject.to_string(), timeout: self.timeout };
                return (self.came == 0).then(|| Err(Error::new(late)));
            };
            let Some(message) = answer else { return Some(Err(self.answers.end(&self.during, link))) };
            (self.came, self.left) = (self.came + 1, self.left - 1);
            if let Some(stall) = self.stall {
                self.until = self.timeout.min(self.began.elapsed().saturating_add(stall));
            }
            return Some(Ok(message));
        }
    }
}
