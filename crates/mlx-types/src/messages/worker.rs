//! Workers: how they join, prove that they live, and leave.

use std::collections::BTreeMap;
use std::net::IpAddr;

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;
use crate::check::{finite, positive_if_set};
use crate::{Epoch, Timestamp, WorkerId};

/// A worker joins: on `worker.register`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerRegistration"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
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
    /// Why it is not online, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

impl WorkerRegistration {
    /// A registration of now, of a worker that takes requests.
    pub fn new(worker_id: WorkerId, hostname: impl Into<String>, ip: IpAddr, port: u16, skills: ModelSkills) -> Self {
        Self {
            worker_id,
            hostname: hostname.into(),
            ip,
            port,
            skills,
            status: WorkerStatus::Online,
            timestamp: Timestamp::now(),
            hardware: None,
            capabilities: None,
            reason: None,
            epoch: None,
        }
    }
}

mlx_errors::setters! {
    WorkerRegistration {
        status: set WorkerStatus,
        timestamp: set Timestamp,
        hardware: option HardwareProfile,
        capabilities: option WorkerCapabilities,
        reason: option String,
        epoch: option Epoch,
    }
}

/// The models that a worker holds on its disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "ModelSkills"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
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

impl ModelSkills {
    /// These models, found now; without paths and sizes.
    pub fn new(available_models: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            available_models: available_models.into_iter().map(Into::into).collect(),
            model_paths: BTreeMap::new(),
            total_model_size: 0.0,
            last_scanned: Timestamp::now(),
        }
    }
}

mlx_errors::setters! {
    ModelSkills {
        model_paths: set BTreeMap<String, String>,
        total_model_size: set f64,
        last_scanned: set Timestamp,
    }
}

/// What a worker runs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "HardwareProfile"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
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

impl HardwareProfile {
    /// A machine with this chip, of which nothing else is known: every count is 0.
    pub fn new(chip_model: impl Into<String>) -> Self {
        Self {
            chip_model: chip_model.into(),
            chip_generation: 0,
            variant: String::new(),
            gpu_cores: 0,
            cpu_cores: 0,
            performance_cores: 0,
            efficiency_cores: 0,
            unified_memory_gb: 0.0,
            metal_version: None,
            os_version: None,
        }
    }
}

mlx_errors::setters! {
    HardwareProfile {
        chip_generation: set u64,
        variant: into String,
        gpu_cores: set u64,
        cpu_cores: set u64,
        performance_cores: set u64,
        efficiency_cores: set u64,
        unified_memory_gb: set f64,
        metal_version: text,
        os_version: text,
    }
}

/// What a worker can take on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerCapabilities"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct WorkerCapabilities {
    /// Requests at the same time.
    #[garde(range(min = 1))]
    pub max_concurrent: u64,
    /// Sizes of model it can hold.
    pub supported_model_tiers: Vec<ModelTier>,
    /// Memory free for models, in GB; unset where it is not known.
    #[serde(rename = "availableMemoryGB", default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(positive_if_set))]
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0)))]
    pub available_memory_gb: Option<f64>,
    /// What it accepts in a request beyond a prompt and a chat of texts; unset where it does not say, which is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<Vec<Feature>>,
}

impl WorkerCapabilities {
    /// So many requests at the same time.
    pub fn new(max_concurrent: u64) -> Self {
        Self { max_concurrent, supported_model_tiers: Vec::new(), available_memory_gb: None, accepts: None }
    }
}

mlx_errors::setters! {
    WorkerCapabilities {
        supported_model_tiers: into Vec<ModelTier>,
        available_memory_gb: option f64,
        accepts: option Vec<Feature>,
    }
}

open_enum! {
    /// Something that not every worker accepts in a request. A request that has it goes only to those that do.
    Feature {
        /// `params`: it passes them on to its engine, and answers with `delta` frames where a token cannot say it.
        Params = "params",
        /// Messages whose content is a list of parts, and those with tool calls or other `params`.
        Messages = "messages",
        /// Embeddings: it answers on `worker.{workerId}.embeddings`.
        Embeddings = "embeddings",
    }
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
#[non_exhaustive]
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

mlx_errors::setters! {
    WorkerHeartbeat {
        timestamp: set Timestamp,
        epoch: option Epoch,
    }
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
#[non_exhaustive]
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

mlx_errors::setters! {
    WorkerMetrics {
        cpu_usage_percent: set f64,
        memory_used_gb: set f64,
        gpu_utilization_percent: set f64,
        active_requests: set u64,
        total_requests_handled: set u64,
        avg_latency_ms: set f64,
        models_loaded: into Vec<String>,
    }
}

/// A worker leaves: on `worker.deregister`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerDeregistration"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
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

mlx_errors::setters! {
    WorkerDeregistration {
        timestamp: set Timestamp,
        epoch: option Epoch,
        reason: text,
    }
}

impl WorkerDeregistration {
    /// A farewell of now.
    pub fn new(worker_id: WorkerId) -> Self {
        Self { worker_id, timestamp: Timestamp::now(), epoch: None, reason: None }
    }
}
