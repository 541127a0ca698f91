//! What makes a worker known to a cluster, whatever it serves: registration, heartbeats, a farewell.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::{Client, Subscription};
use mlx_types::messages::{
    ClusterAnnouncement, ClusterEvent, ModelSkills, WorkerDeregistration, WorkerHeartbeat, WorkerMetrics,
    WorkerRegistration, WorkerStatus,
};
use mlx_types::{Epoch, WorkerId, subjects};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// A worker's place in the cluster. Dropping it is a death without a word; [`leave`](Self::leave) says goodbye.
#[derive(Debug)]
pub struct Presence {
    identity: Identity,
    keeper: JoinHandle<Error>,
}

impl Presence {
    /// Registers, now and whenever someone may have missed it, and sends a heartbeat every `interval`.
    pub async fn announce(client: &Client, id: WorkerId, interval: Duration) -> Result<Self> {
        let identity = Identity { id, epoch: Epoch::now(), client: client.clone() };
        let announcements = client.subscribe(&subjects::CLUSTER_ANNOUNCE).await?;
        identity.register().await?;
        let keeper = tokio::spawn(identity.clone().keep_known(announcements, interval));
        Ok(Self { identity, keeper })
    }

    /// The worker.
    pub fn id(&self) -> WorkerId {
        self.identity.id
    }

    /// Resolves with the reason when it can be known to nobody any more, because its client is closed.
    pub async fn ended(&mut self) -> Error {
        (&mut self.keeper).await.expect("the keeper of a presence panicked")
    }

    /// Sends no further heartbeat, and says goodbye.
    pub async fn leave(mut self) -> Result<()> {
        self.keeper.abort();
        // Until then a heartbeat may still be on its way, behind which the farewell has to be.
        let _ = (&mut self.keeper).await;
        let Identity { id, epoch, client } = &self.identity;
        let farewell = WorkerDeregistration::new(*id).epoch(*epoch).reason("shut down");
        client.publish(&subjects::WORKER_DEREGISTER, &farewell).await
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

#[derive(Clone, Debug)]
struct Identity {
    id: WorkerId,
    epoch: Epoch,
    client: Client,
}

impl Identity {
    async fn keep_known(self, mut announcements: Subscription<ClusterAnnouncement>, interval: Duration) -> Error {
        let mut connection = self.client.watch_state();
        let mut beats = tokio::time::interval(interval);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            // What cannot be sent while the connection is down is made good by the registration after it.
            let _ = tokio::select! {
                _ = beats.tick() => self.beat().await,
                Some(Ok(announcement)) = announcements.next() => match announcement.event {
                    ClusterEvent::ControllerStarted => self.register().await,
                    _ => Ok(()),
                },
                changed = connection.changed() => {
                    let state = connection.borrow_and_update().clone();
                    if changed.is_err() || state.is_closed() {
                        return Error::new(ErrorKind::Closed { reason: state.to_string() });
                    }
                    if state.is_connected() { self.register().await } else { Ok(()) }
                }
            };
        }
    }

    async fn register(&self) -> Result<()> {
        let skills = ModelSkills::new([crate::TEST_MODEL]).model_paths(std::collections::BTreeMap::new());
        let registration =
            WorkerRegistration::new(self.id, "localhost", Ipv4Addr::LOCALHOST.into(), 8080, skills).epoch(self.epoch);
        self.client.publish(&subjects::WORKER_REGISTER, &registration).await
    }

    async fn beat(&self) -> Result<()> {
        let beat = WorkerHeartbeat::new(self.id, WorkerStatus::Online, WorkerMetrics::default()).epoch(self.epoch);
        self.client.publish(&subjects::WORKER_HEARTBEAT, &beat).await
    }
}
