//! The settings file of one nats-server.

mod access;
mod render;

use std::path::{Path, PathBuf};

use mlx_types::Secret;
use mlx_types::config::{EmbeddedLogLevel, JetStreamConfig, NatsConfig};

pub(crate) use access::Access;

/// Everything that the settings file says. `0` is "a free port" for every port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Address or name to bind for clients.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Address to bind for monitoring; it asks for no credentials, and is never wider than loopback.
    pub(crate) monitoring: Option<Listen>,
    pub(crate) jetstream: Option<JetStream>,
    pub(crate) max_payload_bytes: u64,
    pub(crate) debug: bool,
    pub(crate) access: Access,
    pub(crate) tls: Option<Tls>,
    pub(crate) cluster: Option<Cluster>,
}

impl Settings {
    /// The settings for a configuration that has been checked.
    pub(crate) fn new(config: &NatsConfig) -> Self {
        let embedded = &config.embedded;
        Self {
            host: embedded.host.clone(),
            port: embedded.port,
            monitoring: embedded
                .monitoring
                .then(|| Listen { host: loopback_beside(&embedded.host).to_owned(), port: embedded.http_port }),
            jetstream: embedded.jetstream.enabled.then(|| JetStream::new(&embedded.jetstream)),
            max_payload_bytes: embedded.max_payload_bytes,
            debug: embedded.log_level == EmbeddedLogLevel::Debug,
            access: Access::new(config),
            tls: Tls::new(config),
            cluster: None,
        }
    }

    /// These settings, changed to `new` where a running server can change. Free ports stay the ones taken.
    ///
    /// # Errors
    /// The configuration keys that a running server cannot change.
    pub(crate) fn reloaded(&self, new: &NatsConfig) -> Result<Self, Vec<&'static str>> {
        let new = Self::new(new);
        let port = |listen: &Option<Listen>| listen.as_ref().map(|listen| listen.port);
        let same_port = |new: u16, current: u16| new == 0 || new == current;
        let fixed = [
            ("nats.embedded.host", new.host == self.host),
            ("nats.embedded.port", same_port(new.port, self.port)),
            ("nats.embedded.monitoring", new.monitoring.is_some() == self.monitoring.is_some()),
            (
                "nats.embedded.httpPort",
                same_port(port(&new.monitoring).unwrap_or(0), port(&self.monitoring).unwrap_or(0)),
            ),
            ("nats.embedded.jetstream", new.jetstream == self.jetstream),
            ("nats.tls.certFile", new.tls.is_some() == self.tls.is_some()),
        ];
        let changed: Vec<_> = fixed.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect();
        if !changed.is_empty() {
            return Err(changed);
        }
        // The same secret keeps its hash: a new one would look like a new password, and cost every client its connection.
        let access = if new.access == self.access { self.access.clone() } else { new.access };
        Ok(Self { max_payload_bytes: new.max_payload_bytes, debug: new.debug, access, tls: new.tls, ..self.clone() })
    }
}

/// The loopback address for what listens beside a server bound to `host`.
fn loopback_beside(host: &str) -> &'static str {
    match host.parse() {
        Ok(std::net::IpAddr::V6(address)) if address.is_loopback() => "::1",
        _ => "127.0.0.1",
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JetStream {
    /// Absolute.
    pub(crate) store_dir: PathBuf,
    pub(crate) max_memory_bytes: Option<u64>,
    pub(crate) max_file_bytes: Option<u64>,
}

impl JetStream {
    fn new(config: &JetStreamConfig) -> Self {
        Self {
            // The server must not look elsewhere when it is started again from another folder.
            store_dir: absolute(&config.store_dir),
            max_memory_bytes: config.max_memory_bytes,
            max_file_bytes: config.max_file_bytes,
        }
    }
}

/// The certificate that the server shows its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

impl Tls {
    fn new(config: &NatsConfig) -> Option<Self> {
        let (cert_file, key_file) = (config.tls.cert_file.as_ref()?, config.tls.key_file.as_ref()?);
        Some(Self { cert_file: absolute(cert_file), key_file: absolute(key_file) })
    }
}

/// The server's place in a cluster on this machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) server_name: String,
    /// Where the other servers connect.
    pub(crate) port: u16,
    /// Where this one connects: the ports of all.
    pub(crate) routes: Vec<u16>,
    /// What the servers of the cluster show one another.
    pub(crate) password: Secret<String>,
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
