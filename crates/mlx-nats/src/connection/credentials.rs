//! What a connection of our own shows to a server, as members of its CONNECT: the same that the transport shows.

use std::path::Path;

use async_nats::ServerAddr;
use data_encoding::BASE64URL_NOPAD;
use mlx_types::config::NatsConfig;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// The proof for `server`, which greeted us with `nonce`; `None` where there is none to be had.
pub(super) async fn proof(config: &NatsConfig, server: &ServerAddr, nonce: &str) -> Option<Value> {
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        return Some(json!({ "user": user, "pass": password.expose() }));
    }
    if let Some(token) = &config.token {
        return Some(json!({ "auth_token": token.expose() }));
    }
    if let Some(file) = &config.credentials_file {
        let text = read(file).await?;
        let jwt = section(&text, "NATS USER JWT")?;
        return Some(json!({ "jwt": jwt, "sig": signature(section(&text, "USER NKEY SEED")?, nonce)?.1 }));
    }
    if let Some(file) = &config.nkey_seed_file {
        let (public, signature) = signature(read(file).await?.trim(), nonce)?;
        return Some(json!({ "nkey": public, "sig": signature }));
    }
    let urls = config.urls();
    let own = urls.iter().find(|url| url.host() == server.host() && url.port() == server.port());
    let with_credentials = own.into_iter().chain(urls).find(|url| url.has_credentials());
    let Some(url) = with_credentials else { return Some(json!({})) };
    if let (Some(user), Some(password)) = (url.username(), url.password()) {
        return Some(json!({ "user": user, "pass": password.expose() }));
    }
    Some(url.token().map_or_else(|| json!({}), |token| json!({ "auth_token": token.expose() })))
}

async fn read(file: &Path) -> Option<String> {
    tokio::fs::read_to_string(file).await.ok()
}

/// The public key and the signature, as a server wants them.
fn signature(seed: &str, nonce: &str) -> Option<(String, String)> {
    let pair = KeyPair::from_seed(seed).ok()?;
    let signature = pair.sign(nonce.as_bytes()).ok()?;
    Some((pair.public_key(), BASE64URL_NOPAD.encode(&signature)))
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
