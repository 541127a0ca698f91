//! Publishing.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use mlx_errors::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::client::Client;
use crate::connection::BufferedMessage;
use crate::telemetry::trace::Span;
use crate::wire::Headers;
use crate::wire::address::PublishTo;
use crate::wire::{codec, control_line};

/// What the transport makes of a message.
type Sent = std::result::Result<(), async_nats::PublishError>;

impl Client {
    /// Publishes one message.
    ///
    /// `Ok` means that the message is on its way to the server, in the order of the calls; [`flush`](Client::flush)
    /// tells when it has arrived. Waits only while the connection's own queue is full.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// client.publish("lab.test", &serde_json::json!({ "any": "thing" })).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Before anything is sent: [`ErrorKind::Validation`] for a payload that breaks a rule of its type,
    /// [`ErrorKind::PayloadTooLarge`], [`ErrorKind::InvalidSubject`], and [`ErrorKind::Disconnected`] at once while
    /// the connection is down; with `nats.publishWhileDisconnected: buffer`, only once the buffer is full.
    /// [`ErrorKind::Closed`] when the client is closed, or was while this was under way; then it may have been sent.
    ///
    /// # Cancel safety
    /// A dropped future has either queued the message or not touched it.
    pub async fn publish<S, M>(&self, to: S, payload: &M) -> Result<()>
    where
        S: PublishTo<M>,
        M: Serialize + ?Sized,
    {
        let name = to.name();
        let json = codec::encode(name.as_str(), payload, S::check)?;
        let subject = name.for_publish()?;
        let span = Span::publish(&subject);
        span.around(self.publish_within(&span, subject, json)).await
    }

    /// [`publish`](Client::publish) with headers.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let mut headers = mlx_nats::Headers::new();
    /// headers.set("Tenant", "lab")?;
    /// client.publish_with_headers("lab.test", &[1, 2, 3], headers).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Client::publish).
    ///
    /// # Cancel safety
    /// As [`publish`](Client::publish).
    pub async fn publish_with_headers<S, M>(&self, to: S, payload: &M, mut headers: Headers) -> Result<()>
    where
        S: PublishTo<M>,
        M: Serialize + ?Sized,
    {
        let name = to.name();
        let json = codec::encode(name.as_str(), payload, S::check)?;
        let subject = name.for_publish()?;
        let span = Span::publish(&subject);
        span.inject(&mut headers);
        span.around(self.publish_headed(subject, headers, json)).await
    }

    /// Publishes many messages on one subject, in order; returns how many there were.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let readings = [20.5, 20.7, 21.0];
    /// assert_eq!(client.publish_all("lab.temperature", &readings).await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`publish`](Client::publish), at the first message that fails: those before it are on their way, those after
    /// it are not.
    ///
    /// # Cancel safety
    /// When the future is dropped, the messages up to some point are on their way.
    pub async fn publish_all<'a, S, M, I>(&self, to: S, payloads: I) -> Result<usize>
    where
        S: PublishTo<M>,
        M: Serialize + ?Sized + 'a,
        I: IntoIterator<Item = &'a M>,
    {
        let name = to.name();
        let subject = name.for_publish()?;
        let span = Span::publish(&subject);
        let all = async {
            let mut published = 0;
            for payload in payloads {
                let json = codec::encode(name.as_str(), payload, S::check)?;
                self.publish_within(&span, subject.clone(), json).await?;
                published += 1;
            }
            Ok(published)
        };
        span.around(all).await
    }

    async fn publish_within(&self, span: &Span, subject: async_nats::Subject, json: Bytes) -> Result<()> {
        match span.headers() {
            None => self.publish_plain(subject, json).await,
            Some(headers) => self.publish_headed(subject, headers, json).await,
        }
    }

    async fn publish_headed(&self, subject: async_nats::Subject, headers: Headers, json: Bytes) -> Result<()> {
        if !self.link().is_up() {
            return self.publish_while_down(subject, Some(headers), json).await;
        }
        self.send(subject, None, Some(headers), json).await
    }

    /// Publishes without headers, and so without a trace.
    pub(crate) async fn publish_plain(&self, subject: async_nats::Subject, json: Bytes) -> Result<()> {
        control_line::check_publish(&subject, None)?;
        if json.len() > self.max_payload_of_transport() {
            return self.send_large(subject, None, None, json).await;
        }
        let Some(epoch) = self.link().epoch() else {
            return self.publish_while_down(subject, None, json).await;
        };
        let bytes = json.len();
        let mut sending = pin!(self.nats().publish(subject.clone(), json));
        let sent = match poll_once(sending.as_mut()).await {
            Poll::Ready(sent) => sent,
            Poll::Pending => self.while_hopeful(sending, epoch, &subject).await?,
        };
        self.sent(&subject, bytes, sent)
    }

    /// Waits for room in the transport's queue, for as long as there is hope for it. Boxed, as hardly any message has to, and
    /// every future around it would carry it.
    #[cold]
    fn while_hopeful<'a>(
        &'a self,
        sending: Pin<&'a mut (dyn Future<Output = Sent> + Send + 'a)>,
        epoch: u64,
        subject: &'a async_nats::Subject,
    ) -> Pin<Box<dyn Future<Output = Result<Sent>> + Send + 'a>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                sent = sending => Ok(sent),
                () = self.hopeless(epoch) => Err(self.link().down(&format!("publish on `{subject}`"))),
            }
        })
    }

    /// What `publishWhileDisconnected` says: an error at once, or a place in the buffer.
    #[cold]
    async fn publish_while_down(
        &self,
        subject: async_nats::Subject,
        headers: Option<Headers>,
        json: Bytes,
    ) -> Result<()> {
        let size = json.len() + headers.as_ref().map_or(0, Headers::wire_len);
        if size > self.max_payload_of_transport() {
            return Err(self.too_large(&subject, size));
        }
        let down = || self.link().down(&format!("publish on `{subject}`"));
        let Some(publish_buffer) = self.publish_buffer().filter(|_| !self.state().is_closed()) else {
            return Err(down());
        };
        let parcel = BufferedMessage { subject: subject.clone(), headers, json };
        match publish_buffer.keep(parcel, self.link())? {
            None => Ok(()),
            // Back in the meantime.
            Some(BufferedMessage { subject, headers, json }) => self.send(subject, None, headers, json).await,
        }
    }

    /// Sends encoded bytes: what every way of publishing but the plainest comes down to.
    pub(crate) async fn send(
        &self,
        subject: async_nats::Subject,
        reply: Option<String>,
        headers: Option<Headers>,
        json: Bytes,
    ) -> Result<()> {
        control_line::check_publish(&subject, reply.as_deref())?;
        let headers = headers.filter(|headers| !headers.is_empty());
        let header_bytes = headers.as_ref().map_or(0, Headers::wire_len);
        if json.len() + header_bytes > self.max_payload_of_transport() {
            return self.send_large(subject, reply, headers, json).await;
        }
        let epoch = self.link().live(|| format!("publish on `{subject}`"))?;
        let (nats, bytes) = (self.nats(), json.len());
        let to = subject.clone();
        let sending = async {
            match (reply, headers) {
                (None, None) => nats.publish(to, json).await,
                (None, Some(headers)) => nats.publish_with_headers(to, headers.into_transport(), json).await,
                (Some(reply), None) => nats.publish_with_reply(to, reply, json).await,
                (Some(reply), Some(headers)) => {
                    nats.publish_with_reply_and_headers(to, reply, headers.into_transport(), json).await
                }
            }
        };
        let mut sending = pin!(sending);
        let sent = match poll_once(sending.as_mut()).await {
            Poll::Ready(sent) => sent,
            Poll::Pending => self.while_hopeful(sending, epoch, &subject).await?,
        };
        self.sent(&subject, bytes, sent)
    }

    /// Resolves when what waits for room in the transport's queue is not to wait any longer: its connection, of `epoch`, is
    /// gone, or the client, where messages are kept for the next connection.
    pub(crate) async fn hopeless(&self, epoch: u64) {
        match self.publish_buffer() {
            None => self.link().lost(epoch).await,
            Some(_) => self.link().closed().await,
        }
    }

    fn sent(&self, subject: &async_nats::Subject, bytes: usize, sent: Sent) -> Result<()> {
        sent.map_err(|error| self.unsent(subject, &error))?;
        // The transport takes messages until it has ended, and drops what comes behind the order to end. That is given after
        // the client is declared closed: a caller that finds it open here came before.
        if !self.link().is_up() {
            self.unless_closed(subject)?;
        }
        self.measure().published(bytes);
        Ok(())
    }

    #[cold]
    fn unless_closed(&self, subject: &async_nats::Subject) -> Result<()> {
        if self.link().is_closed() { Err(self.link().down(&format!("publish on `{subject}`"))) } else { Ok(()) }
    }

    #[cold]
    fn unsent(&self, subject: &async_nats::Subject, error: &async_nats::PublishError) -> Error {
        match error.kind() {
            // The transport's queue is closed: it ended between our look at the state and now.
            async_nats::client::PublishErrorKind::Send => self.link().down(&format!("publish on `{subject}`")),
            kind => Error::new(ErrorKind::Publish { subject: subject.to_string(), reason: kind.to_string() }),
        }
    }
}

/// Polls once, and does not wait: a message finds room in the transport's queue nearly always.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
