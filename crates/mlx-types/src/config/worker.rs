//! The worker.

use garde::Validate;
use mlx_errors::Violation;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{engine_url, nested, relation};
use crate::check::positive;
use crate::{Millis, Secret, WorkerId};

/// The worker of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// The port of its own interface.
    #[garde(range(min = 1024, max = 65535))]
    pub port: u16,
    /// Its id; where unset, one is generated and kept beside the configuration.
    pub worker_id: Option<WorkerId>,
    /// Requests that it answers at a time; controllers are told.
    #[garde(range(min = 1))]
    pub max_concurrent: u32,
    /// What makes the text.
    #[garde(dive)]
    pub engine: EngineConfig,
    /// Models to load before the first request.
    #[garde(dive)]
    pub pre_warming: PreWarmingConfig,
    /// How much memory of the machine may be in use.
    #[garde(dive)]
    pub resource_limits: ResourceLimitsConfig,
    /// Requests that wait.
    #[garde(dive)]
    pub request_queue: RequestQueueConfig,
    /// Requests that are computed together.
    #[garde(dive)]
    pub continuous_batching: ContinuousBatchingConfig,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            port: 8080,
            worker_id: None,
            max_concurrent: 4,
            engine: EngineConfig::default(),
            pre_warming: PreWarmingConfig::default(),
            resource_limits: ResourceLimitsConfig::default(),
            request_queue: RequestQueueConfig::default(),
            continuous_batching: ContinuousBatchingConfig::default(),
        }
    }
}

impl WorkerConfig {
    pub(super) fn relations(&self) -> Vec<Violation> {
        let engine = nested("engine", self.engine.relations());
        let limits = nested("resourceLimits", self.resource_limits.relations());
        engine.chain(limits).chain(nested("continuousBatching", self.continuous_batching.relations())).collect()
    }
}

/// What makes the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct EngineConfig {
    /// `stand-in` needs no model and makes its answer of the prompt; `openai` is a model server that speaks OpenAI's protocol.
    pub kind: EngineKind,
    /// Where the API of the model server begins, for example `http://127.0.0.1:8080/v1`; for the kind `openai`.
    #[garde(custom(engine_url))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::engine_url_schema"))]
    pub url: Option<String>,
    /// Which of the model server's APIs is used.
    pub api: EngineApi,
    /// The key that the model server asks for; `OPENAI_API_KEY` of the environment where unset.
    #[garde(length(min = 1))]
    pub api_key: Option<Secret<String>>,
}

impl EngineConfig {
    fn relations(&self) -> Vec<Violation> {
        let message = match (self.kind, &self.url) {
            (EngineKind::Openai, None) => "is needed by the kind `openai`, such as `http://127.0.0.1:8080/v1`",
            (EngineKind::StandIn, Some(_)) => "belongs to the kind `openai`: set `worker.engine.kind: openai`",
            _ => return Vec::new(),
        };
        vec![relation("url", "together", message)]
    }
}

/// What kind of engine makes the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// None: an answer made of the prompt, to try a cluster out.
    #[default]
    StandIn,
    /// A model server that speaks OpenAI's protocol.
    Openai,
}

/// Which of a model server's APIs is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EngineApi {
    /// `/chat/completions`: the server puts the messages into the model's own chat template.
    #[default]
    Chat,
    /// `/completions`: the model goes on from the prompt as it is.
    Completions,
}

/// Models to load before the first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct PreWarmingConfig {
    /// Whether models are loaded before the first request.
    pub enabled: bool,
    /// Whether they are loaded at the same time.
    pub parallel: bool,
    /// The models.
    #[garde(dive)]
    pub models: Vec<PreWarmModel>,
    /// How long one model may take, in ms.
    pub timeout_per_model_ms: Millis,
    /// When the worker registers: as soon as it begins, or when all are loaded.
    pub register_when: RegisterWhen,
}

impl Default for PreWarmingConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            parallel: false,
            models: Vec::new(),
            timeout_per_model_ms: Millis::of::<30_000>(),
            register_when: RegisterWhen::Warming,
        }
    }
}

/// A model to load before the first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct PreWarmModel {
    /// The model's id.
    pub model: String,
    /// How early it is loaded.
    #[serde(default)]
    pub priority: PreWarmPriority,
}

/// How early a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum PreWarmPriority {
    /// Before all others.
    High,
    /// After those that are high.
    #[default]
    Medium,
    /// After all others.
    Low,
}

/// When a worker that loads models beforehand registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum RegisterWhen {
    /// As soon as it begins.
    #[default]
    Warming,
    /// When all are loaded.
    Complete,
}

/// How much memory of the machine may be in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ResourceLimitsConfig {
    /// Whether the limits hold.
    pub enabled: bool,
    /// Memory of the machine in use, in GB, from which the worker says that it is degraded, so that others are asked first; below
    /// the hard limit.
    #[serde(rename = "softMemoryLimitGB")]
    #[garde(custom(positive))]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub soft_memory_limit_gb: f64,
    /// Memory of the machine in use, in GB, from which requests are refused.
    #[serde(rename = "hardMemoryLimitGB")]
    #[garde(custom(positive))]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub hard_memory_limit_gb: f64,
    /// How often memory is measured, in ms.
    pub check_interval_ms: Millis,
}

impl Default for ResourceLimitsConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            soft_memory_limit_gb: 8.0,
            hard_memory_limit_gb: 10.0,
            check_interval_ms: Millis::of::<5000>(),
        }
    }
}

impl ResourceLimitsConfig {
    fn relations(&self) -> Vec<Violation> {
        let (soft, hard) = (self.soft_memory_limit_gb, self.hard_memory_limit_gb);
        if soft < hard {
            return Vec::new();
        }
        let message = format!("must be below `worker.resourceLimits.hardMemoryLimitGB`, which is {hard}");
        vec![relation("softMemoryLimitGB", "order", &message).found(format!("`{soft}`"))]
    }
}

/// Requests that wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct RequestQueueConfig {
    /// Whether requests beyond `worker.maxConcurrent` may wait at the worker.
    pub enabled: bool,
    /// Whether a request that finds the queue full is refused at once.
    pub reject_when_full: bool,
    /// Requests that may wait at the most.
    #[garde(range(min = 1))]
    pub max_depth: u32,
    /// Levels of priority, 2 to 5.
    #[garde(range(min = 2, max = 5))]
    pub priority_levels: u8,
}

impl Default for RequestQueueConfig {
    fn default() -> Self {
        Self { enabled: false, reject_when_full: true, max_depth: 100, priority_levels: 3 }
    }
}

/// Requests that are computed together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ContinuousBatchingConfig {
    /// Whether requests are computed together.
    pub enabled: bool,
    /// Whether the time to wait for a batch follows the load.
    pub adaptive_timeout: bool,
    /// Requests in a batch at the least; not above `maxBatchSize`.
    #[garde(range(min = 1))]
    pub min_batch_size: u32,
    /// Requests in a batch at the most, 1 to 32.
    #[garde(range(min = 1, max = 32))]
    pub max_batch_size: u32,
    /// How long to wait for a batch to fill, in ms.
    pub batch_timeout_ms: Millis,
}

impl Default for ContinuousBatchingConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            adaptive_timeout: true,
            min_batch_size: 1,
            max_batch_size: 8,
            batch_timeout_ms: Millis::of::<50>(),
        }
    }
}

impl ContinuousBatchingConfig {
    fn relations(&self) -> Vec<Violation> {
        if self.min_batch_size <= self.max_batch_size {
            return Vec::new();
        }
        let message =
            format!("must not be above `worker.continuousBatching.maxBatchSize`, which is {}", self.max_batch_size);
        let found = Some(format!("`{}`", self.min_batch_size));
        vec![relation("minBatchSize", "order", &message).found(found)]
    }
}
