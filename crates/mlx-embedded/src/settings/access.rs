//! Who may connect, and what is shown for it.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use mlx_types::Secret;
use mlx_types::config::NatsConfig;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// Who may connect, as the server is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Access {
    Anyone,
    User { name: String, password: ServerSecret, probe: ProbeKey },
    Token(ServerSecret),
}

impl Access {
    /// Blocks for the ms that a hash takes.
    pub(super) fn new(config: &NatsConfig) -> Self {
        match (&config.user, &config.password, &config.token) {
            (Some(name), Some(password), _) => Self::User {
                name: name.clone(),
                password: ServerSecret::new(password.clone()),
                probe: ProbeKey::generate(),
            },
            (_, _, Some(token)) => Self::Token(ServerSecret::new(token.clone())),
            _ => Self::Anyone,
        }
    }

    /// What the readiness probe shows to a server that greeted it with `nonce`, as members of a CONNECT.
    pub(crate) fn proof(&self, nonce: &str) -> Value {
        match self {
            Self::Anyone => json!({}),
            Self::User { probe, .. } => probe.proof(nonce),
            // A server with a token knows no other way in.
            Self::Token(token) => json!({ "auth_token": token.plain.expose() }),
        }
    }
}

/// A key pair for the readiness probe alone: made for one server, never written anywhere, and allowed nothing but to
/// connect. The server checks its signature in a tenth of the time that a hashed password takes, and holds no secret
/// for it.
#[derive(Clone, Debug)]
pub(crate) struct ProbeKey(Arc<KeyPair>);

impl PartialEq for ProbeKey {
    /// None is better than another.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl ProbeKey {
    fn generate() -> Self {
        Self(Arc::new(KeyPair::new_user()))
    }

    /// What the settings file holds.
    pub(super) fn public(&self) -> String {
        self.0.public_key()
    }

    fn proof(&self, nonce: &str) -> Value {
        // A pair that holds its seed, as this one does, can always sign; the server would refuse an empty signature.
        let signature = self.0.sign(nonce.as_bytes()).unwrap_or_default();
        json!({ "nkey": self.public(), "sig": BASE64URL_NOPAD.encode(&signature) })
    }
}

/// A secret in the two forms it is needed in.
#[derive(Clone, Debug)]
pub(crate) struct ServerSecret {
    /// What a client presents.
    plain: Secret<String>,
    /// What the settings file holds: its bcrypt hash, where it has one.
    pub(super) stored: Secret<String>,
}

impl PartialEq for ServerSecret {
    /// The same for a client; every hash has a salt of its own.
    fn eq(&self, other: &Self) -> bool {
        self.plain.expose() == other.plain.expose()
    }
}

/// The work factor of the hashes. The file is private, and who can read it can read the configuration with the secret
/// itself; the hash is for copies and backups. Every connect of a client pays for it, and so does every start: 4, the
/// least there is, takes about 1 ms; the usual 10 would take several times as long as nats-server's whole start.
const BCRYPT_COST: u32 = 4;

impl ServerSecret {
    fn new(plain: Secret<String>) -> Self {
        // bcrypt takes neither more than 72 bytes nor a NUL; such a secret is stored as it is.
        let stored =
            bcrypt::non_truncating_hash(plain.expose(), BCRYPT_COST).unwrap_or_else(|_| plain.expose().clone());
        Self { plain, stored: Secret::new(stored) }
    }
}
