//! The task that drives the state machine: events in, published states and effects out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Link;
use super::reconnect::Dispatcher;
use super::report::Reporter;
use super::roster::Failure;
use super::state::{Effect, Input, Machine};
use crate::inbox::Inbox;
use crate::measure::ConnectionMeasure;
use crate::outbox::Outbox;

/// How long one probe is waited for before the next is sent, in case the server dropped it.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

type Probe = Pin<Box<dyn Future<Output = u64> + Send>>;

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
    let mut probe: Option<Probe> = None;
    while !machine.state().is_closed() {
        let input = tokio::select! {
            // News first: a proof is worth nothing if they say that its connection is gone.
            biased;
            signal = signals.recv() => {
                let Some(signal) = signal else { return };
                reporter.heard(&signal, Instant::now());
                input(&signal, &nats)
            }
            epoch = returned(&mut probe) => {
                probe = None;
                // It may have gone round on a later connection, of which the news are on their way.
                (transports(&nats) == epoch).then_some(Input::ProbeReturned(epoch))
            }
        };
        let Some(input) = input else { continue };
        let before = machine.state().clone();
        let effect = machine.on(input);
        match &outbox {
            Some(outbox) if machine.state().is_connected() => outbox.release(&nats, &link, machine.state()).await,
            // Published before anyone is failed, so that whoever is woken by the failure sees the reason.
            _ => link.set(machine.state()),
        }
        reporter.moved(&before, machine.state(), Instant::now());
        measure.moved(machine.state());
        match effect {
            Some(Effect::Probe(epoch)) => probe = Some(Box::pin(round_trip(nats.clone(), Arc::clone(&inbox), epoch))),
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

/// The epoch of the probe under way, once it is back; never, when none is.
async fn returned(probe: &mut Option<Probe>) -> u64 {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

/// Sends messages to our own inbox until one comes back: proof that the server has our subscriptions and answers.
async fn round_trip(nats: async_nats::Client, inbox: Arc<Inbox>, epoch: u64) -> u64 {
    loop {
        let (waiter, subject) = inbox.wait();
        if nats.publish(subject, Bytes::new()).await.is_err() {
            // The transport has ended; its last event is on the way and will end this future.
            return std::future::pending().await;
        }
        if let Ok(Some(_)) = timeout(PROBE_PATIENCE, waiter).await {
            return epoch;
        }
        tracing::warn!("the NATS server took the connection but does not answer on it yet");
    }
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
