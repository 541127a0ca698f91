//! Every payload that crosses the wire.
//!
//! One JSON object per message, members in camelCase. An unset optional member is left out; `null` reads as unset;
//! unknown members are ignored, so that an older or newer peer is understood. Enums that a newer peer may extend keep
//! a value they do not know in a variant `Unknown`.
//!
//! Fields are public, and literals may end in `..`: what a type cannot rule out, [`Message::check`] does, on sending and
//! on receipt alike.

mod cluster;
mod embeddings;
mod frame;
mod health;
mod inference;
mod lenient;
mod model;
mod object;
mod open_enum;
mod raw;
mod worker;

pub use cluster::{ClusterAnnouncement, ClusterEvent, ClusterShutdown};
pub use embeddings::{EmbeddingRequest, EmbeddingResponse};
pub use frame::Frame;
pub use health::{HealthCheck, HealthReport, WorkerMetricsReport};
pub use inference::{
    CancelMode, ChatMessage, FinishReason, InferenceAcceptance, InferenceCancel, InferenceRequest, StreamingResponse,
    Usage,
};
pub use lenient::from_json;
pub use model::{ModelCommand, ModelState, ModelStatus};
pub use raw::{ChatContent, MAX_PARAMS_BYTES, MAX_RAW_DEPTH, RawObject};
pub use worker::{
    Feature, HardwareProfile, ModelSkills, ModelTier, WorkerCapabilities, WorkerDeregistration, WorkerHeartbeat,
    WorkerMetrics, WorkerRegistration, WorkerStatus,
};

use mlx_errors::Violations;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A payload: it has a name, crosses the wire as JSON, and knows its bounds.
pub trait Message: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name in schemas and reports, for example `WorkerHeartbeat`.
    const NAME: &'static str;

    /// Checks the bounds of every member.
    ///
    /// # Errors
    /// All the bounds that are broken, each with the member's path as on the wire.
    fn check(&self) -> Result<(), Violations>;
}

/// Makes payloads of types that derive their bounds.
macro_rules! messages {
    ($($name:ident),+ $(,)?) => {
        object::objects!($($name),+);

        $(impl Message for $name {
            const NAME: &'static str = stringify!($name);

            fn check(&self) -> Result<(), Violations> {
                crate::check::bounds(self)
            }
        })+
    };
}

messages!(
    WorkerRegistration,
    WorkerHeartbeat,
    WorkerDeregistration,
    InferenceRequest,
    InferenceAcceptance,
    InferenceCancel,
    EmbeddingRequest,
    EmbeddingResponse,
    ModelCommand,
    ModelStatus,
    HealthCheck,
    HealthReport,
    WorkerMetricsReport,
    ClusterAnnouncement,
    ClusterShutdown,
);

object::objects!(
    ChatMessage,
    StreamingResponse,
    Usage,
    WorkerMetrics,
    ModelSkills,
    HardwareProfile,
    WorkerCapabilities,
);

impl Message for StreamingResponse {
    const NAME: &'static str = "StreamingResponse";

    fn check(&self) -> Result<(), Violations> {
        match self {
            // Nearly every message is one of these, and none of its members has a bound.
            Self::Token { request_id: _, token: _, index: _ } => Ok(()),
            Self::Tokens { .. } | Self::Delta { .. } | Self::Done { .. } | Self::Error { .. } => {
                crate::check::bounds(self)
            }
        }
    }
}
