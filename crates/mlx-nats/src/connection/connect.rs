//! Making the first connection: servers, credentials, TLS, and errors that say which step failed.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_nats::{ConnectOptions, Event, ReconnectToServer, Server, ServerAddr, ServerError, ServerInfo};
use futures_util::future::join_all;
use mlx_errors::{ConnectStep, Error, ErrorCode, ErrorKind, Result, Violations};
use mlx_types::config::{DiscoveredServers, NatsConfig, NatsMode};
use mlx_types::{NatsUrl, Scheme, Subject};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::Link;
use super::backoff::Backoff;
use super::credentials::{Proof, proof};
use super::limit::PayloadLimit;
use super::manager::Signal;
use super::reconnect::{self, Dispatcher, LARGE, nowhere};
use super::refusal::{failed, refused};
use super::refusals::Refusals;
use super::scout::{self, Target};
use crate::wire::inbox::{Inbox, unique_inbox};

/// What the transport holds for a subscription until its task moves it on. A burst that fills this is dropped by the
/// transport, which cannot say how much it was, so it has room for whatever is read in one turn: 8 MiB of messages of
/// no more than 32 bytes.
const TRANSPORT_CAPACITY: usize = 262_144;

/// What of a client's options is the transport's.
#[derive(Clone, Debug)]
pub(crate) struct TransportOptions {
    /// The name shown by the server's monitoring.
    pub(crate) name: Option<String>,
    /// Messages that a subscription holds for a slow reader.
    pub(crate) subscription_capacity: usize,
}

/// Messages that the transport holds for each subscription, of which a client holds so many.
pub(crate) fn transport_capacity(subscription_capacity: usize) -> usize {
    // A channel takes no more, and panics.
    subscription_capacity.clamp(TRANSPORT_CAPACITY, Semaphore::MAX_PERMITS)
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
pub(crate) async fn connect(config: &NatsConfig, options: &TransportOptions) -> Result<Transport> {
    // A configuration that was not loaded has not been checked.
    Subject::<()>::new(config.inbox_prefix.as_str())?;
    let servers = servers(config)?;
    let invalid =
        |violations: Violations| Error::new(ErrorKind::ConfigValidation { violations: violations.within("nats") });
    config.check().map_err(invalid)?;
    let shown = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    // Without credentials: async-nats logs the addresses that it is given.
    let mut addresses = servers
        .iter()
        .map(|server| server.as_str_without_credentials().parse::<async_nats::ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&shown, ConnectStep::Resolve, "check `nats.serverUrl`", error))?;
    let names = addresses_of_names(config, &mut addresses).await;
    let places_in_all = addresses.len();
    addresses.extend(nowhere());

    let limit = attempts(config, servers.len());
    let backoff = Backoff::new(config.reconnect_time_wait.as_duration());
    let link = Arc::new(Link::new());
    let known = names.addresses.clone();
    let dispatcher =
        Arc::new(Dispatcher::new(backoff, config.reconnect, limit, config.tls.handshake_first, known.clone()));
    let (sender, signals) = mpsc::unbounded_channel();
    let inbox = Arc::new(Inbox::new(&unique_inbox(&config.inbox_prefix)));
    let refusals = Arc::new(Refusals::new(Arc::clone(&inbox)));
    check_files(config, &shown).await?;
    let transport = transport_options(config, options, &dispatcher)
        // Each address of a name gets its share.
        .connection_timeout(config.connect_timeout_ms.as_duration() / names.most)
        .max_reconnects(limit.min(LARGE) as usize)
        .reconnect_to_server_callback(reconnect(Arc::clone(&dispatcher), sender.clone()))
        .event_callback(event_forwarder(sender.clone(), Arc::clone(&refusals)));

    let deadline = Instant::now() + config.connect_timeout_ms.as_duration();
    let mut places: Vec<usize> = (0..places_in_all).collect();
    fastrand::shuffle(&mut places);
    if places.len() > 1 {
        put_first_to_answer_last(config, &addresses, &known, &mut places, deadline).await;
    }
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
                hint: format!("no answer within {} (`nats.connectTimeoutMs`)", config.connect_timeout_ms),
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
        server: "a NATS server".to_owned(),
        step: ConnectStep::Resolve,
        hint: "none is configured: set `nats.serverUrl` or `nats.servers`".to_owned(),
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

/// What is known of the names of the servers.
struct Names {
    /// The addresses of those that have several, and their names.
    addresses: HashMap<String, ServerAddr>,
    /// The most addresses that one has which is tried by its name.
    most: u32,
}

/// Adds the addresses of names with several, so that each can be tried by itself. Not for TLS, whose certificates are for names.
async fn addresses_of_names(config: &NatsConfig, servers: &mut Vec<ServerAddr>) -> Names {
    let mut names = Names { addresses: HashMap::new(), most: 1 };
    let found: Vec<_> =
        join_all(servers.iter().map(async |server| (server.clone(), scout::addresses(server).await))).await;
    for (named, addresses) in found {
        if addresses.len() < 2 {
            continue;
        }
        names.most = names.most.max(u32::try_from(addresses.len()).unwrap_or(u32::MAX));
        if named.tls_required() || config.tls.handshake_first || config.tls.ca_file.is_some() {
            continue;
        }
        for address in addresses {
            let Ok(address) = format!("nats://{address}").parse::<ServerAddr>() else { continue };
            if !servers.iter().any(|known| reconnect::name(known) == reconnect::name(&address)) {
                names.addresses.insert(reconnect::name(&address), named.clone());
                servers.push(address);
            }
        }
    }
    names
}

/// Puts the server that answers at the end of `places`, from where they are taken.
async fn put_first_to_answer_last(
    config: &NatsConfig,
    addresses: &[ServerAddr],
    names: &HashMap<String, ServerAddr>,
    places: &mut Vec<usize>,
    deadline: Instant,
) {
    let target = |place: &usize| {
        let addr = addresses.get(*place)?.clone();
        let is_address_of_name = names.contains_key(&reconnect::name(&addr));
        Some(Target { addr, is_address_of_name, is_configured: true })
    };
    // Names whose addresses are tried by themselves come behind these.
    places.sort_by_key(|place| addresses.get(*place).is_some_and(|addr| names.values().any(|name| name == addr)));
    let targets: Vec<Target> = places.iter().filter_map(target).collect();
    let asking = scout::first_to_answer(&targets, config.tls.handshake_first);
    let answered = tokio::time::timeout_at(deadline, asking).await;
    // From the end: names behind their addresses, and before all of them the one that has answered.
    places.reverse();
    if let Ok(Ok(place)) = answered
        && let Some(first) = places.len().checked_sub(place + 1)
    {
        let first = places.remove(first);
        places.push(first);
    }
}

fn transport_options(config: &NatsConfig, options: &TransportOptions, dispatcher: &Arc<Dispatcher>) -> ConnectOptions {
    let (shared, dispatcher) = (Arc::new(config.clone()), Arc::clone(dispatcher));
    // Asked at each attempt, so that files are read anew, and each server is shown what is meant for it.
    let credentials = move |nonce: Vec<u8>| {
        let (config, dispatcher) = (Arc::clone(&shared), Arc::clone(&dispatcher));
        async move {
            let Some(server) = dispatcher.current_addr() else { return Ok(async_nats::Auth::new()) };
            let proof = proof(&config, &server, dispatcher.met().as_ref(), &nonce).await;
            proof.map(Proof::into_auth).map_err(async_nats::AuthError::new)
        }
    };
    let mut transport = ConnectOptions::with_auth_callback(credentials)
        .ping_interval(config.ping_interval_ms.as_duration())
        .subscription_capacity(transport_capacity(options.subscription_capacity))
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
    transport
}

/// Says which file cannot be used before anything is sent.
async fn check_files(config: &NatsConfig, shown: &str) -> Result<()> {
    if config.credentials_file.is_none() && config.nkey_seed_file.is_none() {
        return Ok(());
    }
    let Some(nowhere) = nowhere() else { return Ok(()) };
    match proof(config, &nowhere, None, b"").await {
        Ok(_) => Ok(()),
        Err(fault) => Err(failed(shown, ConnectStep::Authenticate, &fault.hint, fault.cause)),
    }
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
        // At once, and not by way of the manager: the call that waits on what was refused is about to look.
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
