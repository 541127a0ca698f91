//! Which hosts requests may be for.
//!
//! A page of another site can have that site's name lead to this machine, and its browser then takes what is here for the
//! site's (DNS rebinding). An address that only this machine reaches is no protection, but the name is: the browser says it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use sysinfo::System;

use super::Gateway;
use super::error::ApiError;

/// The names that requests may be for.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Lower case; `None` where any will do.
    names: Option<Vec<String>>,
}

impl Hosts {
    /// Those of this machine and the allowed ones. Any, where other machines may ask and nothing is allowed expressly: which
    /// names they have for this one is not known here.
    pub(super) fn at(address: SocketAddr, allowed: &[String]) -> Self {
        let checked = address.ip().to_canonical().is_loopback() || !allowed.is_empty();
        let names = checked.then(|| [&own(&System::host_name().unwrap_or_default()), allowed].concat());
        Self { names }
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (None, _) if request.version() < Version::HTTP_11 => return Ok(()), // by no browser
            (Some(host), None) => host.to_str().ok().and_then(Host::parse),
            _ => None,
        };
        let malformed = "HTTP/1.1 needs one header `host`, a name or an IP address, with a port or without";
        match host {
            None => Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", malformed)),
            Some(Host::Name(name)) if !self.has(&name) => {
                let instead = "ask at an IP address or `localhost`, or start the controller with";
                let message = format!("nothing is served here as `{name}`: {instead} `--allow-host {name}`");
                Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message))
            }
            Some(_) => Ok(()),
        }
    }

    fn has(&self, name: &str) -> bool {
        // No name server may make these lead elsewhere.
        let local = name == "localhost" || name.ends_with(".localhost");
        self.names.as_ref().is_none_or(|names| local || names.iter().any(|known| known == name))
    }
}

/// Lets a request pass, or refuses it.
pub(super) async fn check(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    gateway.hosts.check(&request)?;
    Ok(next.run(request).await)
}

/// A machine's name, and the one that its network knows it by without a name server.
fn own(name: &str) -> Vec<String> {
    let name = name.to_ascii_lowercase();
    match name.split('.').next() {
        None | Some("") => Vec::new(),
        Some(first) => vec![format!("{first}.local"), name],
    }
}

/// What a request says it is for.
#[derive(Debug, PartialEq)]
enum Host {
    /// Which is no other site's, whoever says it.
    Address,
    /// In lower case, without the dot at its end.
    Name(String),
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let authority: Authority = text.parse().ok()?;
        let host = authority.host();
        let port = text.strip_prefix(host)?; // not so with a user in front of it
        if !matches!(port, "" | ":") {
            port.strip_prefix(':')?.parse::<u16>().ok()?;
        }
        if let Some(address) = host.strip_prefix('[') {
            address.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
            return Some(Self::Address);
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        match name.parse::<IpAddr>() {
            Ok(_) => Some(Self::Address),
            Err(_) if name.is_empty() => None,
            Err(_) => Some(Self::Name(name.to_ascii_lowercase())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for address in ["127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "192.168.1.10:", "127.0.0.1."] {
            assert_eq!(Host::parse(address), Some(Host::Address), "{address}");
        }
        assert_eq!(Host::parse("LocalHost.:8080"), Some(name("localhost")));
        assert_eq!(Host::parse("127.0.0.1.evil.example:80"), Some(name("127.0.0.1.evil.example")));
        // Not addresses to us, whatever a browser makes of them before it asks.
        assert_eq!(Host::parse("0x7f000001"), Some(name("0x7f000001")));
        for malformed in
            ["", ".", ":80", "a b", "::1", "[::1", "[::1]80", "[a]", "a:b", "a:65536", "a:80:80", "u@localhost", "a/b"]
        {
            assert_eq!(Host::parse(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn a_machine_is_known_by_its_name_and_by_that_of_its_network() {
        assert_eq!(own("Studio"), ["studio.local", "studio"]);
        assert_eq!(own("studio.local"), ["studio.local", "studio.local"]);
        assert_eq!(own("gpu.example.org"), ["gpu.local", "gpu.example.org"]);
        assert!(own("").is_empty());
    }

    #[test]
    fn names_are_checked_on_loopback_and_wherever_some_are_allowed() {
        let at = |address: &str, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            Hosts::at(address.parse().unwrap(), &allowed)
        };
        for loopback in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            let hosts = at(loopback, &["gpu.example.org"]);
            for known in ["localhost", "page.localhost", "gpu.example.org"] {
                assert!(hosts.has(known), "{known} at {loopback}");
            }
            for unknown in ["evil.example", "localhost.evil.example", "notlocalhost", "a.gpu.example.org", "org"] {
                assert!(!hosts.has(unknown), "{unknown} at {loopback}");
            }
        }
        assert!(at("0.0.0.0:80", &[]).has("anything.example") && at("[::]:80", &[]).has("anything.example"));
        let hosts = at("0.0.0.0:80", &["gpu.example.org"]);
        assert!(hosts.has("gpu.example.org") && hosts.has("localhost") && !hosts.has("anything.example"));
    }
}
