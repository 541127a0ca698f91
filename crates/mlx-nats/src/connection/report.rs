//! What the log and those who listen are told of the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::events::{ConnectionEvent, DisconnectReason, Events};
use super::manager::Signal;
use super::reconnect::Dispatcher;
use super::server_pool::Failure;
use super::state::ConnectionState;

/// A server that ends a connection says why just before.
const CAUSE_TTL: Duration = Duration::from_secs(1);

/// At most one report of an overflow in this time.
const OVERFLOWS: Duration = Duration::from_secs(1);

/// At most one line of log for what a server says is wrong in this time: it says so for each message that it refuses.
const SERVER_ERRORS: Duration = Duration::from_secs(1);

pub(super) struct Reporter {
    events: Arc<Events>,
    dispatcher: Arc<Dispatcher>,
    /// The state last told.
    state: ConnectionState,
    /// What may explain the next drop, and when it was said, where it does so only for a while.
    last_words: Option<(Option<Instant>, DisconnectReason)>,
    last_overflow: Option<Instant>,
    server_errors: u64,
    last_server_error: Option<Instant>,
}

impl Reporter {
    pub(super) fn new(events: Arc<Events>, dispatcher: Arc<Dispatcher>) -> Self {
        Self {
            events,
            dispatcher,
            state: ConnectionState::Connecting,
            last_words: None,
            last_overflow: None,
            server_errors: 0,
            last_server_error: None,
        }
    }

    /// Something that is told as it is.
    pub(super) fn heard(&mut self, signal: &Signal, now: Instant) {
        match signal {
            Signal::AttemptFailed { failure: Failure { server, attempt, error }, retry_in } => {
                tracing::info!(%server, attempt, %error, ?retry_in, "could not connect to NATS");
                self.events.tell(|| ConnectionEvent::AttemptFailed {
                    server: server.clone(),
                    attempt: *attempt,
                    error: error.clone(),
                    retry_in: *retry_in,
                });
            }
            Signal::ServerError(message) => {
                self.server_errors += 1;
                if self.last_server_error.is_none_or(|last| now.saturating_duration_since(last) >= SERVER_ERRORS) {
                    self.last_server_error = Some(now);
                    let so_far = self.server_errors;
                    tracing::warn!(error = %message, so_far, "the NATS server reports an error");
                }
                self.last_words = Some((Some(now), DisconnectReason::ServerError { message: message.clone() }));
                self.events.tell(|| ConnectionEvent::ServerError { message: message.clone() });
            }
            Signal::LameDuckMode => {
                let server = self.dispatcher.current().0;
                tracing::info!(%server, "the NATS server is about to shut down and asks its clients to move");
                // It takes its time; nothing else is likely to end this connection.
                self.last_words = Some((None, DisconnectReason::LameDuckMode));
                self.events.tell(|| ConnectionEvent::LameDuckMode { server });
            }
            Signal::Overflow => {
                if self.last_overflow.is_none_or(|last| now.duration_since(last) >= OVERFLOWS) {
                    self.last_overflow = Some(now);
                    tracing::warn!("more messages came at once than this process can hold, and some are lost");
                    self.events.tell(|| ConnectionEvent::Overflow);
                }
            }
            // Told by what they do to the state.
            Signal::Up
            | Signal::Down
            | Signal::Attempt(_)
            | Signal::Refused
            | Signal::GaveUp { .. }
            | Signal::ShutDown => {}
        }
    }

    /// The state changed, if it did.
    pub(super) fn moved(&mut self, state: &ConnectionState, now: Instant) {
        if self.state == *state {
            return;
        }
        let before = std::mem::replace(&mut self.state, state.clone());
        if before.is_connected() && *state != (ConnectionState::Closed { reason: super::CloseReason::ShutDown }) {
            let fresh = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) < CAUSE_TTL);
            let said = self.last_words.take().filter(|(at, _)| fresh(*at));
            let reason = said.map_or(DisconnectReason::Lost, |(_, reason)| reason);
            tracing::warn!(?reason, "the NATS connection dropped");
            self.events.tell(|| ConnectionEvent::Disconnected { reason });
        }
        match state {
            ConnectionState::Connected { epoch } => {
                self.last_words = None;
                let (server, attempt) = self.dispatcher.current();
                tracing::info!(%server, epoch, attempt, "connected to NATS");
                self.events.tell(|| ConnectionEvent::Connected { server, epoch: *epoch, attempt });
            }
            ConnectionState::Reconnecting { attempt } => tracing::info!(attempt, "reconnecting to NATS"),
            ConnectionState::Closed { reason } => {
                tracing::info!(%reason, "the NATS connection is closed");
                self.events.tell(|| ConnectionEvent::Closed { reason: reason.clone() });
            }
            ConnectionState::Disconnected => {}
            ConnectionState::Connecting => tracing::debug!("connecting to NATS"),
        }
    }
}
