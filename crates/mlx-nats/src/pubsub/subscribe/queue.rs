//! The messages that wait for a reader: bounded, with an exact count of what did not fit.
//!
//! async-nats drops what its own queue cannot hold, and tells of it through a queue of events that drops too. So each
//! subscription has a task that moves messages on as they come, and the bound, the count and the report are ours.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use mlx_errors::Error;
use parking_lot::Mutex;
use tokio::task::coop::consume_budget;

use super::chunks::{CHUNK, Chunks};
use super::raw::{Change, RawSubscription};
use crate::connection::{ConnectionEvent, Events, Link};
use crate::telemetry::measure;

/// At most one line of log a subscription in this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Between the task that moves messages and the reader: messages one way, changes of the subscription the other.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    capacity: usize,
    max_bytes: usize,
    /// Bytes of the payloads that wait, here and in the reader's own queue.
    bytes: AtomicUsize,
    /// The task that moves messages, while it waits.
    mover: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    messages: Chunks<async_nats::Message>,
    /// Not a channel, of which even an empty one takes most of a kilobyte: most subscriptions are never changed.
    changes: VecDeque<Change>,
    /// Since the subscription was made.
    dropped: u64,
    closed: bool,
    /// Why it ended, where the server ended it; for the reader, once.
    refused: Option<Error>,
    reader: Option<Waker>,
    last_report: Option<Instant>,
}

/// What a reader finds.
pub(super) enum Found {
    /// Messages, in the reader's own queue now.
    Messages,
    /// Nothing, and nothing will come.
    Closed,
}

impl Queue {
    pub(super) fn new(capacity: usize, max_bytes: usize) -> Self {
        Self { state: Mutex::default(), capacity, max_bytes, bytes: AtomicUsize::new(0), mover: AtomicWaker::new() }
    }

    /// Messages that did not fit so far.
    pub(super) fn dropped(&self) -> u64 {
        self.state.lock().dropped
    }

    /// A message of so many bytes was taken out of the reader's own queue.
    pub(super) fn read(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes what waits into `own`, which is empty, and the count of drops that came with it.
    pub(super) fn poll_take(
        &self,
        own: &mut Chunks<async_nats::Message>,
        dropped: &mut u64,
        context: &mut Context<'_>,
    ) -> Poll<Found> {
        let mut state = self.state.lock();
        *dropped = state.dropped;
        if !state.messages.is_empty() {
            std::mem::swap(own, &mut state.messages);
            return Poll::Ready(Found::Messages);
        }
        if state.closed {
            return Poll::Ready(Found::Closed);
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Asks for a change. When the subscription has ended, the change is dropped unanswered.
    pub(super) fn ask(&self, change: Change) {
        let mut state = self.state.lock();
        if !state.closed {
            state.changes.push_back(change);
        }
        drop(state);
        self.mover.wake();
    }

    fn poll_change(&self, context: &mut Context<'_>) -> Poll<Change> {
        // Before the look: what is asked for after it wakes.
        self.mover.register(context.waker());
        self.state.lock().changes.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    /// Hands messages to the reader, and returns a change that was asked for, since the lock is held anyway.
    fn push(&self, batch: &mut VecDeque<async_nats::Message>, subject: &str, events: &Events) -> Option<Change> {
        let mut state = self.state.lock();
        let room = self.capacity.saturating_sub(state.messages.len());
        let room = self.fitting(batch.iter().take(room));
        let excess = batch.len().saturating_sub(room);
        batch.truncate(room);
        state.messages.append(batch);
        if excess > 0 {
            state.dropped += excess as u64;
            measure::dropped(excess);
            let now = Instant::now();
            if state.last_report.is_none_or(|last| now.duration_since(last) >= REPORT_INTERVAL) {
                state.last_report = Some(now);
                let (dropped, capacity, max_bytes) = (state.dropped, self.capacity, self.max_bytes);
                tracing::warn!(subject, dropped, capacity, max_bytes, "a subscription is too slow and loses messages");
                events.tell(|| ConnectionEvent::SlowConsumer { subject: subject.to_owned(), dropped });
            }
        }
        let reader = state.reader.take();
        let change = state.changes.pop_front();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        change
    }

    /// Why the subscription has ended, where the server ended it; told once.
    pub(super) fn take_refused(&self) -> Option<Error> {
        self.state.lock().refused.take()
    }

    /// How many of a batch the bound of bytes lets in, which are counted as waiting then. One at the least where nothing
    /// waits, or a message that is larger than the bound could never be read.
    fn fitting<'a>(&self, batch: impl Iterator<Item = &'a async_nats::Message>) -> usize {
        let mut bytes = self.bytes.load(Ordering::Relaxed);
        let before = bytes;
        let mut fitting = 0;
        for message in batch {
            let length = weight(message);
            if bytes > 0 && bytes.saturating_add(length) > self.max_bytes {
                break;
            }
            bytes += length;
            fitting += 1;
        }
        self.bytes.fetch_add(bytes - before, Ordering::Relaxed);
        fitting
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let reader = state.reader.take();
        // Its reader learns that the subscription has ended.
        let unanswered = std::mem::take(&mut state.changes);
        drop(state);
        drop(unanswered);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// Moves messages from the transport to the queue, and changes of the subscription the other way, until it ends.
pub(super) async fn forward(mut source: RawSubscription, queue: Arc<Queue>, link: Arc<Link>) {
    let _closed_at_the_end = CloseOnDrop(Arc::clone(&queue));
    // Grows with what comes: most subscriptions are quiet, and a client may have a hundred thousand.
    let mut batch = VecDeque::new();
    loop {
        let step = poll_fn(|context| match poll_batch(&mut source, &mut batch, context) {
            Poll::Ready(more) => Poll::Ready(Step::Messages { more }),
            Poll::Pending => match queue.poll_change(context) {
                Poll::Ready(change) => Poll::Ready(Step::Change(change)),
                Poll::Pending => Poll::Pending,
            },
        });
        let change = match step.await {
            Step::Change(change) => Some(change),
            Step::Messages { more } => {
                let subject = source.subject.clone();
                let change = queue.push(&mut batch, &subject, link.events());
                if !more {
                    queue.state.lock().refused = source.refused();
                    return;
                }
                // A flood must not keep the readers of the same thread from their turn.
                consume_budget().await;
                change
            }
        };
        if let Some(change) = change {
            // Boxed for being rare: the task would be three times as large with it inside.
            Box::pin(source.change(change)).await;
        }
    }
}

/// What the task that moves messages does next.
enum Step {
    /// There are some, and perhaps more to come.
    Messages {
        more: bool,
    },
    Change(Change),
}

/// Fills `batch` with what has arrived; false at the end of the subscription.
fn poll_batch(
    source: &mut RawSubscription,
    batch: &mut VecDeque<async_nats::Message>,
    context: &mut Context<'_>,
) -> Poll<bool> {
    let Some(first) = ready!(Pin::new(&mut *source).poll_next(context)) else { return Poll::Ready(false) };
    if batch.capacity() == 0 {
        batch.reserve_exact(1); // what a subscription with one message now and then needs, instead of four
    }
    batch.push_back(first);
    while batch.len() < CHUNK {
        match Pin::new(&mut *source).poll_next(context) {
            Poll::Ready(Some(message)) => batch.push_back(message),
            Poll::Ready(None) => return Poll::Ready(false),
            Poll::Pending => break,
        }
    }
    Poll::Ready(true)
}

/// Bytes that a message takes: subject, headers and payload.
pub(super) fn weight(message: &async_nats::Message) -> usize {
    message.length.max(message.payload.len())
}

struct CloseOnDrop(Arc<Queue>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn messages(count: usize) -> VecDeque<async_nats::Message> {
        let message = |index: usize| async_nats::Message {
            subject: "lab.test".into(),
            reply: None,
            payload: index.to_string().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        (0..count).map(message).collect()
    }

    fn take(queue: &Queue) -> (Vec<String>, u64) {
        let (mut own, mut dropped) = (Chunks::default(), 0);
        let _ = queue.poll_take(&mut own, &mut dropped, &mut Context::from_waker(Waker::noop()));
        let text = std::iter::from_fn(|| own.pop_front())
            .map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
            .collect();
        (text, dropped)
    }

    #[test]
    fn c12_what_does_not_fit_is_counted_exactly_and_the_oldest_stay() {
        let queue = Queue::new(3, usize::MAX);
        queue.push(&mut messages(2), "lab.test", &Events::default());
        assert_eq!(queue.dropped(), 0);
        queue.push(&mut messages(5), "lab.test", &Events::default());
        assert_eq!(take(&queue), (vec!["0".into(), "1".into(), "0".into()], 4));
        queue.push(&mut messages(1), "lab.test", &Events::default());
        assert_eq!(take(&queue), (vec!["0".into()], 4));
    }

    #[test]
    fn c12_what_waits_is_bounded_in_bytes_too_and_a_larger_message_can_still_be_read() {
        let queue = Queue::new(1000, 10);
        let large =
            |length: usize| async_nats::Message { payload: vec![b'x'; length].into(), ..messages(1)[0].clone() };
        queue.push(&mut [large(4), large(4), large(4)].into(), "lab.test", &Events::default());
        assert_eq!(queue.dropped(), 1);
        let (mut own, mut dropped) = (Chunks::default(), 0);
        let _ = queue.poll_take(&mut own, &mut dropped, &mut Context::from_waker(Waker::noop()));
        // What the reader has taken counts until it has read it.
        queue.push(&mut [large(4)].into(), "lab.test", &Events::default());
        assert_eq!(queue.dropped(), 2);
        while let Some(message) = own.pop_front() {
            queue.read(weight(&message));
        }
        queue.push(&mut [large(40), large(1)].into(), "lab.test", &Events::default());
        assert_eq!(queue.dropped(), 3);
    }

    #[test]
    fn a_closed_queue_is_still_read_to_its_end() {
        let queue = Queue::new(3, usize::MAX);
        queue.push(&mut messages(1), "lab.test", &Events::default());
        queue.close();
        assert_eq!(take(&queue).0.len(), 1);
        let found = queue.poll_take(&mut Chunks::default(), &mut 0, &mut Context::from_waker(Waker::noop()));
        assert!(matches!(found, Poll::Ready(Found::Closed)));
    }
}
