//! Workers: how they join, prove that they live, and leave.

use std::collections::BTreeMap;
use std::net::IpAddr;

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{finite, positive};
use crate::{Epoch, Timestamp, WorkerId};

/// A worker joins: on `worker.register`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerRegistration"))]
#[garde(allow_unvalidated)]
pub struct WorkerRegistration {
    /// The worker.
    pub worker_id: WorkerId,
    /// The name of its host.
    pub hostname: String,
    /// Its address, IPv4 or IPv6.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::shapes::ip_address"))]
    pub ip: IpAddr,
    /// The port of its own interface.
    #[garde(range(min = 1024, max = 65535))]
    pub port: u16,
    /// The models it can serve.
    #[garde(dive)]
    pub skills: ModelSkills,
    /// How it feels.
    pub status: WorkerStatus,
    /// When this was sent.
    pub timestamp: Timestamp,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub hardware: Option<HardwareProfile>,
    /// What it can take on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub capabilities: Option<WorkerCapabilities>,
    /// Its incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// The models that a worker holds on its disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "ModelSkills"))]
#[garde(allow_unvalidated)]
pub struct ModelSkills {
    /// The ids of the models it can load.
    pub available_models: Vec<String>,
    /// Where each lies, by id.
    pub model_paths: BTreeMap<String, String>,
    /// Bytes of all of them.
    #[garde(range(min = 0.0), custom(finite))]
    pub total_model_size: f64,
    /// When the disks were last searched.
    pub last_scanned: Timestamp,
}

/// What a worker runs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "HardwareProfile"))]
#[garde(allow_unvalidated)]
pub struct HardwareProfile {
    /// The chip, for example `Apple M3 Max`.
    pub chip_model: String,
    /// Its generation, for example 3.
    pub chip_generation: u64,
    /// Its variant, for example `Max`.
    pub variant: String,
    /// GPU cores.
    pub gpu_cores: u64,
    /// CPU cores of all kinds.
    pub cpu_cores: u64,
    /// CPU cores made for speed.
    pub performance_cores: u64,
    /// CPU cores made for thrift.
    pub efficiency_cores: u64,
    /// Memory that CPU and GPU share, in GB.
    #[serde(rename = "unifiedMemoryGB")]
    #[garde(range(min = 0.0), custom(finite))]
    pub unified_memory_gb: f64,
    /// The version of Metal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metal_version: Option<String>,
    /// The version of the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

/// What a worker can take on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerCapabilities"))]
#[garde(allow_unvalidated)]
pub struct WorkerCapabilities {
    /// Requests at the same time.
    #[garde(range(min = 1))]
    pub max_concurrent: u64,
    /// Sizes of model it can hold.
    pub supported_model_tiers: Vec<ModelTier>,
    /// Memory free for models, in GB.
    #[serde(rename = "availableMemoryGB")]
    #[garde(custom(positive))]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub available_memory_gb: f64,
}

/// A size of model, by billions of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub enum ModelTier {
    /// 30 and more.
    #[serde(rename = "30B+")]
    From30B,
    /// 13 to 27.
    #[serde(rename = "13-27B")]
    From13To27B,
    /// 7 to 13.
    #[serde(rename = "7-13B")]
    From7To13B,
    /// 3 to 7.
    #[serde(rename = "3-7B")]
    From3To7B,
    /// Below 3.
    #[serde(rename = "<3B")]
    Below3B,
}

/// How a worker feels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum WorkerStatus {
    /// It takes requests.
    Online,
    /// It takes none.
    Offline,
    /// It takes requests, and serves them worse than it should.
    Degraded,
}

/// A worker lives: on `worker.heartbeat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerHeartbeat"))]
#[garde(allow_unvalidated)]
pub struct WorkerHeartbeat {
    /// The worker.
    pub worker_id: WorkerId,
    /// How it feels.
    pub status: WorkerStatus,
    /// What it is busy with.
    #[garde(dive)]
    pub metrics: WorkerMetrics,
    /// When this was sent.
    pub timestamp: Timestamp,
    /// Its incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

impl WorkerHeartbeat {
    /// A heartbeat of now.
    pub fn new(worker_id: WorkerId, status: WorkerStatus, metrics: WorkerMetrics) -> Self {
        Self { worker_id, status, metrics, timestamp: Timestamp::now(), epoch: None }
    }
}

/// What a worker is busy with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerMetrics"))]
#[garde(allow_unvalidated)]
pub struct WorkerMetrics {
    /// CPU in use, in percent of all cores.
    #[garde(range(min = 0.0, max = 100.0), custom(finite))]
    pub cpu_usage_percent: f64,
    /// Memory in use, in GB.
    #[serde(rename = "memoryUsedGB")]
    #[garde(range(min = 0.0), custom(finite))]
    pub memory_used_gb: f64,
    /// GPU in use, in percent.
    #[garde(range(min = 0.0, max = 100.0), custom(finite))]
    pub gpu_utilization_percent: f64,
    /// Requests under way.
    pub active_requests: u64,
    /// Requests handled since the worker started.
    pub total_requests_handled: u64,
    /// Mean time of a request, in ms.
    #[garde(range(min = 0.0), custom(finite))]
    pub avg_latency_ms: f64,
    /// The ids of the models in memory.
    pub models_loaded: Vec<String>,
}

/// A worker leaves: on `worker.deregister`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerDeregistration"))]
#[garde(allow_unvalidated)]
pub struct WorkerDeregistration {
    /// The worker.
    pub worker_id: WorkerId,
    /// When this was sent.
    pub timestamp: Timestamp,
    /// Its incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Why it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl WorkerDeregistration {
    /// A farewell of now.
    pub fn new(worker_id: WorkerId) -> Self {
        Self { worker_id, timestamp: Timestamp::now(), epoch: None, reason: None }
    }
}
