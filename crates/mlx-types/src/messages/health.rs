//! Health and figures.

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::worker::{WorkerMetrics, WorkerStatus};
use crate::check::finite_if_set;
use crate::{RequestId, Timestamp, WorkerId};

/// Are you well? On `health.check`, answered with a [`HealthReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "HealthCheck"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct HealthCheck {
    /// This question.
    pub request_id: RequestId,
    /// When this was sent.
    pub timestamp: Timestamp,
}

mlx_errors::setters! {
    HealthCheck {
        request_id: set RequestId,
        timestamp: set Timestamp,
    }
}

impl HealthCheck {
    /// A question of now, with a random id.
    #[expect(clippy::new_without_default, reason = "a default that differs at each call would surprise")]
    pub fn new() -> Self {
        Self { request_id: RequestId::new(), timestamp: Timestamp::now() }
    }
}

/// The answer: in the reply inbox, or on `health.response` where there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "HealthReport"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct HealthReport {
    /// The worker.
    pub worker_id: WorkerId,
    /// The question answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// How it feels.
    pub status: WorkerStatus,
    /// What it is busy with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub metrics: Option<WorkerMetrics>,
    /// When this was sent.
    pub timestamp: Timestamp,
}

mlx_errors::setters! {
    HealthReport {
        request_id: option RequestId,
        metrics: option WorkerMetrics,
        timestamp: set Timestamp,
    }
}

impl HealthReport {
    /// A report of now.
    pub fn new(worker_id: WorkerId, status: WorkerStatus) -> Self {
        Self { worker_id, request_id: None, status, metrics: None, timestamp: Timestamp::now() }
    }
}

/// Figures between heartbeats: on `metrics.report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "WorkerMetricsReport"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct WorkerMetricsReport {
    /// The worker.
    pub worker_id: WorkerId,
    /// What it is busy with.
    #[garde(dive)]
    pub metrics: WorkerMetrics,
    /// Tokens made per second over all requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 0.0), custom(finite_if_set))]
    pub tokens_per_second: Option<f64>,
    /// When this was sent.
    pub timestamp: Timestamp,
}

mlx_errors::setters! {
    WorkerMetricsReport {
        tokens_per_second: option f64,
        timestamp: set Timestamp,
    }
}

impl WorkerMetricsReport {
    /// The figures of now.
    pub fn new(worker_id: WorkerId, metrics: WorkerMetrics) -> Self {
        Self { worker_id, metrics, tokens_per_second: None, timestamp: Timestamp::now() }
    }
}
