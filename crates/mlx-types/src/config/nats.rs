//! The connection to NATS.

use std::path::PathBuf;

use garde::Validate;
use mlx_errors::{Violation, Violations};
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EmbeddedConfig;
use super::rules::{is_loopback, nested, outcome, relation, subject_prefix};
use crate::check::bounds;
use crate::{Millis, NatsUrl, Secret};

/// An empty credential, as of a variable that is set to nothing, would let everybody in, or nobody.
#[cfg(feature = "schema")]
const NOT_EMPTY: &str = "must be a text that is not empty";

/// The connection to NATS: to a server that this node starts, or to one that runs elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct NatsConfig {
    /// `embedded` starts a nats-server of this node's own, `external` connects to `serverUrl` or `servers`.
    pub mode: NatsMode,
    /// The server to connect to in external mode.
    pub server_url: Option<NatsUrl>,
    /// The servers of a cluster to connect to in external mode, instead of `serverUrl`.
    #[garde(length(min = 1))]
    pub servers: Option<Vec<NatsUrl>>,
    /// The user to connect as; together with `password`.
    #[garde(length(min = 1))]
    #[cfg_attr(feature = "schema", schemars(extend("errorMessage" = NOT_EMPTY)))]
    pub user: Option<String>,
    /// The user's password; together with `user`.
    #[garde(length(min = 1))]
    #[cfg_attr(feature = "schema", schemars(extend("errorMessage" = NOT_EMPTY)))]
    pub password: Option<Secret<String>>,
    /// A token to connect with, instead of a user.
    #[garde(length(min = 1))]
    #[cfg_attr(feature = "schema", schemars(extend("errorMessage" = NOT_EMPTY)))]
    pub token: Option<Secret<String>>,
    /// A file of credentials (JWT and seed) to connect with.
    pub credentials_file: Option<PathBuf>,
    /// A file with the NKEY seed to connect with.
    pub nkey_seed_file: Option<PathBuf>,
    /// Certificates, and how TLS begins.
    #[garde(dive)]
    pub tls: TlsConfig,
    /// What the subjects of replies begin with, for users that may subscribe to a prefix of their own only.
    #[garde(custom(subject_prefix))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::rules::subject_prefix_schema"))]
    pub inbox_prefix: String,
    /// Whether servers that the connected server tells of are tried beside the configured ones.
    pub discovered_servers: DiscoveredServers,
    /// Whether a lost connection is made again.
    pub reconnect: bool,
    /// Attempts to connect again before giving up.
    #[garde(range(min = 1))]
    pub max_reconnect_attempts: u32,
    /// The first back-off step between attempts, in ms; it doubles from there, with jitter.
    pub reconnect_time_wait: Millis,
    /// How long one attempt to connect may take, in ms.
    pub connect_timeout_ms: Millis,
    /// How long a reply may take where a call does not say, in ms.
    pub request_timeout_ms: Millis,
    /// How often the server must show that it lives, in ms; a dead one is noticed within three intervals.
    pub ping_interval_ms: Millis,
    /// What becomes of messages published while there is no connection.
    pub publish_while_disconnected: PublishWhileDisconnected,
    /// Bytes kept at the most where `publishWhileDisconnected` is `buffer`.
    #[garde(range(min = 1))]
    pub publish_buffer_bytes: u64,
    /// The server that embedded mode starts.
    #[garde(dive)]
    pub embedded: EmbeddedConfig,
}

mlx_errors::setters! {
    NatsConfig {
        mode: set NatsMode,
        user: text,
        credentials_file: option PathBuf,
        nkey_seed_file: option PathBuf,
        tls: set TlsConfig,
        inbox_prefix: into String,
        discovered_servers: set DiscoveredServers,
        reconnect: set bool,
        max_reconnect_attempts: set u32,
        reconnect_time_wait: set Millis,
        connect_timeout_ms: set Millis,
        request_timeout_ms: set Millis,
        ping_interval_ms: set Millis,
        publish_while_disconnected: set PublishWhileDisconnected,
        publish_buffer_bytes: set u64,
        embedded: set EmbeddedConfig,
    }
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            mode: NatsMode::Embedded,
            server_url: None,
            servers: None,
            user: None,
            password: None,
            token: None,
            credentials_file: None,
            nkey_seed_file: None,
            tls: TlsConfig::default(),
            inbox_prefix: "_INBOX".to_owned(),
            discovered_servers: DiscoveredServers::Use,
            reconnect: true,
            max_reconnect_attempts: 10,
            reconnect_time_wait: Millis::of::<2000>(),
            connect_timeout_ms: Millis::of::<5000>(),
            request_timeout_ms: Millis::of::<5000>(),
            ping_interval_ms: Millis::of::<10_000>(),
            publish_while_disconnected: PublishWhileDisconnected::Fail,
            publish_buffer_bytes: 8 << 20,
            embedded: EmbeddedConfig::default(),
        }
    }
}

impl NatsConfig {
    /// Sets [`server_url`](Self#structfield.server_url), in place of any `servers`.
    #[must_use]
    pub fn server_url(self, url: NatsUrl) -> Self {
        Self { server_url: Some(url), servers: None, ..self }
    }

    /// Sets [`servers`](Self#structfield.servers), in place of any `server_url`.
    #[must_use]
    pub fn servers(self, urls: impl IntoIterator<Item = NatsUrl>) -> Self {
        Self { servers: Some(urls.into_iter().collect()), server_url: None, ..self }
    }

    /// Sets [`password`](Self#structfield.password).
    #[must_use]
    pub fn password(self, password: impl Into<Secret<String>>) -> Self {
        Self { password: Some(password.into()), ..self }
    }

    /// Sets [`token`](Self#structfield.token).
    #[must_use]
    pub fn token(self, token: impl Into<Secret<String>>) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// The URLs of external mode: `servers`, or `serverUrl` alone; empty where neither is set.
    pub fn urls(&self) -> &[NatsUrl] {
        match &self.servers {
            Some(servers) => servers,
            None => self.server_url.as_slice(),
        }
    }

    /// Checks every bound, and every rule between members.
    ///
    /// # Errors
    /// All that is broken, each with its path from here, for example `embedded.port`.
    pub fn check(&self) -> Result<(), Violations> {
        let mut violations: Vec<_> = bounds(self).err().iter().flatten().cloned().collect();
        violations.extend(self.relations());
        outcome(violations)
    }

    /// The rules between members that are broken.
    pub(super) fn relations(&self) -> Vec<Violation> {
        let mut broken = Vec::new();
        if self.mode == NatsMode::External && self.urls().is_empty() {
            broken.push(relation("mode", "required", "external mode needs `nats.serverUrl` or `nats.servers`"));
        }
        if self.server_url.is_some() && self.servers.is_some() {
            broken.push(relation("servers", "exclusive", "give `nats.serverUrl` or `nats.servers`, not both"));
        }
        match (&self.user, &self.password) {
            (Some(_), None) => broken.push(relation("user", "together", "`nats.user` needs `nats.password`")),
            (None, Some(_)) => broken.push(relation("password", "together", "`nats.password` needs `nats.user`")),
            _ => {}
        }
        broken.extend(self.second_credential());
        broken.extend(nested("tls", self.tls.relations()));
        let is_given =
            |secret: &Option<Secret<String>>| secret.as_ref().is_some_and(|secret| !secret.expose().is_empty());
        let is_user = self.user.as_ref().is_some_and(|user| !user.is_empty()) && is_given(&self.password);
        let secured = is_user || is_given(&self.token);
        let embedded = &self.embedded;
        if self.mode == NatsMode::Embedded && !secured && !embedded.allow_anonymous && !is_loopback(&embedded.host) {
            let message = "an address that other machines can reach needs credentials: set `nats.user` and \
                           `nats.password`, or `nats.token`; or allow everyone with `nats.embedded.allowAnonymous: true`";
            broken.push(relation("embedded.host", "credentials", message));
        }
        broken
    }

    /// Two kinds of credential would leave it to chance which one is used.
    fn second_credential(&self) -> Option<Violation> {
        let in_url = self.urls().iter().any(NatsUrl::has_credentials);
        let kinds = [
            (in_url, if self.servers.is_some() { "servers" } else { "serverUrl" }),
            (self.user.is_some() || self.password.is_some(), "user"),
            (self.token.is_some(), "token"),
            (self.credentials_file.is_some(), "credentialsFile"),
            (self.nkey_seed_file.is_some(), "nkeySeedFile"),
        ];
        let mut given = kinds.iter().filter(|(given, _)| *given).map(|(_, key)| *key);
        let (first, second) = (given.next()?, given.next()?);
        let message = format!(
            "`nats.{first}` already gives credentials; give one kind: user and password, token, file, or in the URL"
        );
        Some(relation(second, "exclusive", &message))
    }
}

/// Where the NATS server comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum NatsMode {
    /// This node starts one of its own.
    #[default]
    Embedded,
    /// It runs elsewhere.
    External,
}

/// What becomes of messages published while there is no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum PublishWhileDisconnected {
    /// Publishing fails at once.
    #[default]
    Fail,
    /// They are kept, up to `publishBufferBytes`, and sent after the connection is made again.
    Buffer,
}

/// What becomes of the addresses that servers of a cluster tell of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum DiscoveredServers {
    /// They are tried too, behind the configured ones.
    #[default]
    Use,
    /// Only the configured servers are tried: for clients that cannot reach the addresses that the servers know.
    Ignore,
}

/// Certificates for `tls://` URLs, and how TLS begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct TlsConfig {
    /// Authorities to trust beside the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// This node's certificate, as PEM; together with `keyFile`.
    pub cert_file: Option<PathBuf>,
    /// The certificate's private key, as PEM; together with `certFile`.
    pub key_file: Option<PathBuf>,
    /// The server speaks TLS before its first line (`handshake_first` in its own settings).
    pub handshake_first: bool,
}

mlx_errors::setters! {
    TlsConfig {
        ca_file: option PathBuf,
        cert_file: option PathBuf,
        key_file: option PathBuf,
        handshake_first: set bool,
    }
}

impl TlsConfig {
    fn relations(&self) -> Vec<Violation> {
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => vec![relation("certFile", "together", "`nats.tls.certFile` needs `nats.tls.keyFile`")],
            (None, Some(_)) => vec![relation("keyFile", "together", "`nats.tls.keyFile` needs `nats.tls.certFile`")],
            _ => Vec::new(),
        }
    }
}
