//! Rules that several sections share, in two forms each: for garde, and for the schema.

#![expect(clippy::trivially_copy_pass_by_ref, clippy::ref_option, reason = "the signatures that garde calls")]

use std::net::{IpAddr, Ipv6Addr};

use mlx_errors::{Violation, Violations};
#[cfg(feature = "schema")]
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::check_subject_token;

/// A host name or an address to bind.
pub(super) fn host_or_address(value: &str, _: &()) -> garde::Result {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if (1..=253).contains(&value.len()) && value.chars().all(name) || value.parse::<Ipv6Addr>().is_ok() {
        Ok(())
    } else {
        Err(garde::Error::new("must be a host name or an address, without a port"))
    }
}

/// [`host_or_address`], for the schema.
#[cfg(feature = "schema")]
pub(super) fn host_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "anyOf": [{ "pattern": "^[0-9A-Za-z._-]{1,253}$" }, { "format": "ipv6" }],
        "errorMessage": "must be a host name or an address, without a port",
    })
}

/// What [`host_name`] takes.
const HOST_NAME: &str = "must be one host name in ASCII, without a scheme, a port or a `*`, such as `gpu.example.org`";

/// The name of a host, as a request says whom it is for.
pub(super) fn host_name(value: &str, _: &()) -> garde::Result {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let name = value.strip_suffix('.').unwrap_or(value);
    if value.len() <= 254 && name.split('.').all(is_label) { Ok(()) } else { Err(garde::Error::new(HOST_NAME)) }
}

/// A list of [`host_name`]s, for the schema.
#[cfg(feature = "schema")]
pub(super) fn host_names_schema(_: &mut SchemaGenerator) -> Schema {
    let name = json_schema!({
        "type": "string",
        "maxLength": 254,
        "pattern": r"^[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*\.?$",
        "errorMessage": HOST_NAME,
    });
    json_schema!({ "type": "array", "items": name })
}

/// What [`origin`] takes.
const ORIGIN: &str = "must be an origin such as `https://chat.example.org`, without a path, or `*`";

/// Where a web page comes from.
pub(super) fn origin(value: &str, _: &()) -> garde::Result {
    let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    let fits = value == "*" || host.is_some_and(|host| !host.is_empty() && host.bytes().all(is_host));
    if fits { Ok(()) } else { Err(garde::Error::new(ORIGIN)) }
}

/// A list of [`origin`]s, for the schema.
#[cfg(feature = "schema")]
pub(super) fn origins_schema(_: &mut SchemaGenerator) -> Schema {
    let origin = json_schema!({
        "type": "string",
        "pattern": r"^(\*|https?://[0-9A-Za-z._:\[\]-]+)$",
        "errorMessage": ORIGIN,
    });
    json_schema!({ "type": "array", "items": origin })
}

/// The address of a model server, which is one of HTTP.
pub(super) fn engine_url(value: &Option<String>, none: &()) -> garde::Result {
    let is_http = value.as_ref().is_none_or(|url| url.starts_with("http://") || url.starts_with("https://"));
    if is_http && worker_url(value, none).is_ok() { Ok(()) } else { Err(garde::Error::new(ENGINE_URL)) }
}

/// What [`engine_url`] takes.
const ENGINE_URL: &str = "must be an address such as `http://127.0.0.1:8080/v1`; a key goes into `apiKey`";

/// [`engine_url`], for the schema.
#[cfg(feature = "schema")]
pub(super) fn engine_url_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "pattern": r"^https?://[^\s/@?#]+([/?#]\S*)?$",
        "errorMessage": ENGINE_URL,
    })
}

/// What [`subject_prefix`] takes.
const SUBJECT_PREFIX: &str =
    "must be a subject of ASCII characters without wildcards, such as `_INBOX_alice`, without `.` or `.>` at its end";

/// What subjects begin with: tokens without wildcards.
pub(super) fn subject_prefix(value: &str, _: &()) -> garde::Result {
    let is_plain = value.bytes().all(|byte| byte.is_ascii_graphic());
    let fits = is_plain && value.len() <= 256 && value.split('.').all(|token| check_subject_token(token).is_ok());
    if fits { Ok(()) } else { Err(garde::Error::new(SUBJECT_PREFIX)) }
}

/// [`subject_prefix`], for the schema.
#[cfg(feature = "schema")]
pub(super) fn subject_prefix_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 256,
        "pattern": r"^[!-)+-\-/-=?-~]+(\.[!-)+-\-/-=?-~]+)*$",
        "errorMessage": SUBJECT_PREFIX,
    })
}

/// Whether only this machine can reach what is bound to `host`.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A port of one's own, or 0 for a free one.
pub(super) fn port_or_free(value: &u16, _: &()) -> garde::Result {
    if *value == 0 || *value >= 1024 {
        Ok(())
    } else {
        Err(garde::Error::new("must be a port from 1024 to 65535, or 0 for a free one"))
    }
}

/// [`port_or_free`], for the schema.
#[cfg(feature = "schema")]
pub(super) fn port_or_free_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "integer",
        "minimum": 0,
        "maximum": 65535,
        // Not a choice of two, of which editors would name the first when the second is meant.
        "if": { "minimum": 1 },
        "then": { "minimum": 1024 },
        "errorMessage": "must be a port from 1024 to 65535, or 0 for a free one",
    })
}

/// The URL of a worker. It carries no credentials: none of the sections that show it would hide them.
pub(super) fn worker_url(value: &Option<String>, _: &()) -> garde::Result {
    let Some(value) = value else { return Ok(()) };
    let fault = || garde::Error::new("must be a URL such as `http://HOST:PORT`, without credentials");
    let (scheme, rest) = value.split_once("://").ok_or_else(fault)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let scheme_holds = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-'));
    let authority_holds = !authority.is_empty() && !authority.contains('@');
    if scheme_holds && authority_holds && !rest.contains(char::is_whitespace) { Ok(()) } else { Err(fault()) }
}

/// [`worker_url`], for the schema.
#[cfg(feature = "schema")]
pub(super) fn worker_url_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "pattern": r"^[A-Za-z][0-9A-Za-z+.-]*://[^\s/@?#]+([/?#]\S*)?$",
        "errorMessage": "must be a URL such as `http://HOST:PORT`, without credentials",
    })
}

/// A rule between two members, reported at the one that the reader would change.
pub(super) fn relation(path: &str, rule: &str, message: &str) -> Violation {
    Violation::new(path, rule, message)
}

/// Moves the violations of a section into its parent.
pub(super) fn nested(section: &str, violations: Vec<Violation>) -> impl Iterator<Item = Violation> + use<'_> {
    violations.into_iter().map(move |violation| violation.within(section))
}

/// The outcome of a check.
pub(super) fn outcome(violations: Vec<Violation>) -> Result<(), Violations> {
    if violations.is_empty() { Ok(()) } else { Err(violations.into()) }
}
