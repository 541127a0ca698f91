//! A nats-server for one test.

use std::io;
use std::time::Duration;

use mlx_embedded::EmbeddedServer;
use mlx_nats::{Client, ClientOptions};
use mlx_types::Millis;
use mlx_types::config::NatsConfig;
use serde_json::Value;

use crate::monitoring::monitoring;
use crate::{ContainerBuilder, ContainerServer};

/// A server on free ports, gone with the value.
#[derive(Debug)]
pub struct TestServer {
    server: EmbeddedServer,
}

impl TestServer {
    /// Starts one with the settings of a test: free ports, and reconnection within milliseconds.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts one whose settings `change` may alter.
    pub async fn start_with(change: impl FnOnce(&mut NatsConfig)) -> Self {
        let mut config = NatsConfig::default();
        config.embedded.port = 0;
        config.embedded.http_port = 0;
        config.reconnect_time_wait = millis(20);
        change(&mut config);
        let server = EmbeddedServer::start(&config).await.unwrap_or_else(|error| panic!("{error}"));
        Self { server }
    }

    /// One in a container instead, still to be started; needs Docker.
    pub fn in_container() -> ContainerBuilder {
        ContainerServer::builder()
    }

    /// The server itself.
    pub fn embedded(&self) -> &EmbeddedServer {
        &self.server
    }

    /// Stops it.
    pub async fn stop(self) {
        self.server.stop(Duration::from_secs(5)).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// What its monitoring answers at `path`, for example `/subsz`.
    pub async fn monitoring(&self, path: &str) -> Value {
        self.try_monitoring(path).await.unwrap()
    }

    /// The same for a server that may be down, or killed while it answers.
    pub async fn try_monitoring(&self, path: &str) -> io::Result<Value> {
        let address = self.server.monitoring_addr().expect("monitoring is on");
        monitoring(address, path).await
    }

    /// The settings of a client of this server.
    pub fn config(&self) -> NatsConfig {
        self.server.client_config()
    }

    /// A client of ours.
    pub async fn client(&self) -> Client {
        self.client_with(ClientOptions::default()).await
    }

    /// A client of ours with options of its own.
    pub async fn client_with(&self, options: ClientOptions) -> Client {
        Client::connect_with(&self.config(), options).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A client that is not ours: async-nats itself.
    pub async fn foreign_client(&self) -> async_nats::Client {
        let address = self.server.client_addr().to_string();
        async_nats::connect(address).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A duration of the configuration.
pub fn millis(millis: u64) -> Millis {
    Millis::new(millis).unwrap_or_else(|| panic!("0 ms"))
}
