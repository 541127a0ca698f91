//! The task that keeps a worker known, and what it says.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use mlx_errors::Result;
use mlx_types::messages::{
    ClusterAnnouncement, ClusterEvent, ModelSkills, WorkerCapabilities, WorkerHeartbeat, WorkerMetricsReport,
    WorkerRegistration, WorkerStatus,
};
use mlx_types::{Epoch, subjects};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::load::Load;
use super::profile::LEAST_INTERVAL;
use super::{Figures, WorkerProfile};
use crate::client::Client;
use crate::pubsub::Subscription;
use crate::telemetry::log_limit::LogLimit;

/// What changes about a worker.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) models: Vec<String>,
    pub(super) loaded: Vec<String>,
    pub(super) status: WorkerStatus,
    /// Why it is not online.
    pub(super) reason: Option<String>,
}

impl State {
    pub(super) fn of(profile: &WorkerProfile) -> Self {
        Self {
            models: profile.models.clone(),
            loaded: Vec::new(),
            status: profile.status,
            reason: profile.reason.clone(),
        }
    }
}

/// Says what a worker is, and how it does.
pub(super) struct Announcer {
    pub(super) client: Client,
    pub(super) epoch: Epoch,
    pub(super) profile: WorkerProfile,
    pub(super) load: Arc<Load>,
    pub(super) figures: Figures,
    pub(super) state: watch::Receiver<State>,
}

impl Announcer {
    pub(super) async fn register(&self) -> Result<()> {
        self.client.publish(&subjects::WORKER_REGISTER, &self.registration()).await
    }

    fn registration(&self) -> WorkerRegistration {
        let (profile, state) = (&self.profile, self.state.borrow().clone());
        let ip = profile.ip.unwrap_or_else(|| own_address(&self.client));
        let hostname = profile.hostname.clone().unwrap_or_else(|| ip.to_string());
        let capabilities = WorkerCapabilities::new(profile.max_concurrent as u64)
            .supported_model_tiers(profile.model_tiers.clone())
            .available_memory_gb(profile.available_memory_gb)
            .accepts(Some(profile.accepts.clone()).filter(|accepts| !accepts.is_empty()));
        WorkerRegistration::new(profile.id, hostname, ip, profile.port, ModelSkills::new(state.models))
            .status(state.status)
            .reason(state.reason)
            .hardware(profile.hardware.clone())
            .capabilities(capabilities)
            .epoch(self.epoch)
    }

    /// Says that the worker lives, and what it is busy with.
    async fn beat(&self) -> Result<()> {
        let state = self.state.borrow().clone();
        let metrics = self.load.fill((self.figures)()).models_loaded(state.loaded);
        let tokens_per_second = self.load.tokens_per_second(Instant::now());
        let report = WorkerMetricsReport::new(self.profile.id, metrics.clone()).tokens_per_second(tokens_per_second);
        let beat = WorkerHeartbeat::new(self.profile.id, state.status, metrics).epoch(self.epoch);
        self.client.publish(&subjects::WORKER_HEARTBEAT, &beat).await?;
        self.client.publish(&subjects::METRICS_REPORT, &report).await
    }
}

/// Registers whenever someone may have missed it, and sends heartbeats in between, until the client is closed.
pub(super) async fn keep_known(announcer: Announcer, mut announcements: Subscription<ClusterAnnouncement>) {
    let limit = LogLimit::new();
    let mut connection = announcer.client.watch_state();
    // What has changed since the first registration, before this task had its turn, is news too.
    let mut state = announcer.state.clone();
    let first = State::of(&announcer.profile);
    let mut registered = (first.models, first.status, first.reason);
    let mut beats = interval(announcer.client.options().heartbeat_interval.max(LEAST_INTERVAL));
    beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut registrations = interval(announcer.profile.register_interval);
    registrations.set_missed_tick_behavior(MissedTickBehavior::Delay);
    registrations.reset();
    loop {
        let said = tokio::select! {
            _ = beats.tick() => announcer.beat().await,
            _ = registrations.tick() => announcer.register().await,
            // An error means that the worker is about to end.
            Ok(()) = state.changed() => {
                let now = state.borrow_and_update().clone();
                // Which models are in memory is the heartbeat's to say.
                let news = (now.models, now.status, now.reason);
                let is_news = news != registered;
                registered = news;
                if is_news { announcer.register().await.and(announcer.beat().await) } else { announcer.beat().await }
            }
            Some(announcement) = announcements.next() => match announcement {
                Ok(announcement) if announcement.event == ClusterEvent::ControllerStarted => announcer.register().await,
                _ => Ok(()),
            },
            changed = connection.changed() => {
                let state = connection.borrow_and_update().clone();
                if changed.is_err() || state.is_closed() {
                    return;
                }
                if state.is_connected() { announcer.register().await } else { Ok(()) }
            }
        };
        // What could not be said is made good by the next time; the log tells that it is missing.
        if let Err(error) = said
            && announcer.client.state().is_connected()
            && let Some(so_far) = limit.count(Instant::now())
        {
            tracing::warn!(worker_id = %announcer.profile.id, error = &error as &dyn std::error::Error, so_far, "the cluster could not be told of this worker");
        }
    }
}

/// The address that the server sees this client connect from.
fn own_address(client: &Client) -> IpAddr {
    client.nats().server_info().client_ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
