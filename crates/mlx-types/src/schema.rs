//! JSON Schemas, generated from the types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::ClusterConfig;

/// The schema of a type as it is read, draft 2020-12.
pub fn of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<T>().to_value()
}

/// The schema of [`ClusterConfig`] as a loader sees a document: with the keys that are `null` taken out.
pub fn config_without_nulls() -> Value {
    let mut schema = of::<ClusterConfig>();
    each_object(&mut schema, &mut drop_section_defaults);
    schema
}

/// The schema of a configuration file, in which `null` means unset at every key that may be absent.
pub fn config() -> Value {
    let mut schema = config_without_nulls();
    each_object(&mut schema, &mut allow_null);
    schema
}

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

/// Calls `change` for the root and every definition.
fn each_object(schema: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Value::Object(root) = schema else { return };
    change(root);
    let definitions = root.get_mut("$defs").and_then(Value::as_object_mut);
    for definition in definitions.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        change(definition);
    }
}

/// A section's default repeats those of its keys.
fn drop_section_defaults(object: &mut Map<String, Value>) {
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        if property.get("default").is_some_and(Value::is_object) {
            property.remove("default");
        }
    }
}

fn allow_null(object: &mut Map<String, Value>) {
    let required: Vec<Value> = object.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        let Value::Object(property) = property else { continue };
        if !required.iter().any(|required| required == name) {
            nullable(property);
        }
    }
}

fn nullable(property: &mut Map<String, Value>) {
    if let Some(reference) = property.remove("$ref") {
        property.insert("anyOf".into(), json!([{ "$ref": reference }, { "type": "null" }]));
        return;
    }
    if let Some(kind @ Value::String(_)) = property.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
        if let Some(Value::Array(branches)) = property.get_mut("anyOf") {
            branches.push(json!({ "type": "null" }));
        }
    }
}
