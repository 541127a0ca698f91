//! Models: loading them, unloading them, and how far that is.

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;
use crate::{RequestId, Timestamp, WorkerId};

/// Load or unload a model: on `model.load` and `model.unload`, answered with a [`ModelStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "ModelCommand"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ModelCommand {
    /// This command.
    pub request_id: RequestId,
    /// The model.
    pub model_id: String,
    /// The worker meant; every worker where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerId>,
}

mlx_errors::setters! {
    ModelCommand {
        request_id: set RequestId,
        worker_id: option WorkerId,
    }
}

impl ModelCommand {
    /// A command to every worker, with a random id.
    pub fn new(model_id: impl Into<String>) -> Self {
        Self { request_id: RequestId::new(), model_id: model_id.into(), worker_id: None }
    }
}

/// How far a model is: on `model.status`, and the answer to a [`ModelCommand`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "ModelStatus"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ModelStatus {
    /// The worker.
    pub worker_id: WorkerId,
    /// The model.
    pub model_id: String,
    /// How far it is.
    pub state: ModelState,
    /// What went wrong, where `state` is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When this was sent.
    pub timestamp: Timestamp,
}

mlx_errors::setters! {
    ModelStatus {
        error: text,
        timestamp: set Timestamp,
    }
}

impl ModelStatus {
    /// The status of now.
    pub fn new(worker_id: WorkerId, model_id: impl Into<String>, state: ModelState) -> Self {
        Self { worker_id, model_id: model_id.into(), state, error: None, timestamp: Timestamp::now() }
    }
}

open_enum! {
    /// How far a model is.
    ModelState {
        /// On its way into memory.
        Loading = "loading",
        /// In memory.
        Loaded = "loaded",
        /// On its way out of memory.
        Unloading = "unloading",
        /// Not in memory.
        Unloaded = "unloaded",
        /// Loading or unloading went wrong.
        Failed = "failed",
    }
}
