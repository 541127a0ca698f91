//! The task that drives the state machine: events in, published states and effects out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Link;
use super::reconnect::Dispatcher;
use super::report::Reporter;
use super::roster::Failure;
use super::state::{ConnectionState, Effect, Input, Machine};
use crate::inbox::{Heard, Inbox};
use crate::measure::ConnectionMeasure;
use crate::outbox::Outbox;
use crate::round_trip::round_trip;

/// How long the end of the transport is waited for, and a connection is left alone on which no answers are heard.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// Something that takes its time, beside the news.
type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the manager is told by the transport, the dispatcher and the user.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A socket is open and the server took our credentials.
    Up,
    /// The socket is gone.
    Down,
    /// An attempt to reconnect is about to be made.
    Attempt(u32),
    /// One failed; when the next is made, if one is.
    AttemptFailed { failure: Failure, retry_in: Option<Duration> },
    /// Every server refuses the credentials.
    Refused,
    /// So many attempts failed.
    GaveUp { attempts: u32 },
    /// The server said that something is wrong.
    ServerError(String),
    /// The server will shut down.
    LameDuckMode,
    /// The transport's own queue of a subscription was full.
    Overflow,
    /// The user shut the client down.
    ShutDown,
}

/// What the manager works with.
pub(crate) struct Managed {
    pub(crate) nats: async_nats::Client,
    /// Its end, with the manager's, ends the dispatcher too.
    pub(crate) signals: mpsc::UnboundedReceiver<Signal>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) link: Arc<Link>,
    pub(crate) outbox: Option<Arc<Outbox>>,
    pub(crate) reconnect: bool,
}

/// Runs until the client is closed. Dropping it (the client's last handle aborts it) leaves nothing behind.
pub(crate) async fn manage(managed: Managed) {
    let Managed { nats, mut signals, dispatcher, inbox, link, outbox, reconnect } = managed;
    let mut machine = Machine::new(reconnect);
    let mut measure = ConnectionMeasure::new();
    let mut reporter = Reporter::new(Arc::clone(link.events()), dispatcher);
    let mut probe: Option<Work<u64>> = None;
    // Of what was kept while there was no connection, which is declared to be back at the end of it.
    let mut release: Option<Work<()>> = None;
    // Of a connection on which the server does not let us hear answers.
    let mut renewal: Option<Work<()>> = None;
    while !machine.state().is_closed() {
        let input = tokio::select! {
            // News first: a proof is worth nothing if they say that its connection is gone.
            biased;
            signal = signals.recv() => {
                let Some(signal) = signal else { return };
                let heard = match &signal {
                    Signal::ServerError(said) => inbox.heard(said, *machine.state() == ConnectionState::Connecting),
                    _ => Heard::Other,
                };
                if heard == Heard::RoundTrip {
                    continue; // as was to be expected
                }
                reporter.heard(&signal, Instant::now());
                // The first connection is given up by whoever asked for it.
                if heard == Heard::Refused && *machine.state() != ConnectionState::Connecting {
                    tracing::error!("answers are no longer heard, so the connection counts as lost (`nats.inboxPrefix`)");
                    link.set_trouble(inbox.refused());
                    renewal = Some(Box::pin(renew(nats.clone())));
                    Some(Input::TransportDown)
                } else {
                    if matches!(signal, Signal::Up | Signal::Down) {
                        renewal = None;
                        inbox.renewed();
                    }
                    input(&signal, &nats)
                }
            }
            () = done(&mut renewal) => {
                renewal = None;
                None
            }
            epoch = done(&mut probe) => {
                probe = None;
                // It may have gone round on a later connection, of which the news are on their way. And a refusal of the round
                // trip proves little where the inbox is refused too.
                let proved = transports(&nats) == epoch && inbox.refused().is_none();
                if proved {
                    link.set_trouble(None);
                }
                proved.then_some(Input::ProbeReturned(epoch))
            }
            () = done(&mut release) => {
                release = None;
                reporter.moved(machine.state(), Instant::now());
                measure.moved(machine.state());
                None
            }
        };
        let Some(input) = input else { continue };
        let effect = machine.on(input);
        if effect.is_some() {
            // The connection that it was for is gone. What is left waits for the next.
            release = None;
        }
        match (&outbox, machine.state()) {
            (Some(outbox), ConnectionState::Connected { epoch }) => {
                if input == Input::ProbeReturned(*epoch) {
                    release = Some(Box::pin(Arc::clone(outbox).release(nats.clone(), Arc::clone(&link), *epoch)));
                }
            }
            (_, state) => {
                // Published before anyone is failed, so that whoever is woken by the failure sees the reason.
                link.set(state);
                reporter.moved(state, Instant::now());
                measure.moved(state);
            }
        }
        match effect {
            Some(Effect::Probe(epoch)) => probe = Some(Box::pin(prove(nats.clone(), Arc::clone(&inbox), epoch))),
            Some(Effect::FailPending) => {
                probe = None;
                inbox.fail_pending();
            }
            Some(Effect::Close) => {
                inbox.fail_pending();
                let messages = outbox.as_ref().map_or(0, |outbox| outbox.abandon());
                if messages > 0 {
                    tracing::warn!(messages, "closed before messages kept for the connection could be sent");
                }
                // Ends the transport when it has a connection; when it has none, the dispatcher does.
                let _ = timeout(PROBE_PATIENCE, nats.drain()).await;
            }
            None => {}
        }
    }
}

/// What the work under way comes to; never, when there is none.
async fn done<T>(work: &mut Option<Work<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// A round trip on the connection of `epoch`: proof that the server has our subscriptions and answers.
async fn prove(nats: async_nats::Client, inbox: Arc<Inbox>, epoch: u64) -> u64 {
    let slow = || tracing::warn!("the NATS server took the connection but does not answer on it yet");
    match round_trip(&nats, &inbox, slow).await {
        Some(()) => epoch,
        // The transport has ended; its last event is on the way and will end this future.
        None => std::future::pending().await,
    }
}

/// A connection on which no answers are heard is none. It is made anew, since only that subscribes again, after a pause.
async fn renew(nats: async_nats::Client) {
    tokio::time::sleep(PROBE_PATIENCE).await; // for permissions to be changed back
    // An error means that the transport has ended, or is connecting already.
    let _ = nats.force_reconnect().await;
}

/// Connections that the transport has made so far: the epoch of the last.
pub(crate) fn transports(nats: &async_nats::Client) -> u64 {
    nats.statistics().connects.load(Ordering::SeqCst)
}

fn input(signal: &Signal, nats: &async_nats::Client) -> Option<Input> {
    match *signal {
        Signal::Up => Some(Input::TransportUp(transports(nats))),
        Signal::Down => Some(Input::TransportDown),
        Signal::Attempt(attempt) => Some(Input::Attempt(attempt)),
        Signal::Refused => Some(Input::Refused),
        Signal::GaveUp { attempts } => Some(Input::GaveUp { attempts }),
        Signal::ShutDown => Some(Input::ShutDown),
        // Overflows fill the transport's queue of events, so that the news of a connection may be missing among them.
        Signal::Overflow if nats.connection_state() == async_nats::connection::State::Connected => {
            Some(Input::TransportUp(transports(nats)))
        }
        Signal::Overflow | Signal::AttemptFailed { .. } | Signal::ServerError(_) | Signal::LameDuckMode => None,
    }
}
