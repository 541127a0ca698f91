//! Schemas as they are shipped, for the tools of others: nothing that a strict validator does not know, and the words of each
//! key where an editor looks for them.
//!
//! The schemas inside of this workspace say more: in `errorMessage` what a value must be, in `format` what no other validator
//! checks. Here a pattern stands for what can be said of it.

use serde_json::{Map, Value, json};

/// What is said of a value, and does not bind it.
const ANNOTATIONS: [&str; 6] = ["title", "description", "default", "deprecated", "writeOnly", "examples"];

/// The same schema for any validator and any editor.
pub(super) fn plain(mut schema: Value) -> Value {
    let definitions = ["$defs", "definitions"].iter().filter_map(|place| {
        let all = schema.get(*place)?.as_object()?;
        Some(all.iter().map(|(name, definition)| (format!("#/{place}/{name}"), definition.clone())).collect::<Vec<_>>())
    });
    let mut leaves: Map<String, Value> =
        definitions.flatten().filter(|(_, definition)| definition.get("properties").is_none()).collect();
    leaves.values_mut().filter_map(Value::as_object_mut).for_each(as_list_of_values);
    rewrite(&mut schema, &leaves);
    let used = schema.to_string();
    for place in ["$defs", "definitions"] {
        if let Some(all) = schema.get_mut(place).and_then(Value::as_object_mut) {
            all.retain(|name, _| used.contains(&format!("\"#/{place}/{name}\"")));
        }
    }
    schema
}

fn rewrite(schema: &mut Value, leaves: &Map<String, Value>) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite(item, leaves)),
        Value::Object(object) => {
            as_list_of_values(object);
            take_in(object, leaves);
            tell_values(object);
            for (name, value) in object.iter_mut() {
                match name.as_str() {
                    // Values and names, and no schemas.
                    "default" | "const" | "enum" | "examples" | "required" | "type" => {}
                    "properties" | "$defs" | "definitions" => {
                        value
                            .as_object_mut()
                            .into_iter()
                            .flat_map(Map::values_mut)
                            .for_each(|value| rewrite(value, leaves));
                    }
                    _ => rewrite(value, leaves),
                }
            }
            without_dialect(object);
            without_types_of_two(object);
        }
        _ => {}
    }
}

/// Puts a definition of a single value where it is used: an editor that follows a reference shows the words of the type, and
/// not those of the key.
fn take_in(object: &mut Map<String, Value>, leaves: &Map<String, Value>) {
    // draft-07 hides a reference that has siblings in here.
    if let Some(Value::Array(only)) = object.get("allOf")
        && let [Value::Object(inner)] = only.as_slice()
        && inner.keys().all(|key| key == "$ref")
    {
        let reference = inner.get("$ref").cloned().unwrap_or_default();
        if reference.as_str().is_some_and(|reference| leaves.contains_key(reference)) {
            object.remove("allOf");
            object.insert("$ref".to_owned(), reference);
        }
    }
    while let Some(Value::Object(leaf)) =
        object.get("$ref").and_then(Value::as_str).and_then(|reference| leaves.get(reference))
    {
        object.remove("$ref");
        for (name, value) in leaf {
            object.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    let Some(Value::Array(branches)) = object.get_mut("anyOf") else { return };
    for branch in branches.iter_mut().filter_map(Value::as_object_mut) {
        let was_reference = branch.contains_key("$ref") || branch.contains_key("allOf");
        take_in(branch, leaves);
        if was_reference && !branch.contains_key("$ref") {
            // What is outside speaks of the key.
            for name in ["title", "description"] {
                branch.remove(name);
            }
        }
    }
}

/// A choice of constants, each with its words, as a list of values: an editor that finds the one that is written shows its words,
/// and not those of the key. The words are kept for [`tell_values`].
fn as_list_of_values(object: &mut Map<String, Value>) {
    let Some(Value::Array(branches)) = object.get("oneOf") else { return };
    let (mut values, mut words) = (Vec::new(), String::new());
    for branch in branches {
        let listed = branch.get("enum").and_then(Value::as_array).cloned();
        let found = branch.get("const").cloned().map(|value| vec![value]).or(listed);
        let Some(found) = found.filter(|found| found.iter().all(Value::is_string)) else { return };
        let about = branch.get("description").and_then(Value::as_str);
        for value in found.iter().filter_map(Value::as_str) {
            words.extend(["\n- `", value, "`", if about.is_some() { ": " } else { "" }, about.unwrap_or_default()]);
        }
        values.extend(found);
    }
    object.remove("oneOf");
    object.insert("type".to_owned(), "string".into());
    object.insert("enum".to_owned(), values.into());
    object.insert(WORDS.to_owned(), words.into());
}

/// Where the words of values are kept on the way.
const WORDS: &str = "$words";

/// Puts the words of the values behind those of the key.
fn tell_values(object: &mut Map<String, Value>) {
    let inner = object.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten();
    let inner: Option<Value> = inner.filter_map(Value::as_object_mut).find_map(|branch| branch.remove(WORDS));
    let Some(Value::String(words)) = object.remove(WORDS).or(inner) else { return };
    let about = object.get("description").and_then(Value::as_str).unwrap_or_default();
    object.insert("description".to_owned(), format!("{about}\n{words}").into());
}

/// Takes out what only our own validator knows.
fn without_dialect(object: &mut Map<String, Value>) {
    object.remove("errorMessage");
    let Some(Value::String(format)) = object.remove("format") else { return };
    let pattern = match format.as_str() {
        "uuid" => "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$",
        "ipv4" => "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\\.(?!$)|$)){4}$",
        "ipv6" => "^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$",
        "nats-url" => "^([Nn][Aa][Tt][Ss]|[Tt][Ll][Ss])://\\S+$",
        _ => return,
    };
    object.entry("pattern").or_insert_with(|| pattern.into());
}

/// `anyOf` in the place of a list of types, which strict validators refuse.
fn without_types_of_two(object: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = object.get("type") else { return };
    let types = types.clone();
    let binding: Map<String, Value> = object
        .iter()
        .filter(|(name, _)| !ANNOTATIONS.contains(&name.as_str()) && *name != "type")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    object.retain(|name, _| ANNOTATIONS.contains(&name.as_str()));
    let branches = types.into_iter().map(|name| {
        if name == "null" {
            return json!({ "type": "null" });
        }
        let mut branch = binding.clone();
        if let Some(Value::Array(branches)) = branch.get_mut("anyOf") {
            branches.retain(|branch| *branch != json!({ "type": "null" }));
        }
        if let Some(Value::Array(values)) = branch.get_mut("enum") {
            values.retain(|value| !value.is_null());
        }
        branch.insert("type".to_owned(), name);
        Value::Object(branch)
    });
    let branches: Vec<Value> = branches.collect();
    object.insert("anyOf".to_owned(), branches.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_own_words_and_the_bounds_of_its_type() {
        let schema = json!({
            "$defs": { "Millis": { "description": "A span.", "type": "integer", "minimum": 1, "errorMessage": "no" } },
            "properties": {
                "a": { "anyOf": [{ "$ref": "#/$defs/Millis" }, { "type": "null" }], "description": "Of a." },
                "b": { "type": ["string", "null"], "format": "uuid", "description": "Of b.", "default": null },
            }
        });
        assert_eq!(
            plain(schema)["properties"],
            json!({
                "a": { "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "null" }], "description": "Of a." },
                "b": {
                    "anyOf": [
                        { "type": "string", "pattern": "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$" },
                        { "type": "null" }
                    ],
                    "description": "Of b.",
                    "default": null
                },
            })
        );
    }
}
