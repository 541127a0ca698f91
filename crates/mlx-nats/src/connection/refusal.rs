//! Errors of the first connection: which step failed, and which setting to look at.

use std::error::Error as StdError;
use std::io;

use async_nats::ConnectErrorKind;
use async_nats::rustls;
use mlx_errors::{ConnectStep, Error, ErrorKind};
use mlx_types::config::NatsConfig;
use mlx_types::{NatsUrl, Scheme};

/// Explains async-nats' `error` to the author of `config`.
pub(super) fn refused(config: &NatsConfig, shown: &str, error: &async_nats::ConnectError) -> Error {
    let cause = Cause(innermost(error));
    let (step, hint) = match error.kind() {
        ConnectErrorKind::AuthorizationViolation => {
            let hint = credentials_hint(config).to_owned();
            return Error::with_source(ErrorKind::Authentication { server: shown.to_owned(), hint }, cause);
        }
        // Said before anything is sent: a seed that does not sign.
        ConnectErrorKind::Authentication => {
            (ConnectStep::Authenticate, "`nats.nkeySeedFile` or `nats.credentialsFile` holds no valid seed")
        }
        ConnectErrorKind::ServerParse | ConnectErrorKind::Dns => {
            (ConnectStep::Resolve, "check the host name in `nats.serverUrl`")
        }
        ConnectErrorKind::Tls => (
            ConnectStep::Tls,
            "check the files of `nats.tls.caFile`, `nats.tls.certFile` and `nats.tls.keyFile`, and the host name",
        ),
        ConnectErrorKind::TimedOut => {
            let hint = "something listens there, but no NATS server answered in time; one with `handshake_first` in its settings \
                        wants `nats.tls.handshakeFirst: true`";
            (ConnectStep::Connect, hint)
        }
        // async-nats takes a failed handshake for a failed read.
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => match tls_hint(config, error) {
            Some(hint) => (ConnectStep::Tls, hint),
            None => (ConnectStep::Connect, "is a nats-server running there?"),
        },
    };
    failed(shown, step, hint, cause)
}

/// An attempt that ended at `step`.
pub(super) fn failed(server: &str, step: ConnectStep, hint: &str, cause: impl Into<mlx_errors::BoxError>) -> Error {
    Error::with_source(ErrorKind::Connection { server: server.to_owned(), step, hint: hint.to_owned() }, cause)
}

/// The setting that the refused credentials came from.
fn credentials_hint(config: &NatsConfig) -> &'static str {
    if config.user.is_some() {
        "check `nats.user` and `nats.password`"
    } else if config.token.is_some() {
        "check `nats.token`"
    } else if config.credentials_file.is_some() {
        "check that it knows the account and user of `nats.credentialsFile`"
    } else if config.nkey_seed_file.is_some() {
        "check that it knows the public key of `nats.nkeySeedFile`"
    } else if config.urls().iter().any(NatsUrl::has_credentials) {
        "check those in `nats.serverUrl` or `nats.servers`"
    } else {
        "it wants some: `nats.user` and `nats.password`, `nats.token`, `nats.credentialsFile` or `nats.nkeySeedFile`"
    }
}

/// What to look at where TLS failed; `None` where something else did.
fn tls_hint(config: &NatsConfig, error: &async_nats::ConnectError) -> Option<&'static str> {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    const REFUSED: &str = "it may want another certificate than that of `nats.tls.certFile`, or one at all; or TLS before its \
                           first line, as servers with `handshake_first` do: `nats.tls.handshakeFirst: true`";

    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match cause.and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
            Some("its certificate is for another name than the host in `nats.serverUrl`")
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            Some("its certificate has to be valid, and its authority that of `nats.tls.caFile` or known to the system")
        }
        Some(rustls::Error::InvalidMessage(_)) => Some(if config.tls.handshake_first {
            "it greets before TLS: `nats.tls.handshakeFirst` is for servers with `handshake_first` in their settings"
        } else {
            "it seems not to speak TLS; for a server without, use `nats://`"
        }),
        Some(rustls::Error::AlertReceived(_)) => Some(REFUSED),
        Some(_) => Some("check `nats.tls` and the server's TLS settings"),
        // A server may close before its alert is read; only the configuration can tell then.
        None => (uses_tls(config) && was_closed(cause)).then_some(REFUSED),
    }
}

fn uses_tls(config: &NatsConfig) -> bool {
    config.tls.ca_file.is_some() || config.urls().iter().any(|url| url.scheme() == Scheme::Tls)
}

/// Whether the other side hung up on us; that it closed at a boundary of messages comes without an I/O error.
fn was_closed(cause: Option<&io::Error>) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    cause.is_none_or(|error| matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}

/// The root of async-nats' chain as text: its own types stay out of our API, and its Display repeats its sources.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

fn innermost(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
