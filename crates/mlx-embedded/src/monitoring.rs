//! What nats-server tells of itself over HTTP, as a controller needs it.
//!
//! Numbers are those of the server's monitoring endpoints, under our names. What an older server does not tell is zero or
//! empty, and what a newer one tells beyond this is ignored.

use std::net::SocketAddr;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::http;

/// How long an answer may take. The server is on this machine, and answers in a ms.
const LIMIT: Duration = Duration::from_secs(5);

/// The server as a whole (`/varz`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ServerStats {
    /// The server's id, new with every start.
    pub server_id: String,
    /// Its name; its id where it was given none.
    pub server_name: String,
    /// Its version, for example `2.12.8`.
    pub version: String,
    /// How long it runs, in the server's own words, for example `1h2m3s`.
    pub uptime: String,
    /// The largest payload it accepts, in bytes.
    pub max_payload: u64,
    /// Memory in use, in bytes; measured once a second, so 0 at first.
    pub mem: u64,
    /// Processor time in use, in percent of one core.
    pub cpu: f64,
    /// Processor cores.
    pub cores: u32,
    /// Connections now.
    pub connections: u64,
    /// Connections since the start.
    pub total_connections: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Connections to other servers of the cluster.
    pub routes: u64,
    /// Connections closed for being too slow, since the start.
    pub slow_consumers: u64,
    /// Messages received from clients, since the start.
    pub in_msgs: u64,
    /// Messages sent to clients, since the start.
    pub out_msgs: u64,
    /// Bytes received from clients, since the start.
    pub in_bytes: u64,
    /// Bytes sent to clients, since the start.
    pub out_bytes: u64,
}

/// Connections (`/connz`), 1,024 at the most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Connections {
    /// How many there are.
    pub total: u64,
    /// The connections told.
    pub connections: Vec<Connection>,
}

/// A connection to the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Connection {
    /// The connection's number.
    pub cid: u64,
    /// The name that the client gave itself.
    pub name: String,
    /// The client's address.
    pub ip: String,
    /// The client's port.
    pub port: u16,
    /// The client's language, for example `rust`.
    pub lang: String,
    /// The client library's version.
    pub version: String,
    /// The last round trip, in the server's own words, for example `320µs`.
    pub rtt: String,
    /// Bytes waiting to be sent to the client.
    pub pending_bytes: u64,
    /// Messages received from it.
    pub in_msgs: u64,
    /// Messages sent to it.
    pub out_msgs: u64,
    /// Bytes received from it.
    pub in_bytes: u64,
    /// Bytes sent to it.
    pub out_bytes: u64,
    /// Its subscriptions.
    pub subscriptions: u64,
}

/// Subscriptions (`/subsz`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Subscriptions {
    /// How many there are, the server's own among them.
    pub num_subscriptions: u64,
    /// Subjects kept in the routing cache.
    pub num_cache: u64,
    /// Messages matched since the start.
    pub num_matches: u64,
    /// The share of messages routed from the cache, 0 to 1.
    pub cache_hit_rate: f64,
    /// The most subscriptions that one message went to.
    pub max_fanout: u64,
}

/// JetStream (`/jsz`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct JetStreamStats {
    /// Whether it is switched off.
    pub disabled: bool,
    /// Memory in use, in bytes.
    pub memory: u64,
    /// Disk in use, in bytes.
    pub storage: u64,
    /// Streams.
    pub streams: u64,
    /// Consumers.
    pub consumers: u64,
    /// Messages stored.
    pub messages: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// What it may use.
    pub config: JetStreamLimits,
    /// The cluster's group for JetStream; `None` outside a cluster.
    pub meta_cluster: Option<MetaCluster>,
}

/// What JetStream may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct JetStreamLimits {
    /// Memory, in bytes.
    pub max_memory: i64,
    /// Disk, in bytes.
    pub max_storage: i64,
    /// Where it stores.
    pub store_dir: String,
}

/// The group of servers that runs JetStream in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MetaCluster {
    /// The cluster's name.
    pub name: String,
    /// The name of its leader; empty while there is none.
    pub leader: String,
    /// How many servers it counts.
    pub cluster_size: u32,
}

/// Whether the server is fit for work (`/healthz`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Health {
    /// `ok`, `unavailable` or `error`.
    pub status: String,
    /// What is wrong; empty if nothing is.
    pub error: String,
}

impl Health {
    /// Whether it is fit for work.
    pub fn is_ok(&self) -> bool {
        self.status == "ok"
    }
}

/// Asks the monitoring at `address` for `path`.
pub(crate) async fn ask<T: DeserializeOwned>(address: Option<SocketAddr>, path: &str) -> Result<T> {
    let failed = |reason: String| ErrorKind::EmbeddedServer { reason };
    let address = address.ok_or_else(|| failed("its monitoring is off (`nats.embedded.monitoring`)".to_owned()))?;
    let answer = http::get(address, path, LIMIT)
        .await
        .map_err(|error| Error::with_source(failed(format!("its monitoring did not answer {path}")), error))?;
    serde_json::from_slice(&answer.body).map_err(|error| {
        let reason = format!("its monitoring answered {path} with status {} and no JSON as expected", answer.status);
        Error::with_source(failed(reason), error)
    })
}
