//! Messages published while the connection is down, where the configuration asks to keep them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;

use async_nats::message::OutboundMessage;
use bytes::Bytes;
use futures_util::SinkExt;
use mlx_errors::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use crate::connection::{ConnectionState, Link, PayloadLimit, transports};
use crate::telemetry::measure;
use crate::wire::Headers;

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct BufferedMessage {
    pub(crate) subject: async_nats::Subject,
    pub(crate) headers: Option<Headers>,
    pub(crate) json: Bytes,
}

/// What waits for the connection, bounded in bytes.
#[derive(Debug)]
pub(crate) struct PublishBuffer {
    limit: usize,
    waiting: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    messages: VecDeque<BufferedMessage>,
    bytes: usize,
    /// Nothing will be sent any more.
    ended: bool,
}

impl PublishBuffer {
    /// A buffer for `limit` bytes of subjects, headers and payloads.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default() }
    }

    /// Messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().messages.len()
    }

    /// Keeps a message until the connection is back; hands it back when it is back already.
    ///
    /// # Errors
    /// When the message does not fit: it is not kept, and those kept before it stay. When the client is closed.
    pub(crate) fn keep(&self, parcel: BufferedMessage, link: &Link) -> Result<Option<BufferedMessage>> {
        let mut waiting = self.waiting.lock();
        // Under the lock, under which `release` also declares the connection to be back: nothing is left behind.
        if link.is_up() {
            return Ok(Some(parcel));
        }
        // Likewise: what was kept behind `abandon` would stay here for ever.
        if waiting.ended || link.is_closed() {
            return Err(link.down(&format!("publish on `{}`", parcel.subject)));
        }
        let bytes = waiting.bytes.saturating_add(parcel.size());
        if bytes > self.limit {
            let full = format!("the buffer of {} bytes is full (`nats.publishBufferBytes`)", self.limit);
            return Err(Error::new(ErrorKind::Disconnected {
                during: format!("publish on `{}`: {full}", parcel.subject),
            }));
        }
        waiting.bytes = bytes;
        waiting.messages.push_back(parcel);
        Ok(None)
    }

    /// Sends what waits, in order, and then declares the connection of `epoch` to be up, with nothing published in between.
    ///
    /// For ever, when that connection has gone meanwhile. Dropped at any point, nothing is lost or sent twice: what has not
    /// gone out still waits.
    pub(crate) async fn release(
        self: Arc<Self>,
        mut nats: async_nats::Client,
        link: Arc<Link>,
        limit: Arc<PayloadLimit>,
        epoch: u64,
    ) {
        loop {
            // A place in the transport's queue before the parcel leaves ours. The queue stands still while the transport is
            // down.
            let place = poll_fn(|context| nats.poll_ready_unpin(context)).await;
            if place.is_err() || transports(&nats) != epoch {
                // The news of it is on its way and will end this future.
                return std::future::pending().await;
            }
            let Some(BufferedMessage { subject, headers, json }) = self.next_or_declare(&link, epoch) else { return };
            let (to, bytes) = (subject.clone(), json.len());
            let limit = limit.of_transport(nats.max_payload());
            if bytes + headers.as_ref().map_or(0, Headers::wire_len) > limit {
                // It fitted when it was published. The server would close the connection at it.
                tracing::warn!(subject = %to, bytes, limit, "a message kept for the connection is too large for it, and lost");
                continue;
            }
            let headers = headers.map(Headers::into_transport);
            match nats.start_send_unpin(OutboundMessage { subject, reply: None, payload: json, headers }) {
                Ok(()) => measure::published_late(bytes),
                // It fitted when it was published, to another server.
                Err(error) => tracing::warn!(subject = %to, bytes, %error, "a message kept for the connection is lost"),
            }
        }
    }

    /// Gives up what waits, says how many messages that were, and keeps none from now on.
    pub(crate) fn abandon(&self) -> usize {
        std::mem::replace(&mut *self.waiting.lock(), Contents { ended: true, ..Contents::default() }).messages.len()
    }

    fn next_or_declare(&self, link: &Link, epoch: u64) -> Option<BufferedMessage> {
        let mut waiting = self.waiting.lock();
        let parcel = waiting.messages.pop_front();
        match &parcel {
            Some(parcel) => waiting.bytes -= parcel.size(),
            None => {
                link.set(&ConnectionState::Connected { epoch });
            }
        }
        parcel
    }
}

impl BufferedMessage {
    /// Bytes that count towards the bound.
    fn size(&self) -> usize {
        self.subject.len() + self.headers.as_ref().map_or(0, Headers::wire_len) + self.json.len()
    }
}

#[cfg(test)]
mod tests {
    use mlx_errors::ErrorCode;

    use super::*;

    fn parcel(bytes: usize) -> BufferedMessage {
        BufferedMessage { subject: "s".into(), headers: None, json: vec![b'x'; bytes].into() }
    }

    #[test]
    fn c2_the_buffer_is_bounded_and_says_when_it_is_full() {
        let (link, publish_buffer) = (Link::new(), PublishBuffer::new(25));
        assert!(publish_buffer.keep(parcel(9), &link).unwrap().is_none());
        assert!(publish_buffer.keep(parcel(9), &link).unwrap().is_none());
        let error = publish_buffer.keep(parcel(9), &link).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NatsDisconnected);
        assert!(error.to_string().contains("nats.publishBufferBytes"), "{error}");
        assert_eq!(publish_buffer.len(), 2);
        assert!(publish_buffer.keep(parcel(4), &link).unwrap().is_none());
    }

    #[test]
    fn c2_nothing_is_kept_once_the_client_is_closed() {
        let closed = ConnectionState::Closed { reason: crate::connection::CloseReason::ShutDown };
        let (link, publish_buffer) = (Link::new(), PublishBuffer::new(100));
        publish_buffer.keep(parcel(1), &link).unwrap();
        // Closed, but not emptied yet: a caller that comes now is told, and what was kept before is counted.
        link.set(&closed);
        assert_eq!(publish_buffer.keep(parcel(1), &link).unwrap_err().code(), ErrorCode::NatsClosed);
        assert_eq!((publish_buffer.abandon(), publish_buffer.len()), (1, 0));
        assert_eq!(publish_buffer.keep(parcel(1), &link).unwrap_err().code(), ErrorCode::NatsClosed);
        assert_eq!((publish_buffer.abandon(), publish_buffer.len()), (0, 0));
    }

    #[test]
    fn c2_nothing_is_kept_once_the_connection_is_back() {
        let (link, publish_buffer) = (Link::new(), PublishBuffer::new(100));
        publish_buffer.keep(parcel(1), &link).unwrap();
        assert!(publish_buffer.next_or_declare(&link, 1).is_some());
        assert!(!link.is_up(), "declared before the last message was out");
        assert!(publish_buffer.next_or_declare(&link, 1).is_none());
        assert!(publish_buffer.keep(parcel(1), &link).unwrap().is_some());
    }
}
