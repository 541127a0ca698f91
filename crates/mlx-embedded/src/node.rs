//! One handle for both modes: a server of our own and a client to it, or a client to a server elsewhere.

use std::time::{Duration, Instant};

use mlx_errors::Result;
use mlx_nats::{Client, ClientOptions, ConnectConfig};
use mlx_types::config::NatsMode;

use crate::EmbeddedServer;

/// Starts the embedded server and connects to it, or connects to the external one, as `config` says.
///
/// A whole `ClusterConfig` is put in force: timeouts, discovery, durable requests. See [`Client::connect`].
///
/// ```no_run
/// use std::time::Duration;
///
/// # async fn example() -> mlx_errors::Result<()> {
/// let config = mlx_types::ClusterConfig::default(); // embedded mode; what `mlx_config::load` returns
/// let node = mlx_embedded::connect(&config).await?;
/// println!("{}", node.client().state());
/// node.shutdown(Duration::from_secs(5)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`EmbeddedServer::start`] in embedded mode, and of [`Client::connect`] in both.
///
/// # Cancel safety
/// Dropping the future stops a server that it has started.
pub async fn connect(config: &impl ConnectConfig) -> Result<Node> {
    connect_with(config, config.client_options()).await
}

/// [`connect`] with options for the client, in place of those that the configuration gives.
///
/// ```no_run
/// # async fn example(config: mlx_types::ClusterConfig) -> mlx_errors::Result<()> {
/// use mlx_nats::ClientOptions;
///
/// let node = mlx_embedded::connect_with(&config, ClientOptions::from(&config).name("controller")).await?;
/// # Ok(())
/// # }
/// ```
pub async fn connect_with(config: &impl ConnectConfig, options: ClientOptions) -> Result<Node> {
    let config = config.nats();
    let (client, server) = match config.mode {
        NatsMode::External => (Client::connect_with(config, options).await?, None),
        NatsMode::Embedded => {
            // Two proofs at once, of the server and of our connection to it, each of which takes a few round trips.
            let connecting = |config| {
                let options = options.clone();
                async move { Client::connect_with(&config, options).await }
            };
            let (server, early) = EmbeddedServer::builder(config).start_beside(connecting).await?;
            let client = match early {
                Ok(client) => client,
                // It may have been too early.
                Err(_) => Client::connect_with(&server.client_config(), options).await?,
            };
            (client, Some(server))
        }
    };
    Ok(Node { client, server })
}

/// A connected node. Dropping it kills the embedded server; the connection closes with the last handle of its client.
/// [`shutdown`](Self::shutdown) ends both in good order, even while others hold handles.
///
/// ```no_run
/// # async fn example(config: mlx_types::ClusterConfig) -> mlx_errors::Result<()> {
/// use std::time::Duration;
///
/// let node = mlx_embedded::connect(&config).await?;
/// node.client().publish("lab.test", "hello").await?;
/// node.shutdown(Duration::from_secs(5)).await?; // the client first, then the server, if it is this node's
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the node kills its embedded server: keep it for as long as that is needed"]
#[derive(Debug)]
pub struct Node {
    client: Client,
    server: Option<EmbeddedServer>,
}

impl Node {
    /// The client. It can be cloned. A clone outlives a node that is dropped, and in external mode its connection stays; in
    /// embedded mode the server is gone, and it tries in vain to reconnect. Only [`shutdown`](Self::shutdown) closes them
    /// all.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The embedded server, in embedded mode.
    pub fn server(&self) -> Option<&EmbeddedServer> {
        self.server.as_ref()
    }

    /// Sends what is under way, closes the connection, and stops the embedded server, all within `timeout`.
    ///
    /// # Errors
    /// The error of the first of the two that did not end cleanly. Both have ended.
    pub async fn shutdown(self, timeout: Duration) -> Result<()> {
        let began = Instant::now();
        let closed = self.client.shutdown(timeout).await;
        let stopped = match self.server {
            Some(server) => server.stop(timeout.saturating_sub(began.elapsed())).await,
            None => Ok(()),
        };
        closed.and(stopped)
    }
}
