//! What a node is configured with: `config/cluster.yaml`, with every default and every rule.
//!
//! Keys are in camelCase, sections and keys may be absent, unknown keys are errors. `Default` is the one place where
//! defaults live; the JSON Schema shows them.

mod cluster;
mod controller;
mod durable;
mod embedded;
mod nats;
mod rules;
mod serving;
mod worker;

pub use cluster::{ClusterConfig, Mode};
pub use controller::{ControllerConfig, DiscoveryConfig, StaticWorker, WorkersConfig};
pub use durable::DurableConfig;
pub use embedded::{EmbeddedConfig, EmbeddedLogLevel, JetStreamConfig, RestartConfig};
pub use nats::{DiscoveredServers, NatsConfig, NatsMode, PublishWhileDisconnected, TlsConfig};
pub use serving::{
    CircuitBreakerConfig, LoadBalancingConfig, RequestRoutingConfig, RetryConfig, SessionAffinityConfig, Strategy,
    StreamingConfig,
};
pub use worker::{
    ContinuousBatchingConfig, EngineApi, EngineConfig, EngineKind, PreWarmModel, PreWarmPriority, PreWarmingConfig,
    RegisterWhen, RequestQueueConfig, ResourceLimitsConfig, WorkerConfig,
};
