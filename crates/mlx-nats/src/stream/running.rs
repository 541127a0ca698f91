//! The streams that a worker answers, for their cancellations.
//!
//! Requests and cancellations come by subscriptions of their own, so that either may overtake the other on the last few
//! steps, inside this process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::RequestId;
use mlx_types::messages::CancelMode;
use parking_lot::Mutex;

use super::outgoing::OutgoingStream;

/// Cancellations, and ends, that are remembered.
const REMEMBERED: usize = 4096;

/// How long: for the last few steps of a request inside this process. The id may be asked for again some day.
const TTL: Duration = Duration::from_secs(2);

/// How far a request and a cancellation may overtake each other.
const LAST_STEPS: Duration = Duration::from_millis(100);

/// The streams under way.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    streams: HashMap<RequestId, Stream>,
    /// Cancellations of requests unknown so far.
    early: Recent<Early>,
    /// Requests that have just ended, whose late cancellations mean nobody any more.
    ended: Recent<()>,
}

#[derive(Debug)]
struct Stream {
    outgoing: Arc<OutgoingStream>,
    /// When it began, where another run of the same id had just ended: a cancellation may still mean that one.
    begun_again: Option<Instant>,
}

#[derive(Debug)]
struct Early {
    mode: CancelMode,
    /// The reply inbox of the request that is meant, where the requester says so.
    mark: Option<Arc<str>>,
}

impl Running {
    /// Enters a stream, which may have been cancelled already.
    pub(crate) fn enter(self: &Arc<Self>, id: RequestId, stream: &Arc<OutgoingStream>) -> Result<Entry> {
        let mut table = self.0.lock();
        if table.streams.contains_key(&id) {
            return Err(Error::new(ErrorKind::DuplicateRequest { request: id.to_string() }));
        }
        let now = Instant::now();
        let begun_again = table.ended.take(id, now).map(|()| now);
        if let Some(early) = table.early.take(id, now)
            && means(early.mark.as_deref(), stream)
        {
            stream.cancel(early.mode);
        }
        table.streams.insert(id, Stream { outgoing: Arc::clone(stream), begun_again });
        Ok(Entry { running: Arc::clone(self), id })
    }

    pub(super) fn has(&self, id: RequestId) -> bool {
        self.0.lock().streams.contains_key(&id)
    }

    pub(super) fn cancel(&self, id: RequestId, mode: CancelMode, mark: Option<Arc<str>>, now: Instant) {
        let mut table = self.0.lock();
        match table.streams.get(&id) {
            Some(Stream { begun_again: Some(begun), .. })
                if mark.is_none() && now.saturating_duration_since(*begun) < LAST_STEPS => {}
            Some(stream) if means(mark.as_deref(), &stream.outgoing) => stream.outgoing.cancel(mode),
            // Of a run before this one, which has ended.
            Some(_) => {}
            // One that says which request it means can wait for it, whatever has ended; of another one that is not known.
            None if mark.is_none() && table.ended.has(id, now) => {}
            None => table.early.put(id, Early { mode, mark }, now),
        }
    }
}

/// Whether a cancellation with this mark is of this stream.
fn means(mark: Option<&str>, stream: &OutgoingStream) -> bool {
    match (mark, stream.reply()) {
        (Some(mark), Some(reply)) => mark == reply,
        _ => true,
    }
}

/// Removes a stream from the table when its handler is done, or dropped.
pub(crate) struct Entry {
    running: Arc<Running>,
    id: RequestId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.running.0.lock();
        table.streams.remove(&self.id);
        table.ended.put(self.id, (), Instant::now());
    }
}

/// What is remembered for a short time, and not without bound.
#[derive(Debug)]
struct Recent<T> {
    entries: HashMap<RequestId, (T, Instant)>,
    /// The keys in the order they came, those taken since among them.
    order: VecDeque<RequestId>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Recent<T> {
    fn put(&mut self, id: RequestId, value: T, now: Instant) {
        if self.entries.insert(id, (value, now)).is_some() {
            return; // has its place in the order
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    fn has(&self, id: RequestId, now: Instant) -> bool {
        self.entries.get(&id).is_some_and(|(_, came)| now.saturating_duration_since(*came) < TTL)
    }

    fn take(&mut self, id: RequestId, now: Instant) -> Option<T> {
        let (value, came) = self.entries.remove(&id)?;
        (now.saturating_duration_since(came) < TTL).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recent_is_remembered_for_a_time_and_not_without_bound() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        let ids: Vec<_> = (0..=REMEMBERED).map(|_| RequestId::new()).collect();
        for id in &ids {
            recent.put(*id, (), start);
        }
        assert!(!recent.has(ids[0], start) && recent.has(ids[1], start));
        assert!(!recent.has(ids[1], start + TTL));
        assert!(recent.take(ids[2], start).is_some() && !recent.has(ids[2], start));
        assert!(recent.take(ids[3], start + TTL).is_none());
    }
}
