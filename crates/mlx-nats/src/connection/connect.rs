//! Making the first connection: servers, credentials, TLS, and errors that say which step failed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use mlx_errors::{ConnectStep, Error, ErrorKind, Result};
use mlx_types::config::{NatsConfig, NatsMode};
use mlx_types::{NatsUrl, Scheme};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Input;
use super::backoff::Backoff;
use super::refusal::{failed, refused};
use crate::ClientOptions;

/// A fresh connection and what it will tell about itself.
pub(crate) struct Transport {
    pub(crate) nats: async_nats::Client,
    pub(crate) inputs: mpsc::UnboundedReceiver<Input>,
    /// For inputs that come from the user.
    pub(crate) inputs_sender: mpsc::UnboundedSender<Input>,
}

/// Connects to one of the configured servers within `connectTimeoutMs`.
pub(crate) async fn connect(config: &NatsConfig, options: &ClientOptions) -> Result<Transport> {
    let servers = servers(config)?;
    let shown = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    // Without credentials: async-nats logs the addresses that it is given.
    let addresses = servers
        .iter()
        .map(|server| server.as_str_without_credentials().parse::<async_nats::ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&shown, ConnectStep::Resolve, "check `nats.serverUrl`", error))?;

    let (sender, inputs) = mpsc::unbounded_channel();
    let transport = transport_options(config, options, &servers, &shown, &sender).await?;
    let limit = config.connect_timeout_ms.as_duration();
    // Boxed, because it is some 10 KiB that every future around it would have to carry.
    let connecting = Box::pin(transport.connect(addresses));
    match timeout(limit, connecting).await {
        Ok(Ok(nats)) => Ok(Transport { nats, inputs, inputs_sender: sender }),
        Ok(Err(error)) => Err(refused(config, &shown, &error)),
        Err(_) => Err(Error::new(ErrorKind::Connection {
            server: shown,
            step: ConnectStep::Connect,
            hint: format!("no answer within {} ms (`nats.connectTimeoutMs`)", limit.as_millis()),
        })),
    }
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
    Err(Error::new(ErrorKind::Connection {
        server: "no server".to_owned(),
        step: ConnectStep::Resolve,
        hint: "set `nats.serverUrl` or `nats.servers`".to_owned(),
    }))
}

async fn transport_options(
    config: &NatsConfig,
    options: &ClientOptions,
    servers: &[NatsUrl],
    shown: &str,
    inputs: &mpsc::UnboundedSender<Input>,
) -> Result<ConnectOptions> {
    let once_connected = Arc::new(AtomicBool::new(false));
    let mut transport = ConnectOptions::new()
        .connection_timeout(config.connect_timeout_ms.as_duration())
        .ping_interval(config.ping_interval_ms.as_duration())
        .subscription_capacity(options.subscription_capacity)
        .max_reconnects(attempts(config, servers.len()))
        .reconnect_delay_callback(reconnect_delay(config, Arc::clone(&once_connected), inputs.clone()))
        .event_callback(event_forwarder(once_connected, inputs.clone()))
        // Ours are checked when they are made; text is checked in `address`.
        .skip_subject_validation(true);
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

/// How often async-nats may try before it gives up. The first connection tries each server once, whatever is configured.
fn attempts(config: &NatsConfig, servers: usize) -> usize {
    let configured = if config.reconnect { config.max_reconnect_attempts as usize } else { 1 };
    configured.max(servers)
}

/// Tells the manager of each attempt, and how long to wait for it.
fn reconnect_delay(
    config: &NatsConfig,
    once_connected: Arc<AtomicBool>,
    inputs: mpsc::UnboundedSender<Input>,
) -> impl Fn(usize) -> Duration + Send + Sync + 'static {
    let backoff = Backoff::new(config.reconnect_time_wait.as_duration());
    let reconnect = config.reconnect;
    move |attempt| {
        let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
        let _ = inputs.send(Input::Attempt(attempt));
        // The first connection is made without waiting, and so is the one that only lets a closed client go.
        if !reconnect || !once_connected.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        backoff.delay(attempt, fastrand::f64())
    }
}

/// Turns async-nats' events into inputs. It only sends to an unbounded queue, so that async-nats' own bounded queue
/// of events, which drops what does not fit, never fills behind it.
fn event_forwarder(
    once_connected: Arc<AtomicBool>,
    inputs: mpsc::UnboundedSender<Input>,
) -> impl Fn(Event) -> std::future::Ready<()> + Send + Sync + 'static {
    move |event| {
        let input = match event {
            Event::Connected => {
                once_connected.store(true, Ordering::Relaxed);
                Some(Input::TransportUp)
            }
            Event::Disconnected => Some(Input::TransportDown),
            Event::ClientError(async_nats::ClientError::MaxReconnects) => Some(Input::GaveUp),
            Event::ClientError(async_nats::ClientError::Other(kind)) => {
                Some(Input::AttemptFailed { authentication: is_authentication(&kind) })
            }
            Event::ServerError(error) => {
                tracing::warn!(%error, "the NATS server reports an error");
                None
            }
            Event::LameDuckMode => {
                tracing::info!("the NATS server is about to shut down and asks its clients to move");
                None
            }
            _ => None,
        };
        if let Some(input) = input {
            // The receiver is gone only when the client is.
            let _ = inputs.send(input);
        }
        std::future::ready(())
    }
}

/// async-nats hands on only the text of what went wrong while it reconnects.
fn is_authentication(kind: &str) -> bool {
    kind == ConnectErrorKind::AuthorizationViolation.to_string() || kind == ConnectErrorKind::Authentication.to_string()
}
