//! The task that drives the state machine: events in, published states and effects out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Link;
use super::state::{ConnectionState, Effect, Input, Machine};
use crate::inbox::Inbox;
use crate::measure::ConnectionMeasure;
use crate::outbox::Outbox;

/// How long one probe is waited for before the next is sent, in case the server dropped it.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

type Probe = Pin<Box<dyn Future<Output = u64> + Send>>;

/// Runs until the client is closed. Dropping it (the client's last handle aborts it) leaves nothing behind.
pub(crate) async fn manage(
    nats: async_nats::Client,
    mut inputs: mpsc::UnboundedReceiver<Input>,
    inbox: Arc<Inbox>,
    link: Arc<Link>,
    outbox: Option<Arc<Outbox>>,
    reconnect: bool,
) {
    let mut machine = Machine::new(reconnect);
    let mut measure = ConnectionMeasure::new();
    let mut probe: Option<Probe> = None;
    while !machine.state().is_closed() {
        let input = tokio::select! {
            input = inputs.recv() => match input {
                Some(input) => input,
                None => return,
            },
            epoch = returned(&mut probe) => {
                probe = None;
                Input::ProbeReturned(epoch)
            }
        };
        let before = machine.state().clone();
        let effect = machine.on(input);
        match &outbox {
            Some(outbox) if machine.state().is_connected() => outbox.release(&nats, &link, machine.state()).await,
            // Published before anyone is failed, so that whoever is woken by the failure sees the reason.
            _ => link.set(machine.state()),
        }
        report(&before, machine.state());
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
                // Ends the transport when it has a connection; when it has none, it ends by running out of attempts.
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

fn report(before: &ConnectionState, now: &ConnectionState) {
    if before == now {
        return;
    }
    match now {
        ConnectionState::Connected { epoch } => tracing::info!(epoch, "connected to NATS"),
        ConnectionState::Reconnecting { attempt } => tracing::info!(attempt, "reconnecting to NATS"),
        ConnectionState::Closed { reason } => tracing::info!(%reason, "the NATS connection is closed"),
        ConnectionState::Disconnected => tracing::warn!("the NATS connection dropped"),
        ConnectionState::Connecting => tracing::debug!("connecting to NATS"),
    }
}
