//! JSON Schemas and the AsyncAPI document, generated from the types.
//!
//! A bound is written once, as a garde attribute; schemars reads it too. What the schema cannot say are the rules
//! between members, see [`ClusterConfig::check`]. The files that are shipped are made for the tools of others, and say what every
//! validator understands; [`config`] and [`of`] say more.

mod asyncapi;
mod contract;
mod plain;

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::ClusterConfig;

pub use asyncapi::asyncapi;
pub use contract::{Payload, Role, Row, contract};

/// Every generated file, by its path from the root of the repository.
///
/// The schema of a configuration file in draft 2020-12 and, for editors, draft-07; the schema of every message;
/// the AsyncAPI document.
pub fn all() -> Vec<(String, Value)> {
    let mut files = vec![
        ("config/schemas/cluster.schema.json".to_owned(), plain::plain(config())),
        ("config/schemas/cluster.draft-07.schema.json".to_owned(), plain::plain(config_draft_07())),
        ("docs/asyncapi.yaml".to_owned(), asyncapi()),
    ];
    for payload in messages() {
        files.push((format!("config/schemas/messages/{}.schema.json", payload.name), plain::plain((payload.schema)())));
    }
    files
}

/// The schema of a type as it is read, draft 2020-12.
pub fn of<T: JsonSchema>() -> Value {
    root::<T>(SchemaSettings::draft2020_12())
}

/// The schema of a configuration file, in which `null` means unset at every key that may be absent; draft 2020-12.
pub fn config() -> Value {
    let mut schema = config_without_nulls();
    each_object(&mut schema, &mut allow_null);
    schema
}

/// [`config`], for editors that read draft-07.
pub fn config_draft_07() -> Value {
    let mut schema = root::<ClusterConfig>(SchemaSettings::draft07());
    each_object(&mut schema, &mut drop_section_defaults);
    each_object(&mut schema, &mut allow_null);
    schema
}

/// The schema of [`ClusterConfig`] as a loader sees a document: with the keys that are `null` taken out.
pub fn config_without_nulls() -> Value {
    let mut schema = of::<ClusterConfig>();
    each_object(&mut schema, &mut drop_section_defaults);
    schema
}

/// Every message of the contract, each once, in the order of the subject table.
pub fn messages() -> Vec<Payload> {
    let mut messages: Vec<Payload> = Vec::new();
    for row in contract() {
        for payload in std::iter::once(row.payload).chain(row.reply) {
            if messages.iter().all(|known| known.name != payload.name) {
                messages.push(payload);
            }
        }
    }
    messages
}

fn root<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let settings = settings.for_deserialize().with_transform(IntegerBounds);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Writes down the bounds of a Rust integer that schemars leaves to `format`, which no validator reads.
#[derive(Clone, Debug)]
struct IntegerBounds;

impl Transform for IntegerBounds {
    fn transform(&mut self, schema: &mut Schema) {
        let maximum = match schema.get("format").and_then(Value::as_str) {
            Some("uint32") => Some(u64::from(u32::MAX)),
            Some("uint64") => Some(u64::MAX),
            _ => None,
        };
        if let Some(maximum) = maximum.filter(|_| schema.get("maximum").is_none()) {
            schema.insert("maximum".into(), maximum.into());
        }
        transform_subschemas(self, schema);
    }
}

/// Calls `change` for the root and every definition.
fn each_object(schema: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Value::Object(root) = schema else { return };
    change(root);
    for place in ["$defs", "definitions"] {
        let definitions = root.get_mut(place).and_then(Value::as_object_mut);
        for definition in definitions.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
            change(definition);
        }
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
    // draft-07 hides a `$ref` that has siblings in here.
    if let Some(inner @ Value::Array(_)) = property.remove("allOf") {
        property.insert("anyOf".into(), json!([{ "allOf": inner }, { "type": "null" }]));
        return;
    }
    if let Some(kind @ Value::String(_)) = property.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
        if let Some(Value::Array(branches)) = property.get_mut("anyOf") {
            branches.push(json!({ "type": "null" }));
        }
    }
}
