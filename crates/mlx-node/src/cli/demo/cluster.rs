//! The cluster: a node on the bus, the workers that it knows, and those among them that it has started itself.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use mlx_embedded::{EmbeddedServer, Node};
use mlx_errors::{ErrorKind, Result};
use mlx_nats::{ClientOptions, WorkerInfo, Workers};
use mlx_types::messages::{ClusterAnnouncement, ClusterEvent, ClusterShutdown};
use mlx_types::{WorkerId, subjects};

use super::process::{Starting, WorkerProcess};
use crate::terminal::note;

/// How long the workers may take to start and register.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long their engines may take to have a model: large ones are loaded for minutes.
const MODELS_LIMIT: Duration = Duration::from_mins(10);
/// How long the workers may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// Dropping it kills what it has started; [`stop`](Self::stop) ends it in good order.
pub(super) struct Cluster {
    /// The connection, with the server where it is embedded.
    pub(super) node: Node,
    /// Every worker of the cluster, wherever it runs.
    pub(super) registry: Workers,
    /// The workers started here.
    pub(super) processes: Vec<WorkerProcess>,
}

impl Cluster {
    /// Starts the server, or connects to it, and starts the workers.
    ///
    /// # Errors
    /// Those of [`mlx_embedded::connect`], and a process that cannot be started.
    pub(super) async fn start(starting: &Starting<'_>) -> Result<Self> {
        let config = starting.settings.config();
        let node = mlx_embedded::connect_with(&config.nats, ClientOptions::from(config).name("controller")).await?;
        let client = node.client();
        // Followed before any worker starts, so that no registration is missed.
        let registry = client.workers().await?;
        client.publish(&subjects::CLUSTER_ANNOUNCE, &ClusterAnnouncement::new(ClusterEvent::ControllerStarted)).await?;
        let server = node.server().map(EmbeddedServer::client_url);
        if let (Some(url), Some(pid)) = (&server, node.server().and_then(EmbeddedServer::pid)) {
            note(&format!("nats-server is process {pid}, at {url}"));
        }
        let start = |_| WorkerProcess::start(starting, server.as_ref());
        let processes = (0..starting.arguments.workers).map(start).collect::<Result<_>>()?;
        Ok(Self { node, registry, processes })
    }

    /// Waits until every worker started here has registered.
    ///
    /// # Errors
    /// A worker that ends before, and one that takes too long.
    pub(super) async fn all_registered(&mut self) -> Result<()> {
        let ids = self.ids();
        let all_there = self.registry.wait_until(START_LIMIT, |online| {
            ids.iter().all(|id| online.iter().any(|worker| worker.worker_id == *id && worker.registration.is_some()))
        });
        unless_one_ends(&mut self.processes, "registered", all_there).await?;
        for (number, worker) in self.processes.iter().enumerate() {
            note(&format!("worker {} is process {}, id {}", number + 1, worker.pid, worker.id));
        }
        Ok(())
    }

    /// Waits until every worker started here has a model, and returns the first one of each.
    ///
    /// # Errors
    /// A worker that ends before, and one that has none for ten minutes.
    pub(super) async fn first_models(&mut self) -> Result<Vec<String>> {
        let ids = self.ids();
        let first = |online: &[WorkerInfo]| -> Option<Vec<String>> {
            let of_worker = |id: &WorkerId| {
                let worker = online.iter().find(|worker| worker.worker_id == *id)?;
                worker.registration.as_ref()?.skills.available_models.first().cloned()
            };
            ids.iter().map(of_worker).collect()
        };
        if first(&self.registry.list()).is_none() {
            note("waiting for the engines to have a model");
        }
        let all_have_one = self.registry.wait_until(MODELS_LIMIT, |online| first(online).is_some());
        let online = unless_one_ends(&mut self.processes, "had a model", all_have_one).await?;
        Ok(first(&online).unwrap_or_default())
    }

    fn ids(&self) -> Vec<WorkerId> {
        self.processes.iter().map(|worker| worker.id).collect()
    }

    /// Ends the workers, then the server: in this order, so that they can still say goodbye. The cluster is told that it is shut
    /// down by who has the server, and by nobody else.
    ///
    /// # Errors
    /// Those of [`Node::shutdown`].
    pub(super) async fn stop(self) -> Result<()> {
        if self.node.server().is_some() {
            let shutdown = ClusterShutdown::new(u64::try_from(STOP_LIMIT.as_millis()).unwrap_or(u64::MAX))
                .reason("the controller ends");
            if let Err(error) = self.node.client().publish(&subjects::CLUSTER_SHUTDOWN, &shutdown).await {
                tracing::info!(error = &error as &dyn std::error::Error, "the shutdown could not be announced");
            }
        }
        join_all(self.processes.into_iter().map(|worker| worker.stop(STOP_LIMIT))).await;
        self.node.shutdown(STOP_LIMIT).await
    }
}

/// What `wait` waits for, or an error as soon as one of the processes has ended.
async fn unless_one_ends<T>(
    processes: &mut [WorkerProcess],
    before: &str,
    wait: impl Future<Output = Result<T>>,
) -> Result<T> {
    if processes.is_empty() {
        return wait.await; // select_all takes one at the least
    }
    let died = select_all(processes.iter_mut().map(|worker| Box::pin(worker.ended())));
    tokio::select! {
        there = wait => there,
        (status, number, _) = died => {
            let reason = format!("worker {} ended before it {before}: {status}", number + 1);
            Err(ErrorKind::Internal { reason }.into())
        }
    }
}
