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
use super::limit::PayloadLimit;
use super::publish_buffer::PublishBuffer;
use super::reconnect::Dispatcher;
use super::report::Reporter;
use super::server_pool::Failure;
use super::state::{CloseReason, ConnectionState, Effect, Input, Machine};
use crate::telemetry::measure::ConnectionMeasure;
use crate::wire::inbox::Inbox;

/// How long one probe is waited for before the next is sent, in case the server dropped it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the server's answer to the question for its limit is waited for, when a connection has proved itself.
const MIN_PROOF_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_PROOF_TIMEOUT: Duration = Duration::from_secs(1);

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
    pub(crate) limit: Arc<PayloadLimit>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) link: Arc<Link>,
    pub(crate) publish_buffer: Option<Arc<PublishBuffer>>,
    pub(crate) reconnect: bool,
}

/// Runs until the client is closed. Dropping it (the client's last handle aborts it) leaves nothing behind.
pub(crate) async fn manage(managed: Managed) {
    let Managed { nats, mut signals, dispatcher, limit, inbox, link, publish_buffer, reconnect } = managed;
    let mut machine = Machine::new(reconnect);
    let mut measure = ConnectionMeasure::new();
    let mut reporter = Reporter::new(Arc::clone(link.events()), dispatcher);
    let mut probe: Option<Work<u64>> = None;
    // Of what was kept while there was no connection, which is declared to be back at the end of it.
    let mut release: Option<Work<()>> = None;
    while !machine.state().is_closed() {
        let input = tokio::select! {
            // News first: a proof is worth nothing if they say that its connection is gone.
            biased;
            signal = signals.recv() => {
                let Some(signal) = signal else { return };
                if let Signal::ServerError(said) = &signal {
                    limit.heard(said);
                }
                reporter.heard(&signal, Instant::now());
                input(&signal, &nats)
            }
            epoch = done(&mut probe) => {
                probe = None;
                // It may have gone round on a later connection, of which the news are on their way.
                (transports(&nats) == epoch).then_some(Input::ProbeReturned(epoch))
            }
            () = done(&mut release) => {
                release = None;
                reporter.moved(machine.state(), Instant::now());
                told(&mut measure, machine.state());
                None
            }
        };
        let Some(input) = input else { continue };
        let effect = machine.on(input);
        if effect.is_some() {
            // The connection that it was for is gone. What is left waits for the next.
            release = None;
        }
        match (&publish_buffer, machine.state()) {
            (Some(publish_buffer), ConnectionState::Connected { epoch }) => {
                if input == Input::ProbeReturned(*epoch) {
                    release = Some(Box::pin(Arc::clone(publish_buffer).release(
                        nats.clone(),
                        Arc::clone(&link),
                        Arc::clone(&limit),
                        *epoch,
                    )));
                }
            }
            (_, state) => {
                // Published before anyone is failed, so that those woken by the failure see the reason.
                link.set(state);
                reporter.moved(state, Instant::now());
                told(&mut measure, state);
            }
        }
        match effect {
            Some(Effect::Probe(epoch)) => {
                probe = Some(Box::pin(prove(nats.clone(), Arc::clone(&inbox), Arc::clone(&limit), epoch)));
            }
            Some(Effect::FailPending) => {
                probe = None;
                inbox.fail_pending();
            }
            Some(Effect::Close) => {
                inbox.fail_pending();
                let messages = publish_buffer.as_ref().map_or(0, |publish_buffer| publish_buffer.abandon());
                if messages > 0 {
                    tracing::warn!(messages, "closed before messages kept for the connection could be sent");
                }
                end(&nats).await;
            }
            None => {}
        }
    }
}

fn told(measure: &mut ConnectionMeasure, state: &ConnectionState) {
    match state {
        ConnectionState::Connecting => measure.moved("connecting"),
        ConnectionState::Connected { .. } => measure.moved("connected"),
        ConnectionState::Disconnected => measure.moved("disconnected"),
        ConnectionState::Reconnecting { .. } => measure.moved("reconnecting"),
        ConnectionState::Closed { reason } => measure.closed(match reason {
            CloseReason::ShutDown => "shut_down",
            CloseReason::ReconnectDisabled => "reconnect_disabled",
            CloseReason::GaveUp { .. } => "gave_up",
            CloseReason::Authentication => "authentication",
        }),
    }
}

/// Sends what the transport still holds, and ends it when it has a connection; when it has none, the dispatcher does.
pub(crate) async fn end(nats: &async_nats::Client) {
    let ending = async {
        if nats.connection_state() == async_nats::connection::State::Connected {
            // Drained, it ends without a look at what the socket has not taken yet.
            let _ = nats.flush().await;
        }
        let _ = nats.drain().await;
    };
    let _ = timeout(PROBE_TIMEOUT, ending).await;
}

/// What the work under way comes to; never, when there is none.
async fn done<T>(work: &mut Option<Work<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// A round trip, and beside it the question for the largest payload, which is not waited for much longer.
async fn prove(nats: async_nats::Client, inbox: Arc<Inbox>, limit: Arc<PayloadLimit>, epoch: u64) -> u64 {
    let began = Instant::now();
    let info = nats.server_info();
    limit.renewed(info.server_id);
    if !info.auth_required && !limit.is_doubted() {
        // A client without credentials has no account with limits of its own.
        return round_trip(nats, inbox, epoch).await;
    }
    let mut asking = tokio::spawn(async move { limit.refresh().await });
    let epoch = round_trip(nats, inbox, epoch).await;
    // It takes a few round trips more, and goes on by itself where these take longer.
    let patience = (began.elapsed() * 8).clamp(MIN_PROOF_TIMEOUT, MAX_PROOF_TIMEOUT);
    let _ = timeout(patience, &mut asking).await;
    epoch
}

/// Sends messages to our own inbox until one comes back: proof that the server has our subscriptions and answers.
async fn round_trip(nats: async_nats::Client, inbox: Arc<Inbox>, epoch: u64) -> u64 {
    loop {
        let (waiter, subject) = inbox.wait();
        if nats.publish(subject, Bytes::new()).await.is_err() {
            // The transport has ended; its last event is on the way and will end this future.
            return std::future::pending().await;
        }
        // A refusal comes from the server too, on this connection: it is alive.
        if let Ok(Some(_)) = timeout(PROBE_TIMEOUT, waiter).await {
            return epoch;
        }
        tracing::warn!("the NATS server took the connection but does not answer on it yet");
    }
}

/// Connections that the transport has made so far: the epoch of the last.
pub(crate) fn transports(nats: &async_nats::Client) -> u64 {
    nats.statistics().connects.load(Ordering::SeqCst)
}

/// Bytes that the transport has received so far, of any kind.
pub(crate) fn received_bytes(nats: &async_nats::Client) -> u64 {
    nats.statistics().in_bytes.load(Ordering::Relaxed)
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
