//! The client: one cheap handle to one connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::Millis;
use mlx_types::config::{ClusterConfig, DiscoveryConfig, NatsConfig, PublishWhileDisconnected, StreamingConfig};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::connection::{
    self, Backoff, CloseReason, ConnectionEvent, ConnectionEvents, ConnectionState, Dispatcher, Link, Managed,
    PayloadLimit, Refusals, Signal,
};
use crate::discovery::{Directory, Discovery};
use crate::inbox::Inbox;
use crate::measure::Measure;
use crate::outbox::Outbox;
use crate::registry::Workers;
use crate::task::AbortOnDrop;

/// Messages that a subscription holds for a slow reader before it drops, unless set otherwise.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Bytes of their payloads, unless set otherwise.
const SUBSCRIPTION_BYTES: usize = 64 << 20;

/// Pauses between attempts to reach a server that is not there yet.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// A connection to NATS. Clones share it, and so do the subscriptions, services and token streams made with it; the last
/// of all these that is dropped closes it.
///
/// All methods can be called from any task. Dropping a handle, on any thread, inside or outside a runtime, neither
/// blocks nor panics.
///
/// ```no_run
/// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
/// let other = client.clone(); // the same connection
/// tokio::spawn(async move { other.publish("lab.test", "hello").await });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    nats: async_nats::Client,
    inbox: Arc<Inbox>,
    refusals: Arc<Refusals>,
    link: Arc<Link>,
    /// Only where the configuration asks to keep what is published while the connection is down.
    outbox: Option<Arc<Outbox>>,
    signals: mpsc::UnboundedSender<Signal>,
    dispatcher: Arc<Dispatcher>,
    limit: Arc<PayloadLimit>,
    measure: Measure,
    options: ClientOptions,
    request_timeout: Duration,
    workers: Mutex<Option<Workers>>,
    directory: Directory,
    #[cfg(feature = "durable")]
    queue: crate::durable::Queue,
    runtime: Handle,
    /// The connection's manager and the inbox.
    _tasks: [AbortOnDrop; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        let up = self.link.is_up();
        // Its manager, which tells every other end, ends with it.
        self.link.orphaned();
        let messages = self.outbox.as_ref().map_or(0, |outbox| outbox.abandon());
        if messages > 0 {
            tracing::warn!(
                messages,
                "the last handle was dropped before messages kept for the connection could be sent"
            );
        }
        if up {
            // The transport ends with its last handle, without a look at what it still holds, unless it is told to drain.
            let nats = self.nats.clone();
            self.runtime.spawn(async move { connection::end(&nats).await });
        }
    }
}

/// What a client does beyond its connection. Every field has a sensible default.
///
/// ```
/// use mlx_nats::ClientOptions;
/// use mlx_types::config::ClusterConfig;
///
/// let config = ClusterConfig::default(); // what `mlx_config::load` returns
/// let options = ClientOptions { subscription_capacity: 1_000, ..ClientOptions::from(&config) }.named("controller");
/// # assert_eq!(options.name.as_deref(), Some("controller"));
/// ```
#[derive(Clone, Debug)]
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
    /// Between two heartbeats of a worker, until its own are known; one that is late has it asked for a sign of life. 5 s.
    pub heartbeat_interval: Duration,
    /// How `nats micro` and other tools list this client once it serves anything, or `None` for not at all. By default as
    /// `mlx-node`.
    pub discovery: Option<Discovery>,
    /// How requests are handed over that must not be lost; unset by default, which leaves that off.
    #[cfg(feature = "durable")]
    pub durable: Option<mlx_types::config::DurableConfig>,
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

    /// The same, under a name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl Client {
    /// Connects to the server, or to one of the servers, of `config`, and proves the connection by a round trip.
    ///
    /// In embedded mode without a URL that is the address at which the embedded server listens; it has to be running
    /// already (`mlx_embedded::connect` starts it).
    ///
    /// ```no_run
    /// use mlx_nats::Client;
    /// use mlx_types::config::{NatsConfig, NatsMode};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server_url = Some("nats://10.0.0.5:4222".parse()?);
    /// let client = Client::connect(&NatsConfig { mode: NatsMode::External, server_url, ..NatsConfig::default() }).await?;
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
    pub async fn connect(config: &NatsConfig) -> Result<Self> {
        Self::connect_with(config, ClientOptions::default()).await
    }

    /// [`connect`](Self::connect) with options of its own.
    ///
    /// ```no_run
    /// # async fn example(config: &mlx_types::config::NatsConfig) -> mlx_nats::Result<()> {
    /// use mlx_nats::{Client, ClientOptions};
    ///
    /// let client = Client::connect_with(config, ClientOptions::default().named("controller")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect_with(config: &NatsConfig, options: ClientOptions) -> Result<Self> {
        let transport = connection::connect(config, &options).await?;
        let nats = transport.nats;
        let (inbox, refusals, link) = (transport.inbox, transport.refusals, transport.link);
        let outbox = match config.publish_while_disconnected {
            PublishWhileDisconnected::Fail => None,
            PublishWhileDisconnected::Buffer => {
                let limit = usize::try_from(config.publish_buffer_bytes).unwrap_or(usize::MAX);
                Some(Arc::new(Outbox::new(limit)))
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
            outbox: outbox.clone(),
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
                outbox,
                signals: transport.signals_sender,
                dispatcher,
                limit,
                measure: Measure::new(),
                options,
                request_timeout: config.request_timeout_ms.as_duration(),
                workers: Mutex::default(),
                directory: Directory::default(),
                #[cfg(feature = "durable")]
                queue: crate::durable::Queue::default(),
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
    /// Those of [`connect`](Self::connect), of the last attempt within `limit`. Refused credentials, and a refused inbox, are not
    /// tried again.
    ///
    /// # Cancel safety
    /// Dropping the future gives up, and leaves nothing behind.
    pub async fn connect_when_ready(config: &NatsConfig, options: ClientOptions, limit: Duration) -> Result<Self> {
        let began = Instant::now();
        let backoff = Backoff::new(FIRST_RETRY);
        let mut attempt = 0;
        loop {
            // No attempt takes longer than what is left.
            let left = limit.saturating_sub(began.elapsed()).min(config.connect_timeout_ms.as_duration());
            let config = NatsConfig { connect_timeout_ms: Millis::at_least_one(left), ..config.clone() };
            let error = match Self::connect_with(&config, options.clone()).await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            attempt += 1;
            let pause = backoff.delay(attempt, fastrand::f64()).min(LONGEST_RETRY);
            // A permission that is missing will not come by waiting for a server.
            let refused = !error.is_retryable() || matches!(error.kind(), ErrorKind::Subscription { .. });
            if refused || began.elapsed() + pause > limit {
                return Err(error);
            }
            tracing::debug!(attempt, error = &error as &dyn std::error::Error, "no NATS server yet");
            tokio::time::sleep(pause).await; // the pause between two attempts is what backing off means
        }
    }

    /// The state of the connection now.
    pub fn state(&self) -> ConnectionState {
        self.inner.link.watch().borrow().clone()
    }

    /// The state of the connection and its changes. A watcher sees the latest value, not each one in between.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let mut state = client.watch_state();
    /// while state.changed().await.is_ok() {
    ///     println!("{}", *state.borrow_and_update());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch_state(&self) -> watch::Receiver<ConnectionState> {
        self.inner.link.watch()
    }

    /// What happens to the connection from now on, one event after another; the first tells how it stands.
    ///
    /// For logs and dashboards. Who wants to act on the state as it is had better [watch](Self::watch_state) it.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// use mlx_nats::ConnectionEvent;
    ///
    /// # async fn example(client: mlx_nats::Client) {
    /// let mut events = client.events();
    /// tokio::spawn(async move {
    ///     while let Some(event) = events.next().await {
    ///         match event {
    ///             ConnectionEvent::AttemptFailed { server, error, .. } => eprintln!("{server}: {error}"),
    ///             event => eprintln!("{event:?}"),
    ///         }
    ///     }
    /// });
    /// # }
    /// ```
    ///
    /// Bounded, and nobody waits for its reader; see [`ConnectionEvents`]. Free while nobody listens.
    pub fn events(&self) -> ConnectionEvents {
        self.inner.link.events().listen(|| match self.state() {
            ConnectionState::Connected { epoch } => {
                let (server, attempt) = self.inner.dispatcher.current();
                Some(ConnectionEvent::Connected { server, epoch, attempt })
            }
            ConnectionState::Closed { reason } => Some(ConnectionEvent::Closed { reason }),
            ConnectionState::Disconnected | ConnectionState::Connecting | ConnectionState::Reconnecting { .. } => None,
        })
    }

    /// Waits until the connection is up.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// client.wait_connected(std::time::Duration::from_secs(10)).await?; // after an outage
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] after `limit`, [`ErrorKind::Closed`] when the client is closed for good.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn wait_connected(&self, limit: Duration) -> Result<()> {
        let mut state = self.watch_state();
        let settled = state.wait_for(|state| state.is_connected() || state.is_closed());
        match timeout(limit, settled).await {
            Ok(Ok(state)) if state.is_connected() => Ok(()),
            Ok(_) => Err(self.inner.link.down("waiting for the connection")),
            Err(_) => Err(Error::new(ErrorKind::Timeout { subject: "the NATS connection".to_owned(), timeout: limit })),
        }
    }

    /// A round trip to the server: everything published before has arrived there.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// client.publish("lab.test", "the last word").await?;
    /// client.flush(std::time::Duration::from_secs(1)).await?; // the server has it now
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`] when the connection dropped or was replaced meanwhile, so that what was published
    /// before may be lost; [`ErrorKind::Publish`] when the server refused something published since the last flush, of
    /// which nobody was told yet; [`ErrorKind::Timeout`] after `limit`.
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind.
    pub async fn flush(&self, limit: Duration) -> Result<()> {
        self.hear_all("the end of a flush", limit).await?;
        self.inner.refusals.take_unflushed().map_or(Ok(()), Err)
    }

    /// Publishes that the server has refused since the client was made, for want of a permission.
    ///
    /// A publish does not wait for the server, so that its refusal comes after `Ok`: as a
    /// [`ConnectionEvent::ServerError`], in this count, and as the error of the next [`flush`](Self::flush), unless it was a
    /// request, which fails by itself.
    pub fn refused_publishes(&self) -> u64 {
        self.inner.refusals.publishes()
    }

    /// Bytes that the server accepts as one payload, headers included: its own limit, or that of this user's account.
    ///
    /// What was in force when the connection was made, or when it was last asked; see
    /// [`refresh_limits`](crate::refresh_limits).
    pub fn max_payload(&self) -> usize {
        self.inner.limit.in_force(self.inner.nats.max_payload())
    }

    /// Messages that wait for the connection to come back; always 0 unless `nats.publishWhileDisconnected` is `buffer`.
    pub fn buffered(&self) -> usize {
        self.inner.outbox.as_ref().map_or(0, |outbox| outbox.len())
    }

    /// Takes no more work, sends what is under way, and closes the connection, within `deadline`.
    ///
    /// Subscriptions end after their last message. What is published while this runs goes out, or fails as
    /// [`ErrorKind::Closed`]. What `nats.publishWhileDisconnected: buffer` keeps while there is no connection is lost, and
    /// counted in the log. Services should be stopped before, so that their handlers finish.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// client.shutdown(std::time::Duration::from_secs(5)).await?;
    /// assert!(client.state().is_closed());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when the server did not take everything in time; the client is closed all the same.
    ///
    /// # Cancel safety
    /// When the future is dropped, the client may be closed or not.
    pub async fn shutdown(&self, deadline: Duration) -> Result<()> {
        let connected = self.inner.link.live(|| "shutdown".to_owned()).is_ok();
        let flushed = if connected { self.round_trip("the end of the shutdown", deadline).await } else { Ok(()) };
        // Another call of this may be faster, and has flushed as much.
        let shut_down = ConnectionState::Closed { reason: CloseReason::ShutDown };
        let flushed = flushed.or_else(|error| if self.state() == shut_down { Ok(()) } else { Err(error) });
        let _ = self.inner.signals.send(Signal::ShutDown);
        let mut state = self.watch_state();
        // The manager answers at once; should it be gone already, so is the connection.
        let _ = timeout(deadline, state.wait_for(ConnectionState::is_closed)).await;
        if connected {
            // What was published in the meantime, too, is with the socket when the process ends behind this. An error means
            // that the transport has ended, which it does behind a flush of its own.
            let _ = timeout(deadline, self.nats().flush()).await;
        }
        flushed
    }

    /// Follows the workers of the cluster by their registrations and heartbeats; see [`Workers`].
    ///
    /// The first call subscribes; later ones share what it follows, unless the server has taken that away.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let workers = client.workers().await?;
    /// workers.wait_until(Duration::from_secs(30), |online| online.len() >= 3).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`subscribe`](Client::subscribe).
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    pub async fn workers(&self) -> Result<Workers> {
        let mut workers = self.inner.workers.lock().await;
        match &*workers {
            Some(followed) if followed.check().is_ok() => Ok(followed.clone()),
            _ => Ok(workers.insert(Workers::follow(self).await?).clone()),
        }
    }

    pub(crate) fn nats(&self) -> &async_nats::Client {
        &self.inner.nats
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inner.inbox
    }

    pub(crate) fn payload_limit(&self) -> &PayloadLimit {
        &self.inner.limit
    }

    pub(crate) fn refusals(&self) -> &Arc<Refusals> {
        &self.inner.refusals
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.inner.link
    }

    pub(crate) fn outbox(&self) -> Option<&Outbox> {
        self.inner.outbox.as_deref()
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    pub(crate) fn measure(&self) -> &Measure {
        &self.inner.measure
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    #[cfg(feature = "durable")]
    pub(crate) fn queue(&self) -> &crate::durable::Queue {
        &self.inner.queue
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.inner.request_timeout
    }

    /// The runtime that the client was connected in: where work goes that a `Drop` outside any runtime leaves.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.state()).finish_non_exhaustive()
    }
}
