//! Messages published while the connection is down, where the configuration asks to keep them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mlx_errors::{Error, ErrorKind, Result};

use crate::Headers;
use crate::connection::{ConnectionState, Link};
use crate::measure;

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) subject: async_nats::Subject,
    pub(crate) headers: Option<Headers>,
    pub(crate) json: Bytes,
}

/// What waits for the connection, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Outbox {
    limit: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    parcels: VecDeque<Parcel>,
    bytes: usize,
}

impl Outbox {
    /// An outbox for `limit` bytes of subjects, headers and payloads.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default() }
    }

    /// Messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().parcels.len()
    }

    /// Keeps a message until the connection is back; hands it back when it is back already.
    ///
    /// # Errors
    /// When the message does not fit: it is not kept, and those kept before it stay.
    pub(crate) fn keep(&self, parcel: Parcel, link: &Link) -> Result<Option<Parcel>> {
        let mut waiting = self.lock();
        // Under the lock, under which `release` also declares the connection to be back: nothing is left behind.
        if link.is_up() {
            return Ok(Some(parcel));
        }
        let bytes = waiting.bytes.saturating_add(parcel.size());
        if bytes > self.limit {
            let full = format!("the buffer of {} bytes is full (`nats.publishBufferBytes`)", self.limit);
            return Err(Error::new(ErrorKind::Disconnected {
                during: format!("publish on `{}`: {full}", parcel.subject),
            }));
        }
        waiting.bytes = bytes;
        waiting.parcels.push_back(parcel);
        Ok(None)
    }

    /// Sends what waits, in order, and then declares the connection to be in `state`, with nothing published in between.
    ///
    /// Without the declaration when the transport has ended meanwhile; what is lost with it is said.
    pub(crate) async fn release(&self, nats: &async_nats::Client, link: &Link, state: &ConnectionState) {
        while let Some(Parcel { subject, headers, json }) = self.next_or_declare(link, state) {
            let bytes = json.len();
            let sent = match headers {
                None => nats.publish(subject, json).await,
                Some(headers) => nats.publish_with_headers(subject, headers.into_transport(), json).await,
            };
            if sent.is_err() {
                let messages = self.abandon() + 1;
                tracing::warn!(messages, "messages kept for the connection are lost, because it ended again for good");
                return;
            }
            measure::published_late(bytes);
        }
    }

    /// Gives up what waits, and says how many messages that were.
    pub(crate) fn abandon(&self) -> usize {
        std::mem::take(&mut *self.lock()).parcels.len()
    }

    fn next_or_declare(&self, link: &Link, state: &ConnectionState) -> Option<Parcel> {
        let mut waiting = self.lock();
        let parcel = waiting.parcels.pop_front();
        match &parcel {
            Some(parcel) => waiting.bytes -= parcel.size(),
            None => link.set(state),
        }
        parcel
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing inside the lock can panic half way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parcel {
    /// Bytes that count towards the bound.
    fn size(&self) -> usize {
        self.subject.len() + self.headers.as_ref().map_or(0, Headers::wire_len) + self.json.len()
    }
}

#[cfg(test)]
mod tests {
    use mlx_errors::ErrorCode;

    use super::*;

    fn parcel(bytes: usize) -> Parcel {
        Parcel { subject: "s".into(), headers: None, json: vec![b'x'; bytes].into() }
    }

    #[test]
    fn c2_the_buffer_is_bounded_and_says_when_it_is_full() {
        let (link, outbox) = (Link::new(), Outbox::new(25));
        assert!(outbox.keep(parcel(9), &link).unwrap().is_none());
        assert!(outbox.keep(parcel(9), &link).unwrap().is_none());
        let error = outbox.keep(parcel(9), &link).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NatsDisconnected);
        assert!(error.to_string().contains("nats.publishBufferBytes"), "{error}");
        assert_eq!(outbox.len(), 2);
        assert!(outbox.keep(parcel(4), &link).unwrap().is_none());
    }

    #[test]
    fn c2_nothing_is_kept_once_the_connection_is_back() {
        let (link, outbox) = (Link::new(), Outbox::new(100));
        let state = ConnectionState::Connected { epoch: 1 };
        outbox.keep(parcel(1), &link).unwrap();
        assert!(outbox.next_or_declare(&link, &state).is_some());
        assert!(!link.is_up(), "declared before the last message was out");
        assert!(outbox.next_or_declare(&link, &state).is_none());
        assert!(outbox.keep(parcel(1), &link).unwrap().is_some());
    }
}
