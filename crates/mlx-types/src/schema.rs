//! JSON Schemas, generated from the types.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An IPv4 or IPv6 address: schemars' own `format: ip` is one that no validator knows.
pub(crate) fn ip_address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
}
