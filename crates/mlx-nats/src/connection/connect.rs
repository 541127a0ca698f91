//! Making the first connection: servers, credentials, TLS, and errors that say which step failed.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use async_nats::{ConnectOptions, Event, ReconnectToServer, Server, ServerError, ServerInfo};
use mlx_errors::{ConnectStep, Error, ErrorCode, ErrorKind, Result};
use mlx_types::config::{DiscoveredServers, NatsConfig, NatsMode};
use mlx_types::{NatsUrl, Scheme, Subject};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::Link;
use super::backoff::Backoff;
use super::limit::PayloadLimit;
use super::manager::Signal;
use super::reconnect::{Dispatcher, nowhere};
use super::refusal::{failed, refused};
use super::refusals::Refusals;
use crate::ClientOptions;
use crate::inbox::{Inbox, unique_inbox};

/// What the transport holds for a subscription until its task moves it on. A burst that fills this is dropped by the
/// transport, which cannot say how much it was, so it has room for whatever is read in one turn: 8 MiB of messages of
/// no more than 32 bytes.
const TRANSPORT_CAPACITY: usize = 262_144;

/// Messages that the transport holds for each subscription.
pub(crate) fn transport_capacity(options: &ClientOptions) -> usize {
    // A channel takes no more, and panics.
    options.subscription_capacity.clamp(TRANSPORT_CAPACITY, Semaphore::MAX_PERMITS)
}

/// A fresh connection and what it will tell about itself.
pub(crate) struct Transport {
    pub(crate) nats: async_nats::Client,
    pub(crate) link: Arc<Link>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) limit: Arc<PayloadLimit>,
    pub(crate) signals: mpsc::UnboundedReceiver<Signal>,
    /// For signals that come from the user.
    pub(crate) signals_sender: mpsc::UnboundedSender<Signal>,
}

/// Connects to one of the configured servers within `connectTimeoutMs`, which those not tried yet share.
pub(crate) async fn connect(config: &NatsConfig, options: &ClientOptions) -> Result<Transport> {
    // A configuration that was not loaded has not been checked.
    Subject::<()>::new(config.inbox_prefix.as_str())?;
    let servers = servers(config)?;
    let shown = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    // Without credentials: async-nats logs the addresses that it is given.
    let mut addresses = servers
        .iter()
        .map(|server| server.as_str_without_credentials().parse::<async_nats::ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&shown, ConnectStep::Resolve, "check `nats.serverUrl`", error))?;
    addresses.extend(nowhere());

    let limit = attempts(config, servers.len());
    let backoff = Backoff::new(config.reconnect_time_wait.as_duration());
    let link = Arc::new(Link::new());
    let dispatcher = Arc::new(Dispatcher::new(backoff, config.reconnect, limit, Arc::clone(&link)));
    let (sender, signals) = mpsc::unbounded_channel();
    let inbox = Arc::new(Inbox::new(&unique_inbox(&config.inbox_prefix)));
    let refusals = Arc::new(Refusals::new(Arc::clone(&inbox)));
    let transport = transport_options(config, options, &servers, &shown).await?;
    let transport = transport
        .max_reconnects(limit as usize)
        .reconnect_to_server_callback(reconnect(Arc::clone(&dispatcher), sender.clone()))
        .event_callback(event_forwarder(sender.clone(), Arc::clone(&refusals)));

    let deadline = Instant::now() + config.connect_timeout_ms.as_duration();
    let mut places: Vec<usize> = (0..servers.len()).collect();
    fastrand::shuffle(&mut places);
    let mut failure = None;
    while let Some(place) = places.pop() {
        dispatcher.first(place);
        let share = deadline.saturating_duration_since(Instant::now()) / u32::try_from(places.len() + 1).unwrap_or(1);
        // Boxed, because it is some 10 KiB that every future around it would have to carry.
        let connecting = Box::pin(transport.clone().connect(addresses.clone()));
        let error = match timeout(share, connecting).await {
            Ok(Ok(nats)) => {
                let limit = PayloadLimit::new(config, Arc::clone(&dispatcher));
                return Ok(Transport {
                    nats,
                    link,
                    inbox,
                    refusals,
                    dispatcher,
                    limit,
                    signals,
                    signals_sender: sender,
                });
            }
            Ok(Err(error)) => refused(config, &shown, &error),
            Err(_) => Error::new(ErrorKind::Connection {
                server: shown.clone(),
                step: ConnectStep::Connect,
                hint: format!("no answer within {} ms (`nats.connectTimeoutMs`)", config.connect_timeout_ms),
            }),
        };
        // That credentials are refused says more than that another server is down.
        if failure.as_ref().is_none_or(|failure: &Error| failure.code() != ErrorCode::NatsAuthentication) {
            failure = Some(error);
        }
    }
    Err(failure.unwrap_or_else(no_server))
}

fn no_server() -> Error {
    Error::new(ErrorKind::Connection {
        server: "no server".to_owned(),
        step: ConnectStep::Resolve,
        hint: "set `nats.serverUrl` or `nats.servers`".to_owned(),
    })
}

fn servers(config: &NatsConfig) -> Result<Vec<NatsUrl>> {
    let urls = config.urls();
    if !urls.is_empty() {
        return Ok(urls.to_vec());
    }
    if config.mode == NatsMode::Embedded && config.embedded.port != 0 {
        let host = &config.embedded.host;
        let url = NatsUrl::new(Scheme::Nats, host, config.embedded.port);
        return url
            .map(|url| vec![url])
            .map_err(|error| failed(host, ConnectStep::Resolve, "check `nats.embedded.host`", error));
    }
    Err(no_server())
}

async fn transport_options(
    config: &NatsConfig,
    options: &ClientOptions,
    servers: &[NatsUrl],
    shown: &str,
) -> Result<ConnectOptions> {
    let mut transport = ConnectOptions::new()
        .connection_timeout(config.connect_timeout_ms.as_duration())
        .ping_interval(config.ping_interval_ms.as_duration())
        .subscription_capacity(transport_capacity(options))
        .custom_inbox_prefix(config.inbox_prefix.clone())
        // Ours are checked when they are made; text is checked in `address`.
        .skip_subject_validation(true);
    if config.tls.handshake_first {
        transport = transport.tls_first();
    }
    if config.discovered_servers == DiscoveredServers::Ignore {
        transport = transport.ignore_discovered_servers();
    }
    if let Some(name) = &options.name {
        transport = transport.name(name);
    }
    if let Some(ca) = &config.tls.ca_file {
        transport = transport.add_root_certificates(ca.clone());
    }
    if let (Some(certificate), Some(key)) = (&config.tls.cert_file, &config.tls.key_file) {
        transport = transport.add_client_certificate(certificate.clone(), key.clone());
    }
    with_credentials(transport, config, servers, shown).await
}

/// The credentials of the configuration, or else those of the first URL that has some.
async fn with_credentials(
    transport: ConnectOptions,
    config: &NatsConfig,
    servers: &[NatsUrl],
    shown: &str,
) -> Result<ConnectOptions> {
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        return Ok(transport.user_and_password(user.clone(), password.expose().clone()));
    }
    if let Some(token) = &config.token {
        return Ok(transport.token(token.expose().clone()));
    }
    if let Some(file) = &config.credentials_file {
        let text = read_secret(file, shown, "nats.credentialsFile").await?;
        return transport.credentials(&text).map_err(|error| {
            failed(shown, ConnectStep::Authenticate, "`nats.credentialsFile` is not a credentials file", error)
        });
    }
    if let Some(file) = &config.nkey_seed_file {
        let seed = read_secret(file, shown, "nats.nkeySeedFile").await?;
        return Ok(transport.nkey(seed.trim().to_owned()));
    }
    for server in servers {
        if let (Some(user), Some(password)) = (server.username(), server.password()) {
            return Ok(transport.user_and_password(user.to_owned(), password.expose().clone()));
        }
        if let Some(token) = server.token() {
            return Ok(transport.token(token.expose().clone()));
        }
    }
    Ok(transport)
}

async fn read_secret(file: &Path, shown: &str, setting: &str) -> Result<String> {
    tokio::fs::read_to_string(file).await.map_err(|error| {
        let hint = format!("cannot read {} (`{setting}`)", file.display());
        failed(shown, ConnectStep::Authenticate, &hint, error)
    })
}

/// How often async-nats may try before it gives up; it takes 0 for "for ever".
fn attempts(config: &NatsConfig, servers: usize) -> u32 {
    let configured = if config.reconnect { config.max_reconnect_attempts } else { 1 };
    configured.max(u32::try_from(servers).unwrap_or(u32::MAX))
}

/// Answers the transport's question for a server.
fn reconnect(
    dispatcher: Arc<Dispatcher>,
    signals: mpsc::UnboundedSender<Signal>,
) -> impl Fn(Vec<Server>, ServerInfo) -> Asking + Send + Sync + 'static {
    move |servers, info| Box::pin(dispatcher.next(&servers, &info, &signals))
}

type Asking = Pin<Box<dyn Future<Output = Option<ReconnectToServer>> + Send + Sync>>;

/// Turns async-nats' events into signals. It only sends to an unbounded queue, so that async-nats' own bounded queue
/// of events, which drops what does not fit, hardly ever fills behind it.
fn event_forwarder(
    signals: mpsc::UnboundedSender<Signal>,
    refusals: Arc<Refusals>,
) -> impl Fn(Event) -> std::future::Ready<()> + Send + Sync + 'static {
    move |event| {
        // At once, and not by way of the manager: whoever waits on what was refused is about to look.
        refusals.hear();
        let answered = match &event {
            Event::Connected => {
                refusals.renewed();
                false
            }
            Event::ServerError(ServerError::Other(said)) => refusals.heard(said),
            _ => false,
        };
        // What answers a question of our own is no news.
        if answered {
            return std::future::ready(());
        }
        let signal = match event {
            Event::Connected => Some(Signal::Up),
            Event::Disconnected => Some(Signal::Down),
            Event::ServerError(error) => Some(Signal::ServerError(error.to_string())),
            Event::LameDuckMode => Some(Signal::LameDuckMode),
            Event::SlowConsumer(_) => Some(Signal::Overflow),
            // Failed attempts are told by the dispatcher, the end by us.
            Event::ClientError(_) | Event::Draining | Event::Closed => None,
        };
        if let Some(signal) = signal {
            // The receiver is gone only when the client is.
            let _ = signals.send(signal);
        }
        std::future::ready(())
    }
}
