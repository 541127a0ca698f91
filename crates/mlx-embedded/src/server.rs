//! The handle of one embedded server.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mlx_errors::{Error, ErrorKind, Result, Violation, Violations};
use mlx_types::config::{NatsConfig, NatsMode};
use mlx_types::{NatsUrl, Scheme, Secret};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::instrument::WithSubscriber as _;

use crate::monitoring::{Connections, Health, JetStreamStats, ServerStats, Subscriptions};
use crate::process::OrphanGuard;
use crate::ready::Endpoints;
use crate::settings::{Cluster, Settings};
use crate::supervisor::{Command, Farewell, Launcher, ServerState, Shared, supervise};
use crate::{Binary, Finder, monitoring, thread};

/// How long a drop may block for a process to be killed. It takes a few ms.
const DROP_LIMIT: Duration = Duration::from_secs(2);

/// Longer than any process lives: 30 years.
const FOR_EVER: Duration = Duration::from_hours(30 * 365 * 24);

/// A nats-server of this process's own: started, supervised, and gone when this is dropped.
///
/// Dropping it kills the server, and blocks for the few ms that takes; [`EmbeddedServer::stop`] lets it end in good
/// order. Its supervision needs no runtime of the caller's and outlives the one it was started on.
///
/// ```no_run
/// use std::time::Duration;
/// use mlx_embedded::EmbeddedServer;
/// use mlx_types::config::NatsConfig;
///
/// # async fn example() -> mlx_errors::Result<()> {
/// let mut config = NatsConfig::default();
/// config.embedded.port = 0; // any free port
/// let server = EmbeddedServer::start(&config).await?;
/// println!("listening on {}", server.client_url());
/// server.stop(Duration::from_secs(5)).await
/// # }
/// ```
#[must_use = "dropping the server kills it: keep it for as long as it is needed"]
#[derive(Debug)]
pub struct EmbeddedServer {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    endpoints: Endpoints,
    url: NatsUrl,
    /// What the server runs with: told by whatever had it take that on.
    config: Arc<Mutex<NatsConfig>>,
    /// Held by the reload under way.
    reloading: Arc<tokio::sync::Mutex<()>>,
    binary: Binary,
    /// Where it stores, if that is to be gone with the last server that does. Dropped after the process has ended.
    folder: Option<Arc<TempDir>>,
}

impl EmbeddedServer {
    /// Starts a server and waits until it answers; see [`Builder`] for what can be chosen beyond the configuration.
    ///
    /// ```no_run
    /// # async fn example() -> mlx_errors::Result<()> {
    /// use mlx_embedded::EmbeddedServer;
    /// use mlx_types::config::NatsConfig;
    ///
    /// let server = EmbeddedServer::start(&NatsConfig::default()).await?; // on 127.0.0.1, at `nats.embedded.port`
    /// println!("{}", server.client_url());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `CONFIG_VALIDATION_ERROR` for a configuration that breaks a rule, a bind wider than loopback without credentials
    /// among them; `EMBEDDED_SERVER_NOT_FOUND`, `EMBEDDED_SERVER_VERSION`; `EMBEDDED_SERVER_START_ERROR` with the
    /// server's last lines, and the setting to change where there is one.
    ///
    /// # Cancel safety
    /// Dropping the future ends what it has started.
    pub async fn start(config: &NatsConfig) -> Result<Self> {
        Self::builder(config).start().await
    }

    /// A server to be started, with more to choose.
    pub fn builder(config: &NatsConfig) -> Builder {
        Builder { config: config.clone(), guard: OrphanGuard::default(), finder: None, private: false, cluster: None }
    }

    /// The URL for clients, without credentials. It stays the same over restarts.
    pub fn client_url(&self) -> NatsUrl {
        self.url.clone()
    }

    /// Where clients on this machine connect. It stays the same over restarts.
    pub fn client_addr(&self) -> SocketAddr {
        self.endpoints.client
    }

    /// Where monitoring answers over HTTP, on loopback only; `None` where it is switched off.
    pub fn monitoring_addr(&self) -> Option<SocketAddr> {
        self.endpoints.monitoring
    }

    /// The configuration for a client of this server: external mode, its URL, its credentials.
    pub fn client_config(&self) -> NatsConfig {
        client_config(&self.config.lock(), self.client_url())
    }

    /// The binary that runs.
    pub fn binary(&self) -> &Binary {
        &self.binary
    }

    /// The process id; `None` between two runs, and after the last.
    pub fn pid(&self) -> Option<u32> {
        Some(self.shared.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// What it is doing now.
    pub fn state(&self) -> ServerState {
        self.shared.state.borrow().clone()
    }

    /// What it is doing now, and every change from now on. A watcher sees the latest value, not each one in between.
    pub fn watch_state(&self) -> watch::Receiver<ServerState> {
        self.shared.state.subscribe()
    }

    /// Its last log lines, 100 at the most, the oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        self.shared.lines.last(usize::MAX)
    }

    /// The server as a whole: connections, subscriptions, memory, messages, slow consumers (`/varz`).
    ///
    /// This and the other questions fail with `EMBEDDED_SERVER_ERROR` if monitoring is off, or does not answer within 5 s.
    ///
    /// ```no_run
    /// # async fn example(server: mlx_embedded::EmbeddedServer) -> mlx_errors::Result<()> {
    /// let stats = server.varz().await?;
    /// println!("{} connections, {} slow consumers", stats.connections, stats.slow_consumers);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn varz(&self) -> Result<ServerStats> {
        monitoring::ask(self.endpoints.monitoring, "/varz").await
    }

    /// Its connections (`/connz`).
    ///
    /// ```no_run
    /// # async fn example(server: mlx_embedded::EmbeddedServer) -> mlx_errors::Result<()> {
    /// for connection in server.connz().await?.connections {
    ///     println!("{} from {}", connection.name, connection.ip);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connz(&self) -> Result<Connections> {
        monitoring::ask(self.endpoints.monitoring, "/connz?limit=1024").await
    }

    /// Its subscriptions (`/subsz`).
    pub async fn subsz(&self) -> Result<Subscriptions> {
        monitoring::ask(self.endpoints.monitoring, "/subsz").await
    }

    /// JetStream: streams, consumers, messages, memory, disk (`/jsz`).
    pub async fn jsz(&self) -> Result<JetStreamStats> {
        monitoring::ask(self.endpoints.monitoring, "/jsz").await
    }

    /// Whether it is fit for work (`/healthz`).
    ///
    /// ```no_run
    /// # async fn example(server: mlx_embedded::EmbeddedServer) -> mlx_errors::Result<()> {
    /// let health = server.healthz().await?;
    /// println!("{} {}", health.status, health.error);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn healthz(&self) -> Result<Health> {
        monitoring::ask(self.endpoints.monitoring, "/healthz").await
    }

    /// Has the running server take on what it can of `config`: credentials, certificates, the largest payload, the log
    /// level. Connections whose credentials are no longer valid are closed. All others stay; but where there is a token, the
    /// server may close those too, and the clients come back by themselves. The clients of this process know of another
    /// largest payload when this returns.
    ///
    /// ```no_run
    /// # async fn example(mut server: mlx_embedded::EmbeddedServer, config: mlx_types::config::NatsConfig) -> mlx_errors::Result<()> {
    /// server.reload(&config.user("ann").password("a new one")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If `config` breaks a rule, changes what a running server cannot change, or is refused by the server; it then
    /// runs on as before. So it does where it did not confirm the settings within 5 s: it is then given those of before.
    ///
    /// # Cancel safety
    /// Once polled, this goes on although the future is dropped: [`client_config`](Self::client_config) then follows by itself,
    /// as soon as the server has taken the settings on.
    pub async fn reload(&mut self, config: &NatsConfig) -> Result<()> {
        check(config)?;
        let task =
            reload(self.commands.downgrade(), Arc::clone(&self.reloading), Arc::clone(&self.config), config.clone());
        // Not on the runtime of the caller, which may end with it.
        let reloaded = thread::handle()?.spawn(task.with_current_subscriber()).await;
        reloaded.unwrap_or_else(|_| Err(not_running()))
    }

    /// Ends the server in good order, or by force if it is not gone within `timeout`. Returns when it is gone.
    ///
    /// One that has failed or ended before is no error.
    ///
    /// ```no_run
    /// # async fn example(server: mlx_embedded::EmbeddedServer) -> mlx_errors::Result<()> {
    /// server.stop(std::time::Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future kills the server.
    pub async fn stop(self, timeout: Duration) -> Result<()> {
        self.end(Farewell::None, timeout).await
    }

    /// [`stop`](Self::stop) with a warning first ("lame duck"): new clients are turned away, and those connected are told
    /// that this server is about to go, so that they move to another one of their cluster. Those that are still there a
    /// second later are disconnected one by one, at the least one a second and all within half a minute.
    ///
    /// ```no_run
    /// # async fn example(server: mlx_embedded::EmbeddedServer) -> mlx_errors::Result<()> {
    /// server.stop_lame_duck(std::time::Duration::from_secs(40)).await?; // clients move to another server of the cluster
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stop_lame_duck(self, timeout: Duration) -> Result<()> {
        self.end(Farewell::LameDuck, timeout).await
    }

    /// Keeps `folder` for as long as it runs.
    pub(crate) fn keep(&mut self, folder: Arc<TempDir>) {
        self.folder = Some(folder);
    }

    async fn end(self, farewell: Farewell, timeout: Duration) -> Result<()> {
        let (done, stopped) = oneshot::channel();
        // A `Duration` may go further than an `Instant`.
        let deadline = Instant::now() + timeout.min(FOR_EVER);
        if self.commands.send(Command::Stop { farewell, deadline, done }).await.is_ok() {
            // An error means that it was gone before the command came.
            let _ = stopped.await;
        }
        Ok(())
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        kill(&self.commands);
    }
}

/// Puts `config` in force at the server, then stores it in `current`.
async fn reload(
    commands: mpsc::WeakSender<Command>,
    reloading: Arc<tokio::sync::Mutex<()>>,
    current: Arc<Mutex<NatsConfig>>,
    config: NatsConfig,
) -> Result<()> {
    let _alone = reloading.lock().await;
    // Weak, so that the last handle is still the one that ends the server.
    let give = async |command| match commands.upgrade() {
        Some(commands) => commands.send(command).await.map_err(|_| not_running()),
        None => Err(not_running()),
    };
    let (done, settings) = oneshot::channel();
    give(Command::Settings { done }).await?;
    let settings = Box::new(settings.await.map_err(|_| not_running())?.reloaded(&config).map_err(|keys| {
        failed(format!("a running server cannot change {}; stop it and start another", keys.join(", ")))
    })?);
    let (done, outcome) = oneshot::channel();
    give(Command::Reload { settings, log_level: config.embedded.log_level, done }).await?;
    outcome.await.map_err(|_| not_running())??;
    *current.lock() = config;
    // The server tells nobody of another limit.
    mlx_nats::refresh_limits().await;
    Ok(())
}

fn not_running() -> Error {
    failed("it is not running, so that it cannot reload its settings".to_owned())
}

/// Kills what the supervisor at the other end of `commands` runs, and waits for it.
fn kill(commands: &mpsc::Sender<Command>) {
    let (done, killed) = std::sync::mpsc::sync_channel(1);
    // A full channel or none at all: the supervisor ends by itself as soon as the last sender is gone.
    if commands.try_send(Command::Kill { done }).is_ok() {
        let _ = killed.recv_timeout(DROP_LIMIT);
    }
}

/// A server to be started.
///
/// ```no_run
/// # async fn example(config: mlx_types::config::NatsConfig) -> mlx_errors::Result<()> {
/// use mlx_embedded::{EmbeddedServer, Finder};
///
/// let server = EmbeddedServer::builder(&config)
///     .finder(Finder::default().setting(std::path::PathBuf::from("/opt/nats/nats-server")))
///     .generate_credentials()
///     .start()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    config: NatsConfig,
    guard: OrphanGuard,
    finder: Option<Finder>,
    private: bool,
    cluster: Option<Cluster>,
}

impl Builder {
    /// Searches for the binary with `finder`, instead of through this process's environment.
    #[must_use]
    pub fn finder(mut self, finder: Finder) -> Self {
        self.finder = Some(finder);
        self
    }

    /// What ends the server if this process dies; the platform's best by default.
    #[must_use]
    pub fn orphan_guard(mut self, guard: OrphanGuard) -> Self {
        self.guard = guard;
        self
    }

    /// Where the configuration has no credentials, makes up a user and a password that only
    /// [`EmbeddedServer::client_config`] knows, so that no other user of this machine can connect.
    #[must_use]
    pub fn generate_credentials(mut self) -> Self {
        self.private = true;
        self
    }

    pub(crate) fn cluster(mut self, cluster: Cluster) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Starts the server and waits until it answers; see [`EmbeddedServer::start`] for errors and cancel safety.
    pub async fn start(self) -> Result<EmbeddedServer> {
        Ok(self.start_beside(|_| std::future::ready(())).await?.0)
    }

    /// [`start`](Self::start), and what `beside` comes to, which begins as soon as the server listens, with the
    /// configuration for its clients. A server that answers one of them is proved by another at the same time.
    pub(crate) async fn start_beside<F: Future>(
        self,
        beside: impl FnOnce(NatsConfig) -> F,
    ) -> Result<(EmbeddedServer, F::Output)> {
        let Self { mut config, guard, finder, private, cluster } = self;
        if private && config.user.is_none() && config.token.is_none() {
            config.user = Some(format!("embedded-{}", uuid::Uuid::new_v4().simple()));
            config.password = Some(generated_password());
        }
        check(&config)?;
        let finder = finder.unwrap_or_else(|| Finder::from_process(config.embedded.binary.clone()));
        let shared = Arc::new(Shared::new());
        let (commands, received) = mpsc::channel(8);
        let (found, binary) = oneshot::channel();
        let (started, endpoints) = oneshot::channel();
        let task = {
            let shared = Arc::clone(&shared);
            let config = config.clone();
            let restart = config.embedded.restart;
            async move {
                let prepared = prepare(finder, config, cluster, guard, &shared).await;
                match prepared {
                    Ok((binary, launcher)) => {
                        let _ = found.send(binary);
                        supervise(launcher, restart, received, shared, started).await;
                    }
                    Err(error) => {
                        shared.state.send_replace(ServerState::Failed(Arc::new(Error::new(error.kind().clone()))));
                        let _ = started.send(Err(error));
                    }
                }
            }
        };
        // Events go where those of the caller go, and not only where those of the supervising thread do.
        thread::handle()?.spawn(task.with_current_subscriber());

        // A caller that goes away takes `commands` with it, which ends the task.
        let lost = || failed("its supervisor was lost".to_owned());
        let ready = async { endpoints.await.map_err(|_| lost())? };
        let beside = async {
            let url = client_url(&config, shared.listening().await.client)?;
            Ok(beside(client_config(&config, url)).await)
        };
        // The first error ends both: whatever a client meets at a server that fails, its own words say more.
        let (endpoints, beside) = tokio::try_join!(ready, beside)?;
        let binary = binary.await.map_err(|_| lost())?;
        let url = client_url(&config, endpoints.client)?;
        let (config, reloading) = (Arc::new(Mutex::new(config)), Arc::default());
        Ok((EmbeddedServer { commands, shared, endpoints, url, config, reloading, binary, folder: None }, beside))
    }
}

async fn prepare(
    finder: Finder,
    config: NatsConfig,
    cluster: Option<Cluster>,
    guard: OrphanGuard,
    shared: &Arc<Shared>,
) -> Result<(Binary, Launcher)> {
    let start_timeout = config.embedded.start_timeout_ms.as_duration();
    let log_level = config.embedded.log_level;
    let events = tracing::dispatcher::get_default(Clone::clone);
    // Both take their time, so at once: the hash of a password, and the search, where it has to ask a binary.
    let settings = tokio::task::spawn_blocking(move || Settings { cluster, ..Settings::new(&config) });
    let found = tokio::task::spawn_blocking(move || tracing::dispatcher::with_default(&events, || finder.find()));
    let binary = found.await.map_err(|error| Error::with_source(internal("the search for nats-server"), error))??;
    tracing::debug!(path = %binary.path.display(), version = %binary.version, origin = %binary.origin, "found nats-server");
    let settings = settings.await.map_err(|error| Error::with_source(internal("the rendering of settings"), error))?;
    let shared = Arc::clone(shared);
    let launcher = Launcher::prepare(binary.path.clone(), settings, guard, start_timeout, log_level, shared)?;
    Ok((binary, launcher))
}

/// The rules of the configuration, and those of embedded mode.
fn check(config: &NatsConfig) -> Result<()> {
    let mut violations: Vec<Violation> = config.check().err().iter().flatten().cloned().collect();
    let mut refuse = |path: &str, rule: &str, message: &str| {
        violations.push(Violation::new(path, rule, message));
    };
    if config.mode == NatsMode::External {
        refuse("mode", "embedded", "external mode connects to a server that runs elsewhere, and starts none");
    }
    for (path, set) in
        [("credentialsFile", config.credentials_file.is_some()), ("nkeySeedFile", config.nkey_seed_file.is_some())]
    {
        if set {
            let message =
                "an embedded server takes `nats.user` and `nats.password`, or `nats.token`; this is for external mode";
            refuse(path, "embedded", message);
        }
    }
    if violations.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::ConfigValidation { violations: Violations::from(violations).within("nats") }))
}

fn client_config(config: &NatsConfig, url: NatsUrl) -> NatsConfig {
    config.clone().mode(NatsMode::External).server_url(url)
}

fn client_url(config: &NatsConfig, address: SocketAddr) -> Result<NatsUrl> {
    let scheme = if config.tls.cert_file.is_some() { Scheme::Tls } else { Scheme::Nats };
    // A certificate is made out to a name, so a name stays; an address may be one that only binds, like 0.0.0.0.
    let host = Some(config.embedded.host.clone()).filter(|host| host.parse::<IpAddr>().is_err());
    let host = host.unwrap_or_else(|| address.ip().to_string());
    NatsUrl::new(scheme, &host, address.port()).map_err(|error| {
        Error::with_source(ErrorKind::Internal { reason: "a bound address makes no URL".into() }, error)
    })
}

/// 244 random bits, in letters and digits.
pub(crate) fn generated_password() -> Secret<String> {
    Secret::new(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()))
}

fn failed(reason: String) -> Error {
    Error::new(ErrorKind::EmbeddedServer { reason })
}

fn internal(what: &str) -> ErrorKind {
    ErrorKind::Internal { reason: format!("{what} panicked") }
}
