//! Schemas of single values that no type of their own has.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An IPv4 or IPv6 address: schemars' own `format: ip` is one that no validator knows.
pub(crate) fn ip_address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }],
        "errorMessage": "must be an IPv4 or IPv6 address",
    })
}

/// [`ip_address`], where unset is allowed.
pub(crate) fn ip_address_if_set(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "anyOf": [{ "type": "null" }, { "format": "ipv4" }, { "format": "ipv6" }],
        "errorMessage": "must be an IPv4 or IPv6 address",
    })
}
