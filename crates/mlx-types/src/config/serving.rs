//! How requests are served: which worker gets one, how long it may take, what happens when it fails.

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DurableConfig;
use crate::Millis;

/// How a worker is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct LoadBalancingConfig {
    /// The rule.
    pub strategy: Strategy,
    /// Whether a session stays on its worker. Deprecated: use `sessionAffinity.enabled`.
    pub sticky_session: bool,
    /// Sessions that stay on their worker.
    #[garde(dive)]
    pub session_affinity: SessionAffinityConfig,
}

/// The rule by which a worker is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests.
    LeastLoaded,
    /// By load, models in memory and latency.
    #[default]
    Smart,
}

/// Sessions that stay on their worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct SessionAffinityConfig {
    /// Whether sessions stay on their worker.
    pub enabled: bool,
    /// How long a silent session is remembered, in ms.
    pub ttl_ms: Millis,
    /// How often forgotten sessions are cleared away, in ms.
    pub cleanup_interval_ms: Millis,
}

impl Default for SessionAffinityConfig {
    fn default() -> Self {
        Self { enabled: false, ttl_ms: Millis::of::<1_800_000>(), cleanup_interval_ms: Millis::of::<60_000>() }
    }
}

/// How long requests may take, and what happens when they fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct RequestRoutingConfig {
    /// How long an answer that is wanted whole may take to begin, in ms: over all workers asked, waiting for a place included.
    pub timeout_ms: Millis,
    /// How long a streamed answer may take to begin, in ms: over all workers asked, waiting for a place included.
    pub streaming_timeout_ms: Millis,
    /// Workers that fail are left alone for a while.
    #[garde(dive)]
    pub circuit_breaker: CircuitBreakerConfig,
    /// Requests that fail are made again.
    #[garde(dive)]
    pub retry: RetryConfig,
    /// Requests that must not be lost are kept until a worker answers them.
    #[garde(dive)]
    pub durable: DurableConfig,
}

impl Default for RequestRoutingConfig {
    fn default() -> Self {
        Self {
            timeout_ms: Millis::of::<30_000>(),
            streaming_timeout_ms: Millis::of::<60_000>(),
            circuit_breaker: CircuitBreakerConfig::default(),
            retry: RetryConfig::default(),
            durable: DurableConfig::default(),
        }
    }
}

/// Workers that fail are left alone for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct CircuitBreakerConfig {
    /// Whether workers that fail are left alone.
    pub enabled: bool,
    /// Failures in a row after which a worker is left alone.
    #[garde(range(min = 1))]
    pub failure_threshold: u32,
    /// Successes in a row after which it is trusted again.
    #[garde(range(min = 1))]
    pub success_threshold: u32,
    /// How long it is left alone, in ms.
    pub timeout_ms: Millis,
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self { enabled: false, failure_threshold: 5, success_threshold: 2, timeout_ms: Millis::of::<30_000>() }
    }
}

/// Requests that fail are made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct RetryConfig {
    /// Whether requests that fail are made again.
    pub enabled: bool,
    /// How often, 0 to 10.
    #[garde(range(min = 0, max = 10))]
    pub max_retries: u32,
    /// How long to wait before, in ms.
    pub retry_delay_ms: Millis,
    /// The error codes for which it is worth it.
    pub retry_on_errors: Vec<String>,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            max_retries: 2,
            retry_delay_ms: Millis::of::<100>(),
            retry_on_errors: ["WORKER_TIMEOUT", "WORKER_UNAVAILABLE", "WORKER_OVERLOADED"].map(str::to_owned).into(),
        }
    }
}

/// Token streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct StreamingConfig {
    /// How long the first token may take, in ms.
    pub first_token_timeout_ms: Millis,
    /// How long each further token may take, in ms.
    pub inter_token_timeout_ms: Millis,
    /// Whether several tokens may travel in one message, where both ends understand that.
    pub coalesce: bool,
}

impl Default for StreamingConfig {
    fn default() -> Self {
        Self {
            first_token_timeout_ms: Millis::of::<60_000>(),
            inter_token_timeout_ms: Millis::of::<30_000>(),
            coalesce: true,
        }
    }
}
