//! What a client does beyond its connection.

use std::time::Duration;

use mlx_types::config::{ClusterConfig, DiscoveryConfig, StreamingConfig};

use super::Discovery;

/// Messages that a subscription holds for a slow reader before it drops, unless set otherwise.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Bytes of their payloads, unless set otherwise.
const SUBSCRIPTION_BYTES: usize = 64 << 20;

/// What a client does beyond its connection. Every field has a sensible default.
///
/// ```
/// use mlx_nats::ClientOptions;
/// use mlx_types::config::ClusterConfig;
///
/// let config = ClusterConfig::default(); // what `mlx_config::load` returns
/// let options = ClientOptions::from(&config).subscription_capacity(1_000).name("controller");
/// # assert_eq!(options.name.as_deref(), Some("controller"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The name shown by the server's monitoring; unset by default.
    pub name: Option<String>,
    /// Messages that a subscription holds for a slow reader; further ones are dropped and counted. 65,536.
    pub subscription_capacity: usize,
    /// Bytes of payloads that a subscription holds for a slow reader; further messages are dropped and counted. 64 MiB.
    pub subscription_bytes: usize,
    /// How long a token stream may take to bring its first token. 60 s.
    pub first_token_timeout: Duration,
    /// How long a token stream may be silent between two tokens. 30 s.
    pub inter_token_timeout: Duration,
    /// Offer to read frames of several tokens, and send them to a requester that offers to. True.
    pub coalesce: bool,
    /// How long a worker may be silent before it counts as lost. 15 s.
    pub offline_timeout: Duration,
    /// Between two heartbeats: of a worker that this client runs (10 ms at the least), and of others until their own are known; one
    /// that is late has its worker asked for a sign of life. 5 s.
    pub heartbeat_interval: Duration,
    /// How `nats micro` and other tools list this client once it serves anything, or `None` for not at all. By default as
    /// `mlx-node`.
    pub discovery: Option<Discovery>,
    /// How requests are handed over that must not be lost; unset by default, which leaves that off.
    #[cfg(feature = "durable")]
    pub durable: Option<mlx_types::config::DurableConfig>,
}

mlx_errors::setters! {
    ClientOptions {
        name: text,
        subscription_capacity: set usize,
        subscription_bytes: set usize,
        first_token_timeout: set Duration,
        inter_token_timeout: set Duration,
        coalesce: set bool,
        offline_timeout: set Duration,
        heartbeat_interval: set Duration,
        discovery: option Discovery,
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self::from_sections(&StreamingConfig::default(), &DiscoveryConfig::default())
    }
}

impl From<&ClusterConfig> for ClientOptions {
    fn from(config: &ClusterConfig) -> Self {
        let options = Self::from_sections(&config.streaming, &config.discovery);
        let durable = &config.request_routing.durable;
        #[cfg(feature = "durable")]
        let options = Self { durable: durable.enabled.then(|| durable.clone()), ..options };
        #[cfg(not(feature = "durable"))]
        if durable.enabled {
            tracing::warn!("`requestRouting.durable.enabled` has no effect: built without mlx-nats' feature `durable`");
        }
        options
    }
}

impl ClientOptions {
    fn from_sections(streaming: &StreamingConfig, discovery: &DiscoveryConfig) -> Self {
        Self {
            name: None,
            subscription_capacity: SUBSCRIPTION_CAPACITY,
            subscription_bytes: SUBSCRIPTION_BYTES,
            first_token_timeout: streaming.first_token_timeout_ms.as_duration(),
            inter_token_timeout: streaming.inter_token_timeout_ms.as_duration(),
            coalesce: streaming.coalesce,
            offline_timeout: discovery.offline_timeout_ms.as_duration(),
            heartbeat_interval: discovery.heartbeat_interval_ms.as_duration(),
            discovery: Some(Discovery::default()),
            #[cfg(feature = "durable")]
            durable: None,
        }
    }

    /// Sets [`durable`](Self#structfield.durable); `None` leaves that off.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn durable(mut self, durable: impl Into<Option<mlx_types::config::DurableConfig>>) -> Self {
        self.durable = durable.into();
        self
    }
}
