//! The nats-server that embedded mode starts.

use std::path::PathBuf;

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{host_or_address, is_loopback, port_or_free};
use crate::Millis;

/// The nats-server that embedded mode starts and supervises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct EmbeddedConfig {
    /// The address to bind; one that other machines can reach needs credentials, or `allowAnonymous`.
    #[garde(custom(host_or_address))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::host_schema"))]
    pub host: String,
    /// The port for clients, 1024 to 65535; 0 for a free one.
    #[garde(custom(port_or_free))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::port_or_free_schema"))]
    pub port: u16,
    /// Whether the server's monitoring answers over HTTP.
    pub monitoring: bool,
    /// The port for monitoring, 1024 to 65535; 0 for a free one.
    #[garde(custom(port_or_free))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::port_or_free_schema"))]
    pub http_port: u16,
    /// Persistence.
    #[garde(dive)]
    pub jetstream: JetStreamConfig,
    /// How much the server logs.
    pub log_level: EmbeddedLogLevel,
    /// The nats-server to run; found where unset.
    pub binary: Option<PathBuf>,
    /// The largest message that the server accepts, in bytes: 1 KiB to 64 MiB.
    #[garde(range(min = 1024, max = 67_108_864))]
    pub max_payload_bytes: u64,
    /// How long the server may take to start, in ms.
    pub start_timeout_ms: Millis,
    /// What happens when it crashes.
    #[garde(dive)]
    pub restart: RestartConfig,
    /// Whether an address that other machines can reach may be bound without credentials.
    pub allow_anonymous: bool,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 4222,
            monitoring: true,
            http_port: 8222,
            jetstream: JetStreamConfig::default(),
            log_level: EmbeddedLogLevel::Info,
            binary: None,
            max_payload_bytes: 8 << 20,
            start_timeout_ms: Millis::of::<5000>(),
            restart: RestartConfig::default(),
            allow_anonymous: false,
        }
    }
}

impl EmbeddedConfig {
    /// Whether only this machine can reach the server.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// How much the embedded server logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum EmbeddedLogLevel {
    /// Everything that helps to find a fault.
    Debug,
    /// What it does.
    #[default]
    Info,
    /// What may become a fault.
    Warn,
    /// Faults.
    Error,
}

/// JetStream, the persistence of nats-server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct JetStreamConfig {
    /// Whether the server persists anything.
    pub enabled: bool,
    /// The folder for it; one server at a time.
    pub store_dir: PathBuf,
    /// Bytes of memory for it; the server's own choice where unset.
    #[garde(range(min = 1))]
    pub max_memory_bytes: Option<u64>,
    /// Bytes on disk for it; the server's own choice where unset.
    #[garde(range(min = 1))]
    pub max_file_bytes: Option<u64>,
}

impl Default for JetStreamConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            store_dir: PathBuf::from(".nats/jetstream"),
            max_memory_bytes: None,
            max_file_bytes: None,
        }
    }
}

/// How often a crashed server is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct RestartConfig {
    /// Restarts within the window before the server is given up; 0 for none.
    pub max_restarts: u32,
    /// The window, in ms.
    pub window_ms: Millis,
    /// A server that does not answer for so long counts as crashed, in ms.
    pub unresponsive_after_ms: Millis,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self { max_restarts: 5, window_ms: Millis::of::<60_000>(), unresponsive_after_ms: Millis::of::<10_000>() }
    }
}
