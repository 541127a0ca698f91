//! Several embedded servers that form one cluster on this machine.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::config::{NatsConfig, NatsMode};
use mlx_types::{Millis, NatsUrl};

use crate::EmbeddedServer;
use crate::server::generated_password;
use crate::settings::Cluster;

/// How long the servers may take to find one another and to choose a leader for JetStream; it takes a few s.
const START_TIMEOUT_MS: u64 = 60_000;

/// How often a start is tried over when somebody else takes one of its route ports.
const ATTEMPTS: u32 = 3;

/// A cluster of embedded servers on loopback, with JetStream in a temporary folder: for development and tests.
///
/// One process ends all of its servers with itself, so that for anything that has to last, a cluster is one of ordinary
/// nats-servers, and external mode.
///
/// ```no_run
/// use std::time::Duration;
/// use mlx_embedded::EmbeddedCluster;
///
/// # async fn example() -> mlx_errors::Result<()> {
/// let cluster = EmbeddedCluster::start(3).await?;
/// let config = cluster.client_config(); // all three URLs
/// # drop(config);
/// cluster.stop(Duration::from_secs(5)).await
/// # }
/// ```
#[must_use = "dropping the cluster kills its servers: keep it for as long as they are needed"]
#[derive(Debug)]
pub struct EmbeddedCluster {
    servers: Vec<EmbeddedServer>,
}

impl EmbeddedCluster {
    /// Starts `size` servers on free ports, and waits until they have chosen a leader for JetStream.
    ///
    /// # Errors
    /// As [`EmbeddedServer::start`], for the first server that fails, which ends the others; `EMBEDDED_SERVER_ERROR` for
    /// fewer than two servers.
    ///
    /// # Cancel safety
    /// Dropping the future ends what it has started.
    pub async fn start(size: usize) -> Result<Self> {
        Self::start_with(size, &NatsConfig::default()).await
    }

    /// [`EmbeddedCluster::start`] with credentials, log level, binary and limits of `config`; the ports and JetStream's
    /// folder are each server's own.
    pub async fn start_with(size: usize, config: &NatsConfig) -> Result<Self> {
        if size < 2 {
            let reason = "a cluster has two servers at least; `EmbeddedServer` is one".to_owned();
            return Err(Error::new(ErrorKind::EmbeddedServer { reason }));
        }
        let mut attempt = 1;
        loop {
            let ports = free_ports(size).map_err(|error| start_error("no free ports on 127.0.0.1", error))?;
            match Self::start_on(&ports, config).await {
                Err(error) if attempt < ATTEMPTS && is_about_a_port(&error, &ports) => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// The servers, in the order of their names: `node-1`, `node-2` and so on.
    pub fn servers(&self) -> &[EmbeddedServer] {
        &self.servers
    }

    /// The URLs for clients, without credentials.
    pub fn client_urls(&self) -> Vec<NatsUrl> {
        self.servers.iter().map(EmbeddedServer::client_url).collect()
    }

    /// The configuration for a client of this cluster: external mode, every URL, its credentials.
    pub fn client_config(&self) -> NatsConfig {
        let any = self.servers.first().map(EmbeddedServer::client_config).unwrap_or_default();
        any.mode(NatsMode::External).servers(self.client_urls())
    }

    /// Hands out the server at `index`, for example to stop it and see the others go on; `None` where there is none. What it
    /// stores stays until it is gone.
    #[must_use = "the server lives on in what is returned"]
    pub fn take(&mut self, index: usize) -> Option<EmbeddedServer> {
        (index < self.servers.len()).then(|| self.servers.remove(index))
    }

    /// Ends all servers in good order, or by force those that are not gone within `timeout`.
    pub async fn stop(self, timeout: Duration) -> Result<()> {
        join_all(self.servers.into_iter().map(|server| server.stop(timeout))).await.into_iter().collect()
    }

    async fn start_on(ports: &[u16], config: &NatsConfig) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|error| start_error("no temporary folder for JetStream", error))?;
        let password = generated_password();
        let starts = ports.iter().enumerate().map(|(index, port)| {
            let name = format!("node-{}", index + 1);
            let mut config = config.clone();
            config.mode = NatsMode::Embedded;
            let embedded = &mut config.embedded;
            embedded.port = 0;
            embedded.http_port = 0;
            embedded.monitoring = true;
            embedded.jetstream.enabled = true;
            embedded.jetstream.store_dir = folder.path().join(&name);
            embedded.start_timeout_ms = Millis::new(START_TIMEOUT_MS).unwrap_or(embedded.start_timeout_ms);
            let cluster = Cluster {
                name: "mlx-embedded".to_owned(),
                server_name: name,
                port: *port,
                routes: ports.to_vec(),
                password: password.clone(),
            };
            EmbeddedServer::builder(&config).cluster(cluster).start()
        });
        let mut servers = try_join_all(starts).await?;
        // Each of them, for one that is taken may outlive the others.
        let folder = Arc::new(folder);
        for server in &mut servers {
            server.keep(Arc::clone(&folder));
        }
        Ok(Self { servers })
    }
}

/// Ports that were free a moment ago: the servers must know one another's before the first of them starts.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    // All are held at once, so that they are distinct.
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn is_about_a_port(error: &Error, ports: &[u16]) -> bool {
    match error.kind() {
        ErrorKind::ServerStart { reason, .. } => {
            ports.iter().any(|port| reason.starts_with(&format!("port {port} ")) && reason.contains("is taken"))
        }
        _ => false,
    }
}

fn start_error(reason: &str, error: std::io::Error) -> Error {
    let kind = ErrorKind::ServerStart { reason: reason.to_owned(), exit: None, last_lines: Vec::new() };
    Error::with_source(kind, error)
}
