//! What a client takes from a configuration.

use mlx_types::ClusterConfig;
use mlx_types::config::NatsConfig;

use super::ClientOptions;

mod sealed {
    pub trait Sealed {}
    impl Sealed for mlx_types::ClusterConfig {}
    impl Sealed for mlx_types::config::NatsConfig {}
}

/// A configuration to connect with: `&ClusterConfig`, all of which is then in force (timeouts of streams, when a worker is
/// offline, durable requests), or `&NatsConfig`, the connection alone, with the defaults for the rest.
///
/// Sealed, and used by handing it to [`Client::connect`](crate::Client::connect).
pub trait ConnectConfig: sealed::Sealed {
    #[doc(hidden)]
    fn nats(&self) -> &NatsConfig;
    #[doc(hidden)]
    fn client_options(&self) -> ClientOptions;
}

impl ConnectConfig for ClusterConfig {
    fn nats(&self) -> &NatsConfig {
        &self.nats
    }

    fn client_options(&self) -> ClientOptions {
        self.into()
    }
}

impl ConnectConfig for NatsConfig {
    fn nats(&self) -> &NatsConfig {
        self
    }

    fn client_options(&self) -> ClientOptions {
        ClientOptions::default()
    }
}
