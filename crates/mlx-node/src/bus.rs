//! The bus of a node: its own nats-server, or one elsewhere, for which it waits.

use std::time::Duration;

use mlx_embedded::Node;
use mlx_errors::Result;
use mlx_nats::ClientOptions;
use mlx_types::config::{NatsConfig, NatsMode};

/// How long after a failed attempt the next one comes: twice as long each time, up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Connects; to a bus elsewhere for as long as it takes, where only that may help.
///
/// # Errors
/// Those of [`mlx_embedded::connect`] that waiting does not mend: credentials that are refused, a server of our own that does not
/// start; and any, where the configuration wants no reconnection.
///
/// # Cancel safety
/// Dropping the future stops a server that it has started.
pub(crate) async fn join(config: &NatsConfig, options: &ClientOptions, tell: impl Fn(&str)) -> Result<Node> {
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let error = match mlx_embedded::connect_with(config, options.clone()).await {
            Ok(node) => {
                if told {
                    tell("the bus is there");
                }
                return Ok(node);
            }
            Err(error) => error,
        };
        let may_come = config.mode == NatsMode::External && config.reconnect && error.is_retryable();
        if !may_come {
            return Err(error);
        }
        if !told {
            tell(&format!("waiting for the bus: {error}"));
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the bus cannot be reached; it is tried until it can"
            );
            told = true;
        }
        // Time is the point: nothing tells that a server elsewhere has started.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
