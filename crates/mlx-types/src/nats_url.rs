//! URLs of NATS servers, which may carry credentials and never show them.

#[cfg(feature = "schema")]
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
#[cfg(feature = "schema")]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use url::Url;

use crate::Secret;

/// The URL of a NATS server: `nats://` or `tls://`, a host, a port (4222 where unset) and perhaps credentials.
///
/// `Display`, `Debug` and serialisation leave the credentials out.
///
/// ```
/// let url: mlx_types::NatsUrl = "nats://alice:s3cret@nats.example".parse()?;
/// assert_eq!(url.to_string(), "nats://nats.example:4222");
/// assert_eq!(url.username(), Some("alice"));
/// assert_eq!(url.password().map(|secret| secret.expose().as_str()), Some("s3cret"));
/// # Ok::<(), mlx_types::NatsUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NatsUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    credentials: Credentials,
    /// Kept, so that showing it costs nothing.
    shown: String,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Credentials {
    None,
    User { name: String, password: Secret<String> },
    Token(Secret<String>),
}

impl NatsUrl {
    /// A URL without credentials. An IPv6 address is given without brackets.
    ///
    /// # Errors
    /// Where `host` is no host name and no address.
    pub fn new(scheme: Scheme, host: &str, port: u16) -> Result<Self, NatsUrlError> {
        if host.contains(':') { format!("{scheme}://[{host}]:{port}") } else { format!("{scheme}://{host}:{port}") }
            .parse()
    }

    /// Whether the connection is encrypted from its first byte.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host name or address; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The user, from `nats://USER:PASSWORD@HOST`.
    pub fn username(&self) -> Option<&str> {
        match &self.credentials {
            Credentials::User { name, .. } => Some(name),
            Credentials::None | Credentials::Token(_) => None,
        }
    }

    /// The password, from `nats://USER:PASSWORD@HOST`.
    pub fn password(&self) -> Option<&Secret<String>> {
        match &self.credentials {
            Credentials::User { password, .. } => Some(password),
            Credentials::None | Credentials::Token(_) => None,
        }
    }

    /// The token, from `nats://TOKEN@HOST`.
    pub fn token(&self) -> Option<&Secret<String>> {
        match &self.credentials {
            Credentials::Token(token) => Some(token),
            Credentials::None | Credentials::User { .. } => None,
        }
    }

    /// Whether it carries credentials of any kind.
    pub fn has_credentials(&self) -> bool {
        self.credentials != Credentials::None
    }

    /// `SCHEME://HOST:PORT`.
    pub fn as_str_without_credentials(&self) -> &str {
        &self.shown
    }

    /// The same server, without credentials.
    #[must_use]
    pub fn without_credentials(&self) -> Self {
        Self { credentials: Credentials::None, ..self.clone() }
    }
}

/// How the connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In clear text; the server may ask for TLS.
    Nats,
    /// With TLS required.
    Tls,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nats => "nats",
            Self::Tls => "tls",
        })
    }
}

/// Why a text is not the URL of a NATS server. It never repeats the text, which may hold credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NatsUrlError {
    /// Nothing stands before `://`, or no `://` at all.
    #[error("the URL has no scheme; write `nats://HOST:PORT` or `tls://HOST:PORT`")]
    NoScheme,
    /// `ws://` and `wss://`.
    #[error("NATS over WebSocket (`ws://`, `wss://`) is not supported; use `nats://` or `tls://`")]
    WebSocket,
    /// Any other scheme.
    #[error("the scheme is not one of `nats://` and `tls://`")]
    Scheme,
    /// The host is missing or malformed.
    #[error("the host is missing or malformed")]
    Host,
    /// The port is 0, too high, or no number.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// Something follows the port.
    #[error("nothing may follow the host and port: no path, no query, no fragment")]
    Trailing,
    /// The user, password or token holds a character that ends it.
    #[error(
        "the password, user or token holds a `/`, `?` or `#`: write `%2F`, `%3F`, `%23` (and `%40` for `@`, `%25` for `%`), or \
         use `nats.user` and `nats.password`"
    )]
    Unescaped,
    /// The user, password or token is not UTF-8 once decoded, or a part of it is empty.
    #[error("the credentials are malformed; write `USER:PASSWORD@` or `TOKEN@`, other characters as `%XX`")]
    Credentials,
}

impl FromStr for NatsUrl {
    type Err = NatsUrlError;

    fn from_str(text: &str) -> Result<Self, NatsUrlError> {
        let scheme = match text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
            None | Some("") => return Err(NatsUrlError::NoScheme),
            Some("nats") => Scheme::Nats,
            Some("tls") => Scheme::Tls,
            Some("ws" | "wss") => return Err(NatsUrlError::WebSocket),
            Some(_) => return Err(NatsUrlError::Scheme),
        };
        // The url crate trims and drops these; a URL of ours with any of them is a mistake.
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(NatsUrlError::Host);
        }
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
        match (authority.find('@'), authority.rfind('@')) {
            (Some(0), _) => return Err(NatsUrlError::Credentials),
            // The url crate takes an empty password for none, and the user for a token.
            (_, Some(at)) if at <= end && authority.get(..at).is_some_and(|before| before.ends_with(':')) => {
                return Err(NatsUrlError::Credentials);
            }
            (_, Some(at)) if at > end => return Err(NatsUrlError::Unescaped),
            _ => {}
        }
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::InvalidPort => NatsUrlError::Port,
            _ => NatsUrlError::Host,
        })?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(NatsUrlError::Trailing);
        }
        let shown_host = url.host_str().filter(|host| is_host(host)).ok_or(NatsUrlError::Host)?;
        let port = match url.port() {
            Some(0) => return Err(NatsUrlError::Port),
            port => port.unwrap_or(DEFAULT_PORT),
        };
        Ok(Self {
            scheme,
            host: shown_host.trim_matches(['[', ']']).to_owned(),
            port,
            credentials: credentials(&url)?,
            shown: format!("{scheme}://{shown_host}:{port}"),
        })
    }
}

const DEFAULT_PORT: u16 = 4222;

fn credentials(url: &Url) -> Result<Credentials, NatsUrlError> {
    let decode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8().map_err(|_| NatsUrlError::Credentials)?;
        if decoded.is_empty() { Err(NatsUrlError::Credentials) } else { Ok(decoded.into_owned()) }
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(Credentials::None),
        (token, None) => Ok(Credentials::Token(Secret::new(decode(token)?))),
        (name, Some(password)) => {
            Ok(Credentials::User { name: decode(name)?, password: Secret::new(decode(password)?) })
        }
    }
}

/// The url crate checks little of the host of a scheme it does not know.
fn is_host(host: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    host.starts_with('[') || (!host.is_empty() && host.chars().all(name))
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown)
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = if self.has_credentials() { " (with credentials)" } else { "" };
        write!(f, "NatsUrl({}{hidden})", self.shown)
    }
}

impl Serialize for NatsUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}

impl<'de> Deserialize<'de> for NatsUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NatsUrlVisitor)
    }
}

struct NatsUrlVisitor;

impl Visitor<'_> for NatsUrlVisitor {
    type Value = NatsUrl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL such as nats://HOST:PORT")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<NatsUrl, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(feature = "schema")]
impl JsonSchema for NatsUrl {
    fn schema_name() -> Cow<'static, str> {
        "NatsUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The URL of a NATS server: `nats://HOST:PORT` or `tls://HOST:PORT`, port 4222 where unset, credentials before the host as `USER:PASSWORD@` or `TOKEN@`.",
            "type": "string",
            "format": "nats-url",
            "errorMessage": "must be a URL such as `nats://HOST:PORT` or `tls://HOST:PORT`",
            "pattern": r"^([nN][aA][tT][sS]|[tT][lL][sS])://([^\s/?#]+@)?(\[[0-9a-fA-F:.]+\]|[0-9A-Za-z._-]+)(:[0-9]{1,5})?/?$",
            "examples": ["nats://127.0.0.1:4222", "tls://nats.example:4222"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let parse = |text: &str| text.parse::<NatsUrl>().unwrap();
        let plain = parse("nats://127.0.0.1");
        assert_eq!((plain.scheme(), plain.host(), plain.port()), (Scheme::Nats, "127.0.0.1", 4222));
        assert!(!plain.has_credentials());
        let v6 = parse("TLS://[::1]:5222/");
        assert_eq!((v6.scheme(), v6.host(), v6.port()), (Scheme::Tls, "::1", 5222));
        assert_eq!(v6.as_str_without_credentials(), "tls://[::1]:5222");
        assert_eq!(NatsUrl::new(Scheme::Tls, "::1", 5222).unwrap(), v6);
        let token = parse("nats://t%6Fken@h");
        assert_eq!(token.token().unwrap().expose(), "token");
        assert_eq!((token.username(), token.password()), (None, None));
        let user = parse("nats://u:p%40ss@h:1");
        assert_eq!((user.username(), user.password().unwrap().expose().as_str()), (Some("u"), "p@ss"));
        assert_eq!(user.without_credentials(), parse("nats://h:1"));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (text, expected) in [
            ("", NatsUrlError::NoScheme),
            ("localhost:4222", NatsUrlError::NoScheme),
            ("://h", NatsUrlError::NoScheme),
            ("ws://h", NatsUrlError::WebSocket),
            ("WSS://h", NatsUrlError::WebSocket),
            ("http://h", NatsUrlError::Scheme),
            ("nats://", NatsUrlError::Host),
            ("nats://:4222", NatsUrlError::Host),
            ("nats://a b", NatsUrlError::Host),
            ("nats://a,b", NatsUrlError::Host),
            ("nats://*", NatsUrlError::Host),
            ("nats://h:0", NatsUrlError::Port),
            ("nats://h:70000", NatsUrlError::Port),
            ("nats://h:x", NatsUrlError::Port),
            ("nats://h/x", NatsUrlError::Trailing),
            ("nats://h?x", NatsUrlError::Trailing),
            ("nats://h#x", NatsUrlError::Trailing),
            ("nats://:p@h", NatsUrlError::Credentials),
            ("nats://u:%ff@h", NatsUrlError::Credentials),
        ] {
            assert_eq!(text.parse::<NatsUrl>().unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn x1_credentials_of_a_url_are_never_shown() {
        for text in ["nats://canary:canary@h", "nats://canary@h", "nats://canary:canary@h:x", "canary:canary@h"] {
            let shown = match text.parse::<NatsUrl>() {
                Ok(url) => format!("{url} {url:?} {}", serde_json::to_string(&url).unwrap()),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("canary"), "{shown}");
        }
        let error = serde_json::from_str::<NatsUrl>(r#""canary:canary@h""#).unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}
