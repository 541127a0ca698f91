//! The controller, and the workers it looks for.

use std::net::IpAddr;

use garde::Validate;
use mlx_errors::Violation;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{host_name, host_or_address, origin, relation, worker_url};
use crate::{Millis, Secret, WorkerId};

/// The controller's own interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ControllerConfig {
    /// Whether a node of mode `both` serves the gateway, which speaks OpenAI's protocol over HTTP; one of mode `controller` does in
    /// any case.
    pub enabled: bool,
    /// The address to bind.
    #[garde(custom(host_or_address))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::host_schema"))]
    pub bind_address: String,
    /// The port of the gateway.
    #[garde(range(min = 1024, max = 65535))]
    pub port: u16,
    /// The port of the page that shows the cluster; where it is `port`, the gateway has the page too.
    #[garde(range(min = 1024, max = 65535))]
    pub dashboard_port: u16,
    /// Host names that requests may be for, as behind a proxy. Without any, a loopback address serves `localhost`, this machine's
    /// names and IP addresses only, against DNS rebinding; another serves any.
    #[garde(inner(custom(host_name)))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::host_names_schema"))]
    pub allow_hosts: Vec<String>,
    /// Web pages that may ask the gateway, by their origins such as `https://chat.example.org`; `*` for all.
    #[garde(inner(custom(origin)))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::origins_schema"))]
    pub allow_origins: Vec<String>,
    /// Keys of which a request needs one, as `Authorization: Bearer KEY`; without any, whoever reaches the gateway may ask.
    #[garde(inner(length(min = 1)))]
    pub api_keys: Vec<Secret<String>>,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            bind_address: "0.0.0.0".to_owned(),
            port: 8080,
            dashboard_port: 8081,
            allow_hosts: Vec::new(),
            allow_origins: Vec::new(),
            api_keys: Vec::new(),
        }
    }
}

/// How workers are found, and found to be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct DiscoveryConfig {
    /// The controller's address: a worker whose `nats.mode` is `embedded` connects to the bus there, at `nats.embedded.port`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::shapes::ip_address_if_set"))]
    pub controller_ip: Option<IpAddr>,
    /// Whether the controller asks any worker that announces itself, or those of `workers.static` only.
    pub enabled: bool,
    /// How often a worker says that it lives, in ms.
    pub heartbeat_interval_ms: Millis,
    /// How long a worker may be silent before it counts as gone, in ms; longer than `heartbeatIntervalMs`.
    pub offline_timeout_ms: Millis,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            controller_ip: None,
            enabled: true,
            heartbeat_interval_ms: Millis::of::<5000>(),
            offline_timeout_ms: Millis::of::<15_000>(),
        }
    }
}

impl DiscoveryConfig {
    pub(super) fn relations(&self) -> Vec<Violation> {
        if self.offline_timeout_ms > self.heartbeat_interval_ms {
            return Vec::new();
        }
        let message = format!(
            "must be longer than `discovery.heartbeatIntervalMs`, which is {}",
            self.heartbeat_interval_ms.get()
        );
        let found = Some(format!("`{}`", self.offline_timeout_ms.get()));
        vec![relation("offlineTimeoutMs", "order", &message).found(found)]
    }
}

/// Workers that are known beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct WorkersConfig {
    /// The workers.
    #[garde(dive)]
    pub static_: Vec<StaticWorker>,
}

impl WorkersConfig {
    pub(super) fn relations(&self) -> Vec<Violation> {
        let workers = self.static_.iter().enumerate();
        workers.filter_map(|(index, worker)| worker.address_fault(&format!("static[{index}]"))).collect()
    }
}

/// A worker that is known beforehand: by `url`, or by `ip` and `port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct StaticWorker {
    /// Where it is, as a URL; instead of `ip` and `port`.
    #[garde(custom(worker_url))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::worker_url_schema"))]
    pub url: Option<String>,
    /// Its address; together with `port`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::shapes::ip_address_if_set"))]
    pub ip: Option<IpAddr>,
    /// Its port; together with `ip`.
    #[garde(range(min = 1024, max = 65535))]
    pub port: Option<u16>,
    /// Its id, where that is known.
    pub worker_id: Option<WorkerId>,
    /// A name for people.
    pub name: Option<String>,
    /// How much it is preferred, 0 to 100.
    #[garde(range(min = 0, max = 100))]
    pub priority: u8,
}

impl Default for StaticWorker {
    fn default() -> Self {
        Self { url: None, ip: None, port: None, worker_id: None, name: None, priority: 50 }
    }
}

impl StaticWorker {
    fn address_fault(&self, path: &str) -> Option<Violation> {
        let message = match (&self.url, &self.ip, &self.port) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => return None,
            (Some(_), ..) => "give `url`, or `ip` and `port`, not both",
            (None, None, None) => "give `url`, or `ip` and `port`",
            (None, Some(_), None) => "`ip` needs `port`",
            (None, None, Some(_)) => "`port` needs `ip`",
        };
        Some(relation(path, "address", message))
    }
}
