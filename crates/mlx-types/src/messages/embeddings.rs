//! Embeddings: a question to a worker's engine, and its answer, both in the words of the engine's own protocol.

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RawObject;
use super::raw::bounds;
use crate::RequestId;

/// Texts to embed: on `worker.{workerId}.embeddings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "EmbeddingRequest"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct EmbeddingRequest {
    /// The request.
    pub request_id: RequestId,
    /// The model to ask.
    pub model_id: String,
    /// What the engine is asked, but for the model: `input`, `dimensions`, `encoding_format` and so on. At most 64 levels; carried as
    /// it came, and never logged.
    #[garde(custom(bounds::object))]
    pub params: RawObject,
}

mlx_errors::setters! {
    EmbeddingRequest {
        request_id: set RequestId,
    }
}

impl EmbeddingRequest {
    /// A request with a random id.
    pub fn new(model_id: impl Into<String>, params: RawObject) -> Self {
        Self { request_id: RequestId::new(), model_id: model_id.into(), params }
    }
}

/// The answer to an [`EmbeddingRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "EmbeddingResponse"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct EmbeddingResponse {
    /// The request.
    pub request_id: RequestId,
    /// What the engine answered, as it came. At most 64 levels.
    #[garde(custom(bounds::object))]
    pub result: RawObject,
}

impl EmbeddingResponse {
    /// The answer to `request_id`.
    pub fn new(request_id: RequestId, result: RawObject) -> Self {
        Self { request_id, result }
    }
}
