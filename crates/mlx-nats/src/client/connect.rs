//! Making a client.

use std::sync::Arc;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::Millis;
use mlx_types::config::PublishWhileDisconnected;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::rooms::Rooms;
use super::{Client, ClientOptions, ConnectConfig, Inner};
use crate::connection::AbortOnDrop;
use crate::connection::{self, Backoff, Managed, PublishBuffer, TransportOptions};
use crate::telemetry::measure::Measure;

/// Pauses between attempts to reach a server that is not there yet.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

impl Client {
    /// Connects to the server, or to one of the servers, of `config`, and proves the connection by a round trip.
    ///
    /// A whole `ClusterConfig` is put in force: timeouts of streams, when a worker is offline, durable requests. If you have only a
    /// URL, use [`Client::builder`].
    ///
    /// In embedded mode without a URL that is the address at which the embedded server listens; it has to be running
    /// already (`mlx_embedded::connect` starts it).
    ///
    /// ```no_run
    /// use mlx_nats::Client;
    ///
    /// # async fn example(config: mlx_types::ClusterConfig) -> mlx_nats::Result<()> {
    /// let client = Client::connect(&config).await?; // what `mlx_config::load` returned
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Within `connectTimeoutMs`: [`ErrorKind::Connection`] names the server and the step that failed,
    /// [`ErrorKind::Authentication`] says that the credentials were refused, and [`ErrorKind::Subscription`] that this user
    /// may not subscribe where answers come (`nats.inboxPrefix`). At once: [`ErrorKind::ConfigValidation`] for a configuration
    /// that breaks rules, such as a credential that is empty.
    ///
    /// # Cancel safety
    /// Dropping the future gives the attempt up and leaves nothing behind.
    pub async fn connect(config: &impl ConnectConfig) -> Result<Self> {
        Self::connect_with(config.nats(), config.client_options()).await
    }

    /// [`connect`](Self::connect) with options in place of those that the configuration gives.
    ///
    /// ```no_run
    /// # async fn example(config: &mlx_types::config::NatsConfig) -> mlx_nats::Result<()> {
    /// use mlx_nats::{Client, ClientOptions};
    ///
    /// let client = Client::connect_with(config, ClientOptions::default().name("controller")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect_with(config: &impl ConnectConfig, options: ClientOptions) -> Result<Self> {
        let config = config.nats();
        let transport_options =
            TransportOptions { name: options.name.clone(), subscription_capacity: options.subscription_capacity };
        let transport = connection::connect(config, &transport_options).await?;
        let nats = transport.nats;
        let (inbox, refusals, link) = (transport.inbox, transport.refusals, transport.link);
        let publish_buffer = match config.publish_while_disconnected {
            PublishWhileDisconnected::Fail => None,
            PublishWhileDisconnected::Buffer => {
                let limit = usize::try_from(config.publish_buffer_bytes).unwrap_or(usize::MAX);
                Some(Arc::new(PublishBuffer::new(limit)))
            }
        };
        // Before the manager starts: its probes come back here.
        let answers = nats.subscribe(inbox.pattern()).await.map_err(|error| {
            Error::with_source(
                ErrorKind::Subscription { subject: inbox.pattern(), reason: "the connection ended at once".to_owned() },
                error.to_string(),
            )
        })?;
        let (dispatcher, limit) = (transport.dispatcher, transport.limit);
        let manager = connection::manage(Managed {
            nats: nats.clone(),
            signals: transport.signals,
            dispatcher: Arc::clone(&dispatcher),
            limit: Arc::clone(&limit),
            inbox: Arc::clone(&inbox),
            link: Arc::clone(&link),
            publish_buffer: publish_buffer.clone(),
            reconnect: config.reconnect,
        });
        let tasks = [tokio::spawn(manager), tokio::spawn(Arc::clone(&inbox).run(nats.clone(), answers))]
            .map(|task| AbortOnDrop(task.abort_handle()));
        let client = Self {
            inner: Arc::new(Inner {
                nats,
                inbox,
                refusals,
                link,
                publish_buffer,
                signals: transport.signals_sender,
                dispatcher,
                limit,
                measure: Measure::new(),
                options,
                request_timeout: config.request_timeout_ms.as_duration(),
                rooms: Rooms::default(),
                runtime: Handle::current(),
                _tasks: tasks,
            }),
        };
        let limit = config.connect_timeout_ms.as_duration();
        tokio::select! {
            connected = client.wait_connected(limit) => connected?,
            refused = client.inbox().refused() => return Err(client.inbox().refusal_error(&refused)),
        }
        // The refusal is an answer too, and may have been taken for the proof that the connection lives.
        client.inbox().check()?;
        Ok(client)
    }

    /// Connects as soon as a server is there: tries again, with growing pauses, while none can be reached.
    ///
    /// For processes that start before their server does.
    ///
    /// ```no_run
    /// # async fn example(config: &mlx_types::config::NatsConfig) -> mlx_nats::Result<()> {
    /// use std::time::Duration;
    /// use mlx_nats::{Client, ClientOptions};
    ///
    /// let client = Client::connect_when_ready(config, ClientOptions::default(), Duration::from_secs(60)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), of the last attempt within `timeout`. Refused credentials, and a refused inbox, are not
    /// tried again.
    ///
    /// # Cancel safety
    /// Dropping the future gives up, and leaves nothing behind.
    pub async fn connect_when_ready(
        config: &impl ConnectConfig,
        options: ClientOptions,
        timeout: Duration,
    ) -> Result<Self> {
        let config = config.nats();
        let began = Instant::now();
        let backoff = Backoff::new(FIRST_RETRY);
        let mut attempt = 0;
        loop {
            // No attempt takes longer than what is left.
            let left = timeout.saturating_sub(began.elapsed()).min(config.connect_timeout_ms.as_duration());
            let config = config.clone().connect_timeout_ms(Millis::at_least_one(left));
            let error = match Self::connect_with(&config, options.clone()).await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            attempt += 1;
            let pause = backoff.delay(attempt, fastrand::f64()).min(LONGEST_RETRY);
            // A permission that is missing will not come by waiting for a server.
            let refused = !error.is_retryable() || matches!(error.kind(), ErrorKind::Subscription { .. });
            if refused || began.elapsed() + pause > timeout {
                return Err(error);
            }
            tracing::debug!(attempt, error = &error as &dyn std::error::Error, "no NATS server yet");
            tokio::time::sleep(pause).await; // the pause between two attempts is what backing off means
        }
    }
}
