//! The connection's state as a pure machine: inputs in, a new state and what to do about it out.

use std::fmt;

use serde::Serialize;

/// Where the connection stands, as far as has been proved.
///
/// `Connected` is reached only after the subscriptions are back at the server and a message made the round trip,
/// never on the word of an open socket.
///
/// ```
/// use mlx_nats::ConnectionState;
///
/// fn light(state: &ConnectionState) -> &'static str {
///     match state {
///         ConnectionState::Connected { .. } => "green",
///         ConnectionState::Closed { .. } => "red",
///         _ => "yellow",
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The connection dropped a moment ago; no attempt has been made yet.
    Disconnected,
    /// The first connection is being made.
    Connecting,
    /// A round trip succeeded on this connection.
    Connected {
        /// Counts connections from 1; a new one means that messages may have been missed in between.
        epoch: u64,
    },
    /// Trying again.
    Reconnecting {
        /// Attempts since the connection dropped, from 1.
        attempt: u32,
    },
    /// Over for good.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

impl ConnectionState {
    /// Whether messages can be sent now.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// Whether the client is over for good.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("disconnected"),
            Self::Connecting => f.write_str("connecting"),
            Self::Connected { epoch } => write!(f, "connected (epoch {epoch})"),
            Self::Reconnecting { attempt } => write!(f, "reconnecting (attempt {attempt})"),
            Self::Closed { reason } => write!(f, "closed ({reason})"),
        }
    }
}

/// Why a client is closed. Serialises tagged by `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "camelCase")]
#[non_exhaustive]
pub enum CloseReason {
    /// `shutdown` was called, or the last handle was dropped.
    ShutDown,
    /// The connection dropped and `nats.reconnect` is false.
    ReconnectDisabled,
    /// `nats.maxReconnectAttempts` attempts failed.
    GaveUp {
        /// How many were made.
        attempts: u32,
    },
    /// Every server refused the credentials, each of them twice in a row.
    Authentication,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShutDown => f.write_str("shut down"),
            Self::ReconnectDisabled => f.write_str("the connection dropped, and `nats.reconnect` is false"),
            Self::GaveUp { attempts } => write!(f, "gave up after {attempts} failed attempts to reconnect"),
            Self::Authentication => f.write_str("every server refused the credentials twice"),
        }
    }
}

/// What can happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A socket is open and the server took our credentials; the transport has counted so many connections.
    TransportUp(u64),
    /// The round trip that [`Effect::Probe`] asked for came back. Carries the epoch that it was sent for.
    ProbeReturned(u64),
    /// The socket is gone.
    TransportDown,
    /// An attempt to reconnect is about to be made.
    Attempt(u32),
    /// Every server refuses the credentials, and none will be asked again.
    Refused,
    /// So many attempts failed, and no further one will be made.
    GaveUp { attempts: u32 },
    /// The user shut the client down.
    ShutDown,
}

/// What the shell has to do after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Send a message round, and come back with [`Input::ProbeReturned`].
    Probe(u64),
    /// Everything that waits for an answer will not get one.
    FailPending,
    /// Let go of the transport.
    Close,
}

/// The machine. It knows neither sockets nor time.
#[derive(Debug)]
pub(crate) struct Machine {
    state: ConnectionState,
    /// That of the last transport, so that a probe of an earlier one proves nothing about this one.
    epoch: u64,
    /// Whether the transport of `epoch` still stands, as far as is known.
    up: bool,
    attempts: u32,
    reconnect: bool,
}

impl Machine {
    pub(crate) fn new(reconnect: bool) -> Self {
        Self { state: ConnectionState::Connecting, epoch: 0, up: false, attempts: 0, reconnect }
    }

    pub(crate) fn state(&self) -> &ConnectionState {
        &self.state
    }

    /// Takes one input. Afterwards [`state`](Self::state) is what users may be shown.
    pub(crate) fn on(&mut self, input: Input) -> Option<Effect> {
        if self.state.is_closed() {
            return None;
        }
        match input {
            // News of one that is known already, or older than one that is.
            Input::TransportUp(epoch) if epoch < self.epoch || (self.up && epoch == self.epoch) => None,
            Input::TransportUp(epoch) => {
                self.epoch = epoch;
                self.up = true;
                Some(Effect::Probe(epoch))
            }
            Input::ProbeReturned(epoch) => {
                if self.up && epoch == self.epoch {
                    self.attempts = 0;
                    self.state = ConnectionState::Connected { epoch };
                }
                None
            }
            Input::TransportDown if !self.reconnect => Some(self.close(CloseReason::ReconnectDisabled)),
            Input::TransportDown => {
                self.up = false;
                // The news of the drop and that of the first attempt travel apart, and either may come first.
                self.state = match self.attempts {
                    0 => ConnectionState::Disconnected,
                    attempt => ConnectionState::Reconnecting { attempt },
                };
                Some(Effect::FailPending)
            }
            Input::Attempt(attempt) => {
                self.attempts = attempt;
                self.up = false;
                if self.state == ConnectionState::Connecting || !self.reconnect {
                    return None;
                }
                self.state = ConnectionState::Reconnecting { attempt };
                Some(Effect::FailPending)
            }
            Input::Refused => Some(self.close(CloseReason::Authentication)),
            Input::GaveUp { attempts } => Some(self.close(CloseReason::GaveUp { attempts })),
            Input::ShutDown => Some(self.close(CloseReason::ShutDown)),
        }
    }

    fn close(&mut self, reason: CloseReason) -> Effect {
        self.state = ConnectionState::Closed { reason };
        Effect::Close
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connected() -> Machine {
        let mut machine = Machine::new(true);
        assert_eq!(machine.on(Input::TransportUp(1)), Some(Effect::Probe(1)));
        machine.on(Input::ProbeReturned(1));
        machine
    }

    #[test]
    fn c6_connected_only_after_a_round_trip() {
        let mut machine = Machine::new(true);
        machine.on(Input::TransportUp(1));
        assert_eq!(machine.state(), &ConnectionState::Connecting);
        machine.on(Input::ProbeReturned(1));
        assert_eq!(machine.state(), &ConnectionState::Connected { epoch: 1 });
    }

    #[test]
    fn c6_a_probe_of_an_earlier_connection_proves_nothing() {
        let mut machine = connected();
        assert_eq!(machine.on(Input::TransportDown), Some(Effect::FailPending));
        machine.on(Input::Attempt(1));
        let Some(Effect::Probe(second)) = machine.on(Input::TransportUp(2)) else { panic!("no probe") };
        machine.on(Input::ProbeReturned(1));
        assert_eq!(machine.state(), &ConnectionState::Reconnecting { attempt: 1 });
        machine.on(Input::ProbeReturned(second));
        assert_eq!(machine.state(), &ConnectionState::Connected { epoch: second });
    }

    #[test]
    fn c6_an_attempt_that_is_heard_of_before_the_drop_changes_nothing_in_the_end() {
        let mut machine = connected();
        assert_eq!(machine.on(Input::Attempt(1)), Some(Effect::FailPending));
        assert_eq!(machine.on(Input::TransportDown), Some(Effect::FailPending));
        assert_eq!(machine.state(), &ConnectionState::Reconnecting { attempt: 1 });
        machine.on(Input::TransportUp(2));
        machine.on(Input::ProbeReturned(2));
        assert_eq!(machine.state(), &ConnectionState::Connected { epoch: 2 });
    }

    #[test]
    fn c7_hopeless_credentials_close() {
        let mut machine = connected();
        machine.on(Input::TransportDown);
        assert_eq!(machine.on(Input::Refused), Some(Effect::Close));
        assert_eq!(machine.state(), &ConnectionState::Closed { reason: CloseReason::Authentication });
    }

    #[test]
    fn c6_news_that_come_twice_or_late_change_nothing() {
        let mut machine = connected();
        assert_eq!(machine.on(Input::TransportUp(1)), None);
        machine.on(Input::Attempt(1));
        assert_eq!(machine.on(Input::TransportUp(3)), Some(Effect::Probe(3)));
        assert_eq!(machine.on(Input::TransportUp(2)), None);
        machine.on(Input::ProbeReturned(3));
        assert_eq!(machine.state(), &ConnectionState::Connected { epoch: 3 });
    }

    #[test]
    fn c7_giving_up_says_how_many_attempts_failed() {
        let mut machine = connected();
        machine.on(Input::TransportDown);
        assert_eq!(machine.on(Input::GaveUp { attempts: 10 }), Some(Effect::Close));
        assert_eq!(machine.state(), &ConnectionState::Closed { reason: CloseReason::GaveUp { attempts: 10 } });
    }

    #[test]
    fn c6_without_reconnection_the_first_drop_closes() {
        let mut machine = Machine::new(false);
        machine.on(Input::TransportUp(1));
        machine.on(Input::ProbeReturned(1));
        assert_eq!(machine.on(Input::TransportDown), Some(Effect::Close));
        assert_eq!(machine.state(), &ConnectionState::Closed { reason: CloseReason::ReconnectDisabled });
    }

    fn inputs() -> impl Strategy<Value = Input> {
        prop_oneof![
            (1u64..6).prop_map(Input::TransportUp),
            (0u64..6).prop_map(Input::ProbeReturned),
            Just(Input::TransportDown),
            (1u32..12).prop_map(Input::Attempt),
            Just(Input::Refused),
            (1u32..12).prop_map(|attempts| Input::GaveUp { attempts }),
            Just(Input::ShutDown),
        ]
    }

    proptest! {
        #[test]
        fn c6_epochs_only_grow_and_closed_is_final(script in prop::collection::vec(inputs(), 0..64), reconnect: bool) {
            let mut machine = Machine::new(reconnect);
            let mut last_epoch = 0;
            let mut closed = None;
            for input in script {
                machine.on(input);
                if let Some(reason) = &closed {
                    prop_assert_eq!(machine.state(), reason);
                }
                match machine.state() {
                    ConnectionState::Connected { epoch } => {
                        prop_assert!(*epoch >= last_epoch);
                        last_epoch = *epoch;
                    }
                    state if state.is_closed() => closed = Some(state.clone()),
                    _ => {}
                }
            }
        }
    }
}
