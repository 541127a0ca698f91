//! What the schema says of each key, in a form that is quick to ask.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::path::Step;

/// A key of the configuration, or an item of a list.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) kind: Kind,
    /// What a value must be, to follow "expected".
    pub(crate) expected: String,
    /// Whether its value must never be shown.
    pub(crate) secret: bool,
    /// What it is for.
    pub(crate) about: String,
    /// Its value where nobody sets it.
    pub(crate) default: Option<Value>,
    /// Whether it must be set where its section is.
    pub(crate) required: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Section(BTreeMap<String, Field>),
    List(Box<Field>),
    Choice(Vec<String>),
    Text,
    Integer,
    Number,
    Boolean,
}

/// The whole configuration.
pub(crate) static ROOT: LazyLock<Field> = LazyLock::new(|| {
    let schema = &*SCHEMA;
    Field::from_schema(schema, schema)
});

/// The schema that documents are explained with.
pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(mlx_types::schema::config_without_nulls);

impl Field {
    /// The field at `steps` below this one.
    pub(crate) fn at(&self, steps: &[Step]) -> Option<&Self> {
        steps.iter().try_fold(self, |field, step| match step {
            Step::Key(key) => field.key(key),
            Step::Index(_) => field.item(),
        })
    }

    /// The field of a key of this section.
    pub(crate) fn key(&self, key: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Section(fields) => fields.get(key),
            _ => None,
        }
    }

    /// The field of the items of this list.
    pub(crate) fn item(&self) -> Option<&Self> {
        match &self.kind {
            Kind::List(item) => Some(item),
            _ => None,
        }
    }

    fn from_schema(schema: &Value, root: &Value) -> Self {
        let resolved = resolve(schema, root);
        let kind = Kind::from_schema(resolved, root);
        let secret = [schema, resolved].iter().any(|schema| schema.get("writeOnly") == Some(&Value::Bool(true)))
            || resolved.get("format").and_then(Value::as_str) == Some("nats-url");
        let about = [schema, resolved].iter().find_map(|schema| schema.get("description")?.as_str());
        Self {
            expected: expected(resolved, &kind),
            kind,
            secret,
            // A description of several lines is one text.
            about: about.unwrap_or_default().replace('\n', " "),
            default: schema.get("default").cloned(),
            required: false,
        }
    }
}

impl Kind {
    fn from_schema(schema: &Value, root: &Value) -> Self {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let fields = properties.iter().map(|(key, schema)| {
                let required = required.iter().any(|required| required == key);
                (key.clone(), Field { required, ..Field::from_schema(schema, root) })
            });
            return Self::Section(fields.collect());
        }
        if let Some(choices) = choices(schema) {
            return Self::Choice(choices);
        }
        match main_type(schema) {
            Some("array") => {
                let items = schema.get("items").unwrap_or(&Value::Null);
                Self::List(Box::new(Field::from_schema(items, root)))
            }
            Some("integer") => Self::Integer,
            Some("number") => Self::Number,
            Some("boolean") => Self::Boolean,
            _ => Self::Text,
        }
    }
}

/// Follows `$ref`, and takes the branch of an `anyOf` that is not `null`.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.map_or(schema, |target| resolve(target, root));
    }
    let branches = schema.get("anyOf").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    match branches {
        [branch, null] if null.get("type").and_then(Value::as_str) == Some("null") => resolve(branch, root),
        _ => schema,
    }
}

/// The type that is not `null`.
fn main_type(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(name) => Some(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

fn choices(schema: &Value) -> Option<Vec<String>> {
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        return Some(options.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    }
    let branches = schema.get("oneOf").and_then(Value::as_array)?;
    let nested = branches.iter().map(|branch| match branch.get("const") {
        Some(Value::String(text)) => Some(vec![text.clone()]),
        _ => choices(branch),
    });
    nested.collect::<Option<Vec<_>>>().map(|choices| choices.concat())
}

fn expected(schema: &Value, kind: &Kind) -> String {
    if let Some(message) = schema.get("errorMessage").and_then(Value::as_str) {
        return message.strip_prefix("must be ").unwrap_or(message).to_owned();
    }
    match kind {
        Kind::Section(_) => "a section of keys".to_owned(),
        Kind::List(_) if schema.get("minItems").is_some() => "a list with at least one item".to_owned(),
        Kind::List(_) => "a list".to_owned(),
        Kind::Choice(choices) => {
            let quoted: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
            format!("one of {}", quoted.join(", "))
        }
        Kind::Text => "a text".to_owned(),
        Kind::Boolean => "`true` or `false`".to_owned(),
        Kind::Integer => format!("a whole number{}", bounds(schema)),
        Kind::Number => format!("a number{}", bounds(schema)),
    }
}

fn bounds(schema: &Value) -> String {
    let limit = |name: &str| schema.get(name).filter(|limit| limit.is_number());
    // The end of an integer's type is no bound that anyone should have to read.
    if limit("maximum").and_then(Value::as_u64).is_some_and(|max| max >= u64::from(u32::MAX)) {
        return limit("minimum").map(|min| format!(" of at least {min}")).unwrap_or_default();
    }
    match (limit("minimum"), limit("maximum"), limit("exclusiveMinimum")) {
        (Some(min), Some(max), _) => format!(" from {min} to {max}"),
        (Some(min), None, _) => format!(" of at least {min}"),
        (None, Some(max), _) => format!(" of at most {max}"),
        (None, None, Some(above)) => format!(" greater than {above}"),
        (None, None, None) => String::new(),
    }
}
