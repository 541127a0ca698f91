//! Payloads over what the transport sends: refused, unless the server takes them by now.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use mlx_errors::{Error, ErrorKind, Result};

use crate::client::Client;
use crate::connection::Delivery;
use crate::wire::Headers;

impl Client {
    /// The largest payload that goes out by the transport: what the server takes, or less where its limit was raised since the
    /// connection was made.
    #[inline]
    pub(crate) fn max_payload_of_transport(&self) -> usize {
        self.payload_limit().of_transport(self.nats().max_payload())
    }

    /// A message that is too large for the transport, as far as is known.
    ///
    /// Boxed, because every future around it would have to carry it.
    #[cold]
    pub(crate) fn send_large<'a>(
        &'a self,
        subject: async_nats::Subject,
        reply: Option<String>,
        headers: Option<Headers>,
        json: Bytes,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(async move {
            let size = json.len() + headers.as_ref().map_or(0, Headers::wire_len);
            self.link().live(|| format!("publish on `{subject}`")).map_err(|down| {
                // That it is too large is true whatever the connection does.
                if size > self.max_payload() { self.too_large(&subject, size) } else { down }
            })?;
            if size > self.max_payload() {
                // The limit may have been raised since the server was asked.
                self.payload_limit().refresh_now_and_then().await;
            }
            if size > self.max_payload() {
                return Err(self.too_large(&subject, size));
            }
            if size <= self.max_payload_of_transport() {
                return self.send(subject, reply, headers, json).await;
            }
            self.send_beside(subject, reply, headers, json).await
        })
    }

    /// async-nats sends nothing over the limit of the greeting that it had, so that what the server takes beyond that goes by a
    /// connection of its own, between two round trips that keep the order.
    async fn send_beside(
        &self,
        subject: async_nats::Subject,
        reply: Option<String>,
        headers: Option<Headers>,
        json: Bytes,
    ) -> Result<()> {
        let (limit, bytes) = (self.request_timeout(), json.len());
        self.round_trip("what comes before a large message", limit).await?;
        let delivery =
            self.payload_limit().send_beside(&subject, reply.as_deref(), headers.as_ref(), &json, limit).await;
        match delivery {
            Delivery::Done => {
                self.measure().published(bytes);
                Ok(())
            }
            Delivery::NoResponders => Err(Error::new(ErrorKind::NoResponders { subject: subject.to_string() })),
            Delivery::Failed(reason) => Err(Error::new(ErrorKind::Publish { subject: subject.to_string(), reason })),
        }
    }

    #[cold]
    pub(crate) fn too_large(&self, subject: &async_nats::Subject, size: usize) -> Error {
        Error::new(ErrorKind::PayloadTooLarge { subject: subject.to_string(), size, limit: self.max_payload() })
    }
}
