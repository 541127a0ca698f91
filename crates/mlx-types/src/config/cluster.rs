//! The whole configuration of a node.

use garde::Validate;
use mlx_errors::{Violation, Violations};
use mlx_log::LogConfig;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{nested, outcome, relation};
use super::{
    ControllerConfig, DiscoveryConfig, LoadBalancingConfig, NatsConfig, NatsMode, RequestRoutingConfig,
    StreamingConfig, WorkerConfig, WorkersConfig,
};
use crate::check::bounds;

/// The configuration of a node of the cluster.
///
/// ```
/// let config = mlx_types::ClusterConfig::default();
/// assert!(config.check().is_ok());
/// assert_eq!(config.nats.embedded.port, 4222);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ClusterConfig {
    /// Which parts run in this node.
    pub mode: Mode,
    /// The connection to NATS, or the server to start.
    #[garde(dive)]
    pub nats: NatsConfig,
    /// The controller.
    #[garde(dive)]
    pub controller: ControllerConfig,
    /// The worker.
    #[garde(dive)]
    pub worker: WorkerConfig,
    /// How workers are found, and found to be gone.
    #[garde(dive)]
    pub discovery: DiscoveryConfig,
    /// Workers that are known beforehand.
    #[garde(dive)]
    pub workers: WorkersConfig,
    /// How a worker is chosen.
    #[garde(dive)]
    pub load_balancing: LoadBalancingConfig,
    /// How long requests may take, and what happens when they fail.
    #[garde(dive)]
    pub request_routing: RequestRoutingConfig,
    /// Token streams.
    #[garde(dive)]
    pub streaming: StreamingConfig,
    /// Log lines.
    #[garde(dive)]
    pub logging: LogConfig,
}

impl ClusterConfig {
    /// Checks every bound, and every rule between members.
    ///
    /// # Errors
    /// All that is broken, each with its path.
    pub fn check(&self) -> Result<(), Violations> {
        let mut violations: Vec<_> = bounds(self).err().iter().flatten().cloned().collect();
        violations.extend(nested("nats", self.nats.relations()));
        violations.extend(nested("worker", self.worker.relations()));
        violations.extend(nested("discovery", self.discovery.relations()));
        violations.extend(nested("workers", self.workers.relations()));
        violations.extend(nested("requestRouting.durable", self.request_routing.durable.relations()));
        violations.extend(self.durable_needs_jetstream());
        outcome(violations)
    }

    fn durable_needs_jetstream(&self) -> Option<Violation> {
        let own_server = self.nats.mode == NatsMode::Embedded && self.nats.urls().is_empty();
        let needed = self.request_routing.durable.enabled && own_server && !self.nats.embedded.jetstream.enabled;
        needed.then(|| {
            let message =
                "durable hand-over needs a server that keeps messages: set `nats.embedded.jetstream.enabled: true`";
            relation("requestRouting.durable.enabled", "together", message)
        })
    }
}

/// Which parts run in a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// The controller alone.
    Controller,
    /// A worker alone.
    Worker,
    /// A controller and a worker in one.
    #[default]
    Both,
}
