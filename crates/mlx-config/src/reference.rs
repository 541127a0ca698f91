//! The reference of all keys, written from the schema.

use std::fmt::Write;

use mlx_types::ClusterConfig;
use serde_json::Value;

use crate::env::variable_name;
use crate::field::{Field, Kind, ROOT};
use crate::source::Sources;
use crate::tree::{Data, Node, Step, dotted};
use crate::yaml;

/// A key of the configuration.
pub(crate) struct Key {
    pub(crate) path: Vec<Step>,
    pub(crate) field: &'static Field,
}

/// Every key and section, in the order in which the types declare them.
pub(crate) fn keys() -> Vec<Key> {
    // The schema is sorted by name; what the types write is in their own order, and JSON is YAML.
    let defaults = serde_json::to_string(&ClusterConfig::default()).unwrap_or_default();
    let order = yaml::parse(&defaults, 0, &Sources::default(), &mut Vec::new()).ok();
    let mut keys = Vec::new();
    collect(&ROOT, order.as_ref(), &mut Vec::new(), &mut keys);
    keys
}

fn collect(field: &'static Field, order: Option<&Node>, path: &mut Vec<Step>, keys: &mut Vec<Key>) {
    let Kind::Section(fields) = &field.kind else { return };
    let declared = match order.map(|node| &node.data) {
        Some(Data::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    let place = |name: &str| declared.iter().position(|entry| entry.key == name).unwrap_or(usize::MAX);
    let mut names: Vec<&String> = fields.keys().collect();
    // A section stands after the keys beside it.
    names.sort_by_key(|name| (fields.get(*name).is_some_and(Field::is_section), place(name)));
    for name in names {
        let Some(field) = fields.get(name) else { continue };
        path.push(Step::Key(name.clone()));
        keys.push(Key { path: path.clone(), field });
        let order = order.and_then(|node| node.entry(name)).map(|entry| &entry.node);
        collect(field, order, path, keys);
        path.pop();
    }
}

/// The reference of every key in Markdown: a table for each section, and one of all environment variables.
pub fn reference() -> String {
    let keys = keys();
    let mut text = String::new();
    table(&mut text, "At the top", "", &section(&keys, &[]));
    for key in &keys {
        let name = dotted(&key.path);
        match &key.field.kind {
            Kind::Section(_) => table(&mut text, &format!("`{name}`"), &key.field.about, &section(&keys, &key.path)),
            Kind::List(item) => {
                if let Kind::Section(fields) = &item.kind {
                    let rows: Vec<_> = fields.iter().map(|(name, field)| (name.clone(), field)).collect();
                    table(&mut text, &format!("`{name}[]`"), &item.about, &rows);
                }
            }
            _ => {}
        }
    }
    text.push_str("### Environment variables\n\n| variable | key |\n|---|---|\n");
    for key in keys.iter().filter(|key| !key.field.is_section()) {
        let _ = writeln!(text, "| `{}` | `{}` |", variable_name(&key.path), dotted(&key.path));
    }
    text
}

/// The keys right below `path` that are no sections.
fn section<'a>(keys: &'a [Key], path: &[Step]) -> Vec<(String, &'a Field)> {
    let below = keys
        .iter()
        .filter(|key| key.path.len() == path.len() + 1 && key.path.starts_with(path) && !key.field.is_section());
    below.map(|key| (dotted(key.path.get(path.len()..).unwrap_or_default()), key.field)).collect()
}

fn table(text: &mut String, heading: &str, about: &str, rows: &[(String, &Field)]) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "### {heading}\n\n");
    if !about.is_empty() {
        let _ = write!(text, "{about}\n\n");
    }
    text.push_str("| key | takes | default | meaning |\n|---|---|---|---|\n");
    for (name, field) in rows {
        let takes = field.expected.replace('|', "\\|");
        let _ = writeln!(text, "| `{name}` | {takes} | {} | {} |", default(field), field.about);
    }
    text.push('\n');
}

fn default(field: &Field) -> String {
    match &field.default {
        _ if field.required => "required".to_owned(),
        None | Some(Value::Null) => "unset".to_owned(),
        Some(Value::Array(items)) if items.is_empty() => "empty".to_owned(),
        Some(Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| format!("`{}`", plain(item))).collect();
            items.join(", ")
        }
        Some(value) => format!("`{}`", plain(value)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string().trim_end_matches(".0").to_owned(),
        other => other.to_string(),
    }
}

impl Field {
    fn is_section(&self) -> bool {
        matches!(self.kind, Kind::Section(_))
    }
}
