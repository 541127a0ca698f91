//! What happens to the connection, one event after another, for logs and dashboards.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use serde::{Serialize, Serializer};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::CloseReason;

/// Events kept for a reader that is behind; when it takes longer, it is told how many it missed.
const KEPT: usize = 256;

/// Something that happened to a connection.
///
/// Serialises for logs, tagged by `event`. Servers are named without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// Connected: subscriptions are back, and a round trip succeeded.
    Connected {
        /// The server.
        server: String,
        /// Counts connections from 1.
        epoch: u64,
        /// Which attempt since the last connection it was, from 1; 0 for the first connection.
        attempt: u32,
    },
    /// The connection dropped.
    Disconnected {
        /// Why, as far as can be told.
        reason: DisconnectReason,
    },
    /// An attempt to reconnect failed.
    AttemptFailed {
        /// The server that was tried.
        server: String,
        /// Which attempt since the last connection it was, from 1.
        attempt: u32,
        /// What went wrong.
        error: String,
        /// When the next attempt is made; unset when there is none.
        #[serde(rename = "retryInMs", serialize_with = "as_millis", skip_serializing_if = "Option::is_none")]
        retry_in: Option<Duration>,
    },
    /// A subscription's reader is too slow, and messages were dropped; at most once a second for each subscription.
    SlowConsumer {
        /// The subject subscribed to.
        subject: String,
        /// Messages that this subscription has dropped so far.
        dropped: u64,
    },
    /// This process read from the socket faster than it could hand on, and dropped messages of some subscription, service
    /// or stream before they could be counted. At most once a second.
    Overflow,
    /// The server is about to shut down and asks its clients to move.
    LameDuckMode {
        /// The server.
        server: String,
    },
    /// The server reported an error, for example a permission that is missing.
    ServerError {
        /// What it said.
        message: String,
    },
    /// Over for good; nothing follows.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// This reader was too far behind to get all events.
    Missed {
        /// How many it did not get.
        count: u64,
    },
}

/// Why a connection dropped, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The socket was closed or broke, or the server no longer answered pings.
    Lost,
    /// The server had asked its clients to move.
    LameDuckMode,
    /// The server had said something before.
    ServerError {
        /// What it said last.
        message: String,
    },
}

#[expect(clippy::ref_option, reason = "what serde passes")]
fn as_millis<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}

/// The events of one connection, as a [`Stream`]: the first of them is how it stands now, the last how it closed.
///
/// A reader holds nobody up. One that falls behind by more than 256 events loses the oldest, and gets a
/// [`ConnectionEvent::Missed`] in their place. The stream does not keep the client alive.
#[must_use = "events are only told to whoever reads them"]
pub struct ConnectionEvents(Pin<Box<dyn Stream<Item = ConnectionEvent> + Send + Sync>>);

impl Stream for ConnectionEvents {
    type Item = ConnectionEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for ConnectionEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionEvents").finish_non_exhaustive()
    }
}

/// Where events are told. Costs nothing until somebody listens for the first time.
#[derive(Debug, Default)]
pub(crate) struct Events(OnceLock<broadcast::Sender<ConnectionEvent>>);

impl Events {
    /// Tells all listeners.
    pub(crate) fn tell(&self, event: impl FnOnce() -> ConnectionEvent) {
        if let Some(listeners) = self.0.get()
            && listeners.receiver_count() > 0
        {
            // The last listener may go at this very moment.
            let _ = listeners.send(event());
        }
    }

    /// Listens from now on; `standing` looks at how things stand, once nothing can be missed any more.
    pub(crate) fn listen(self: &Arc<Self>, standing: impl FnOnce() -> Option<ConnectionEvent>) -> ConnectionEvents {
        let receiver = self.0.get_or_init(|| broadcast::Sender::new(KEPT)).subscribe();
        let first = standing();
        let rest = stream::unfold(Some(receiver), |receiver| async move {
            let mut receiver = receiver?;
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(count)) => ConnectionEvent::Missed { count },
                Err(RecvError::Closed) => return None,
            };
            Some((event, Some(receiver)))
        });
        let all = futures_util::StreamExt::chain(stream::iter(first), rest);
        ConnectionEvents(Box::pin(until_closed(all)))
    }
}

/// Ends behind the event that says so.
fn until_closed(
    events: impl Stream<Item = ConnectionEvent> + Send + Sync,
) -> impl Stream<Item = ConnectionEvent> + Send + Sync {
    let state = (Box::pin(events), false);
    stream::unfold(state, |(mut events, closed)| async move {
        if closed {
            return None;
        }
        let event = futures_util::StreamExt::next(&mut events).await?;
        let closed = matches!(event, ConnectionEvent::Closed { .. });
        Some((event, (events, closed)))
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn overflow() -> ConnectionEvent {
        ConnectionEvent::Overflow
    }

    #[tokio::test]
    async fn a_reader_that_is_behind_learns_how_much_it_missed() {
        let events = Arc::new(Events::default());
        let mut listener = events.listen(|| None);
        for epoch in 1..=KEPT as u64 + 10 {
            events.tell(|| ConnectionEvent::Connected { server: String::new(), epoch, attempt: 0 });
        }
        assert_eq!(listener.next().await, Some(ConnectionEvent::Missed { count: 10 }));
        let Some(ConnectionEvent::Connected { epoch: 11, .. }) = listener.next().await else { panic!("not the next") };
    }

    #[tokio::test]
    async fn the_stream_begins_with_what_stands_and_ends_when_closed_or_when_the_client_is_gone() {
        let events = Arc::new(Events::default());
        let closed = ConnectionEvent::Closed { reason: CloseReason::ShutDown };
        let mut told = events.listen(|| Some(overflow()));
        events.tell(|| closed.clone());
        events.tell(overflow);
        assert_eq!([told.next().await, told.next().await, told.next().await], [Some(overflow()), Some(closed), None]);
        let orphan = events.listen(|| None);
        drop(events);
        assert_eq!(orphan.collect::<Vec<_>>().await, []);
    }

    #[test]
    fn nothing_is_made_for_nobody() {
        let events = Arc::new(Events::default());
        events.tell(|| panic!("nobody listens"));
        drop(events.listen(|| None));
        events.tell(|| panic!("nobody listens any more"));
    }

    #[test]
    fn events_serialise_flat() {
        let failed = ConnectionEvent::AttemptFailed {
            server: "nats://a:4222".to_owned(),
            attempt: 2,
            error: "IO error".to_owned(),
            retry_in: Some(Duration::from_millis(1500)),
        };
        let json = serde_json::to_value(failed).unwrap();
        let expected = serde_json::json!({
            "event": "attemptFailed", "server": "nats://a:4222", "attempt": 2, "error": "IO error", "retryInMs": 1500
        });
        assert_eq!(json, expected);
        let closed = ConnectionEvent::Closed { reason: CloseReason::GaveUp { attempts: 3 } };
        let expected = serde_json::json!({ "event": "closed", "reason": { "reason": "gaveUp", "attempts": 3 } });
        assert_eq!(serde_json::to_value(closed).unwrap(), expected);
    }
}
