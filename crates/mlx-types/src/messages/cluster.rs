//! What the controller tells everyone.

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;
use crate::{Timestamp, WorkerId};

/// Somebody came or went: on `cluster.announce`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "ClusterAnnouncement"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ClusterAnnouncement {
    /// What happened.
    pub event: ClusterEvent,
    /// The worker concerned, where it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerId>,
    /// When this was sent.
    pub timestamp: Timestamp,
}

mlx_errors::setters! {
    ClusterAnnouncement {
        worker_id: option WorkerId,
        timestamp: set Timestamp,
    }
}

impl ClusterAnnouncement {
    /// An announcement of now that concerns no worker.
    pub fn new(event: ClusterEvent) -> Self {
        Self { event, worker_id: None, timestamp: Timestamp::now() }
    }
}

open_enum! {
    /// What happened in the cluster.
    ClusterEvent {
        /// A worker takes requests.
        WorkerOnline = "workerOnline",
        /// A worker takes none any more.
        WorkerOffline = "workerOffline",
        /// A worker serves worse than it should.
        WorkerDegraded = "workerDegraded",
        /// A controller has started.
        ControllerStarted = "controllerStarted",
    }
}

/// The cluster goes down: on `cluster.shutdown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "ClusterShutdown"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ClusterShutdown {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long work under way may still take, in ms.
    pub grace_period_ms: u64,
    /// When this was sent.
    pub timestamp: Timestamp,
}

mlx_errors::setters! {
    ClusterShutdown {
        reason: text,
        timestamp: set Timestamp,
    }
}

impl ClusterShutdown {
    /// A shutdown announced now, without a reason.
    pub fn new(grace_period_ms: u64) -> Self {
        Self { reason: None, grace_period_ms, timestamp: Timestamp::now() }
    }
}
