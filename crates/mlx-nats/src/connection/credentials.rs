//! What a connection of our own shows to a server, as members of its CONNECT: the same that the transport shows.

use std::path::Path;

use async_nats::{Auth, ServerAddr};
use data_encoding::BASE64URL_NOPAD;
use mlx_types::NatsUrl;
use mlx_types::config::NatsConfig;
use nkeys::KeyPair;
use serde_json::Value;

/// What is wrong with a file, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{hint}: {cause}")]
pub(super) struct Fault {
    pub(super) hint: String,
    pub(super) cause: String,
}

impl Fault {
    fn of(hint: String, cause: &str) -> Self {
        Self { hint, cause: cause.to_owned() }
    }
}

/// What a server is shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Proof {
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    jwt: Option<String>,
    nkey: Option<String>,
    signature: Option<Vec<u8>>,
}

impl Proof {
    /// The members of a CONNECT.
    pub(super) fn members(&self) -> Value {
        let mut members = serde_json::Map::new();
        let signature = self.signature.as_ref().map(|signature| BASE64URL_NOPAD.encode(signature));
        for (name, value) in [
            ("user", &self.user),
            ("pass", &self.password),
            ("auth_token", &self.token),
            ("jwt", &self.jwt),
            ("nkey", &self.nkey),
            ("sig", &signature),
        ] {
            if let Some(value) = value {
                members.insert(name.to_owned(), value.clone().into());
            }
        }
        members.into()
    }

    /// The same, for the transport.
    pub(super) fn into_auth(self) -> Auth {
        let mut auth = Auth::new();
        auth.username = self.user;
        auth.password = self.password;
        auth.token = self.token;
        auth.jwt = self.jwt;
        auth.nkey = self.nkey;
        auth.signature = self.signature;
        auth
    }
}

/// The proof for `server`, which greeted us with `nonce`. Files are read each time: they may have been renewed.
///
/// `nats.user`, a token, a file are for every server. Credentials in a URL are for the server of that URL and no other; one
/// that is in no URL, since another server told of it, is shown those of `met`, the server that we were connected to last.
///
/// # Errors
/// What is wrong with a file.
pub(super) async fn proof(
    config: &NatsConfig,
    server: &ServerAddr,
    met: Option<&ServerAddr>,
    nonce: &[u8],
) -> Result<Proof, Fault> {
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        let (user, password) = (Some(user.clone()), Some(password.expose().clone()));
        return Ok(Proof { user, password, ..Proof::default() });
    }
    if let Some(token) = &config.token {
        return Ok(Proof { token: Some(token.expose().clone()), ..Proof::default() });
    }
    if let Some(file) = &config.credentials_file {
        let text = read(file, "nats.credentialsFile").await?;
        let fault = || {
            Fault::of(
                format!("`nats.credentialsFile` is not a credentials file: {}", file.display()),
                "a JWT and a seed are not in it",
            )
        };
        let jwt = section(&text, "NATS USER JWT").ok_or_else(fault)?;
        let seed = section(&text, "USER NKEY SEED").ok_or_else(fault)?;
        let (_, signature) = signature(seed, nonce).ok_or_else(fault)?;
        return Ok(Proof { jwt: Some(jwt.to_owned()), signature: Some(signature), ..Proof::default() });
    }
    if let Some(file) = &config.nkey_seed_file {
        let text = read(file, "nats.nkeySeedFile").await?;
        let fault =
            || Fault::of(format!("`nats.nkeySeedFile` holds no valid seed: {}", file.display()), "it does not sign");
        let (public, signature) = signature(text.trim(), nonce).ok_or_else(fault)?;
        return Ok(Proof { nkey: Some(public), signature: Some(signature), ..Proof::default() });
    }
    let Some(url) = url_of(config, server).or_else(|| met.and_then(|met| url_of(config, met))) else {
        return Ok(Proof::default());
    };
    let (user, password) = (url.username().map(str::to_owned), url.password().map(|secret| secret.expose().clone()));
    let token = url.token().map(|token| token.expose().clone());
    Ok(Proof { user, password, token, ..Proof::default() })
}

fn url_of<'a>(config: &'a NatsConfig, server: &ServerAddr) -> Option<&'a NatsUrl> {
    config.urls().iter().find(|url| url.host().eq_ignore_ascii_case(server.host()) && url.port() == server.port())
}

async fn read(file: &Path, key: &str) -> Result<String, Fault> {
    let text = tokio::fs::read_to_string(file).await;
    text.map_err(|error| Fault::of(format!("cannot read {} (`{key}`)", file.display()), &error.to_string()))
}

/// The public key and the signature.
fn signature(seed: &str, nonce: &[u8]) -> Option<(String, Vec<u8>)> {
    let pair = KeyPair::from_seed(seed).ok()?;
    let signature = pair.sign(nonce).ok()?;
    Some((pair.public_key(), signature))
}

/// What stands between the lines `BEGIN name` and `END name` of a credentials file.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {name}");
    let mut lines = text.lines().skip_while(|line| !line.contains(&begin)).skip(1);
    lines.find(|line| !line.trim().is_empty()).map(str::trim).filter(|line| !line.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn c7_each_server_is_shown_the_credentials_of_its_own_url_and_no_others() {
        let urls = ["nats://a:x@one:4222", "nats://b:y@two:4222", "nats://three:4222"];
        let config = NatsConfig::default().servers(urls.map(|url| url.parse().unwrap()));
        let shown = async |server: &str, met: Option<&str>| {
            let server: ServerAddr = server.parse().unwrap();
            let met: Option<ServerAddr> = met.map(|met| met.parse().unwrap());
            proof(&config, &server, met.as_ref(), b"").await.unwrap().members().to_string()
        };
        assert_eq!(shown("nats://one:4222", Some("nats://two:4222")).await, r#"{"pass":"x","user":"a"}"#);
        assert_eq!(shown("nats://TWO:4222", None).await, r#"{"pass":"y","user":"b"}"#);
        assert_eq!(shown("nats://three:4222", Some("nats://one:4222")).await, "{}");
        assert_eq!(shown("nats://one:5222", None).await, "{}", "another port is another server");
        assert_eq!(shown("nats://10.0.0.9:4222", Some("nats://two:4222")).await, r#"{"pass":"y","user":"b"}"#);
    }

    #[test]
    fn a_section_of_a_credentials_file_is_what_stands_between_its_lines() {
        let text = "-----BEGIN NATS USER JWT-----\r\nej.wt\r\n------END NATS USER JWT------\n\n****\n\n-----BEGIN USER NKEY \
                    SEED-----\n\nSUA7X \n------END USER NKEY SEED------\n";
        assert_eq!(section(text, "NATS USER JWT"), Some("ej.wt"));
        assert_eq!(section(text, "USER NKEY SEED"), Some("SUA7X"));
        assert_eq!(section("-----BEGIN NATS USER JWT-----\n------END", "NATS USER JWT"), None);
        assert_eq!(section("", "NATS USER JWT"), None);
    }
}
