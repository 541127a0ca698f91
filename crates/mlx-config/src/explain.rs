//! What is wrong with a document: everything, in one pass, in the order of the file.

use std::sync::LazyLock;

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use mlx_errors::{Violation, Violations};
use mlx_types::{ClusterConfig, NatsUrl};
use serde_json::{Number, Value};

use crate::field::{Field, Kind, ROOT, SCHEMA};
use crate::loader::steps;
use crate::source::Sources;
use crate::tree::{Data, Node, Place, Step, dotted};
use crate::{scalar, suggest};

/// A violation and its place, by which it is sorted.
pub(crate) type Finding = (Place, Violation);

/// Gives scalars that came from outside, and whole numbers written as `8080.0`, the type of their field.
///
/// Returns whether every section is a map: serde would read one from a list as well.
pub(crate) fn take_types(node: &mut Node, field: Option<&Field>) -> bool {
    let kind = field.map(|field| &field.kind);
    if let Data::Untyped(text) = &mut node.data {
        let typed = match kind {
            Some(Kind::Integer | Kind::Number) => scalar::number(text).map(Data::Number),
            Some(Kind::Boolean) => Some(scalar::resolve(text)).filter(|data| matches!(data, Data::Bool(_))),
            _ => None,
        };
        node.data = typed.unwrap_or_else(|| Data::Text(std::mem::take(text)));
    }
    match &mut node.data {
        Data::Number(number) if matches!(kind, Some(Kind::Integer)) => {
            if let Some(whole) = whole(number) {
                *number = whole;
            }
            true
        }
        Data::List(items) => {
            let item_field = field.and_then(Field::item);
            let mut sound = !matches!(kind, Some(Kind::Section(_)));
            for item in items {
                sound &= take_types(item, item_field);
            }
            sound
        }
        Data::Map(entries) => {
            let mut sound = true;
            for entry in entries {
                sound &= take_types(&mut entry.node, field.and_then(|field| field.key(&entry.key)));
            }
            sound
        }
        _ => true,
    }
}

/// Everything that is wrong with `tree`, together with what was found before.
pub(crate) fn explain(tree: Node, findings: Vec<Finding>, sources: &Sources) -> Violations {
    let mut findings = Explainer { tree, sources, findings, broken: Vec::new() }.run();
    findings.sort_by_key(|(place, _)| *place);
    findings.into_iter().map(|(_, violation)| violation).collect()
}

/// A document that is no map of keys at all.
pub(crate) fn not_a_section(node: &Node, sources: &Sources) -> Finding {
    let mut violation = mismatch("", node, &ROOT);
    violation.location = sources.location(node.place);
    (node.place, violation)
}

static VALIDATOR: LazyLock<Option<Validator>> = LazyLock::new(|| {
    jsonschema::options()
        .should_validate_formats(true)
        .with_format("nats-url", |text: &str| text.parse::<NatsUrl>().is_ok())
        .build(&SCHEMA)
        .ok()
});

struct Explainer<'a> {
    tree: Node,
    sources: &'a Sources,
    findings: Vec<Finding>,
    /// Paths of values that are left out of the rules between members: what was meant is not known.
    broken: Vec<Vec<Step>>,
}

impl Explainer<'_> {
    fn run(mut self) -> Vec<Finding> {
        collect_broken(&self.tree, &mut Vec::new(), &mut self.broken);
        self.against_schema();
        self.against_types();
        self.findings
    }

    fn against_schema(&mut self) {
        let value = self.tree.to_value(Some(&ROOT));
        let Some(validator) = &*VALIDATOR else { return };
        for error in validator.iter_errors(&value) {
            let path: Vec<Step> = error
                .instance_path()
                .iter()
                .map(|segment| match segment {
                    LocationSegment::Property(key) => Step::Key(key.into_owned()),
                    LocationSegment::Index(index) => Step::Index(index),
                })
                .collect();
            match error.kind() {
                ValidationErrorKind::AdditionalProperties { unexpected } => {
                    for key in unexpected {
                        self.unknown_key(&path, key);
                    }
                }
                ValidationErrorKind::Required { property } => self.missing(&path, property),
                _ => self.mismatch(&path),
            }
        }
    }

    fn unknown_key(&mut self, section: &[Step], key: &str) {
        let place = self.tree.at(section).and_then(|node| node.entry(key)).map(|entry| entry.key_place);
        let path = [section, &[Step::Key(key.to_owned())]].concat();
        let mut violation = Violation::new(dotted(&path), "unknownKey", "there is no such key");
        violation.suggestion = known_key(section, key).map(|near| format!("did you mean `{near}`?"));
        self.report(place.unwrap_or_default(), path, violation);
    }

    fn missing(&mut self, section: &[Step], property: &Value) {
        let key = property.as_str().unwrap_or_default();
        let node = self.tree.nearest(section);
        let already_reported = node.entry(key).is_some_and(|entry| matches!(entry.node.data, Data::Broken));
        let place = node.place;
        let violation = Violation::new(dotted(section), "required", format!("`{key}` is missing"));
        if already_reported {
            self.leave_out(section.to_vec());
        } else {
            self.report(place, section.to_vec(), violation);
        }
    }

    fn mismatch(&mut self, path: &[Step]) {
        // One value may break several rules of the schema, which all end in the same sentence.
        if self.broken.iter().any(|broken| broken == path) {
            return;
        }
        let node = self.tree.nearest(path);
        let Some(field) = ROOT.at(path) else { return };
        let place = node.place;
        let violation = mismatch(&dotted(path), node, field);
        self.report(place, path.to_vec(), violation);
    }

    /// What the schema cannot say: the rules between members, on what is left of the document.
    fn against_types(&mut self) {
        // Each turn leaves one value out, so that the loop ends; a schema and types that agree need one turn.
        for _ in 0..100 {
            let value = self.pruned().to_value(Some(&ROOT));
            let config: ClusterConfig = match serde_path_to_error::deserialize(value) {
                Ok(config) => config,
                Err(error) => {
                    let path = steps(&error.path().to_string()).unwrap_or_default();
                    let mut violation = Violation::new(dotted(&path), "type", "not a valid value");
                    violation.expected = ROOT.at(&path).map(|field| field.expected.clone());
                    let place = self.tree.nearest(&path).place;
                    let ends = path.is_empty();
                    self.report(place, path, violation);
                    if ends {
                        return;
                    }
                    continue;
                }
            };
            for violation in config.check().err().iter().flatten() {
                let path = steps(&violation.path).unwrap_or_default();
                let section = path.split_last().map_or(&[][..], |(_, section)| section);
                if self.broken.iter().any(|broken| broken.starts_with(section)) {
                    continue;
                }
                let place = self.tree.nearest(&path).place;
                let location = self.sources.location(place);
                self.findings.push((place, Violation { location, ..violation.clone() }));
            }
            return;
        }
    }

    fn report(&mut self, place: Place, path: Vec<Step>, mut violation: Violation) {
        violation.location = self.sources.location(place);
        if let Some(attribution) = self.sources.attribution(place) {
            violation.message = format!("{}; {attribution}", violation.message);
        }
        self.findings.push((place, violation));
        self.leave_out(path);
    }

    fn leave_out(&mut self, path: Vec<Step>) {
        self.broken.push(path);
    }

    /// The document without what is broken. A list goes whole, so that the places of its items stay true.
    fn pruned(&self) -> Node {
        let mut tree = self.tree.clone();
        for path in &self.broken {
            let kept = path.iter().position(|step| matches!(step, Step::Index(_))).unwrap_or(path.len());
            remove(&mut tree, path.get(..kept).unwrap_or_default());
        }
        tree
    }
}

fn remove(node: &mut Node, path: &[Step]) {
    let Some((Step::Key(key), rest)) = path.split_first() else { return };
    let Data::Map(entries) = &mut node.data else { return };
    if rest.is_empty() {
        entries.retain(|entry| entry.key != *key);
    } else if let Some(entry) = entries.iter_mut().find(|entry| entry.key == *key) {
        remove(&mut entry.node, rest);
    }
}

fn collect_broken(node: &Node, path: &mut Vec<Step>, broken: &mut Vec<Vec<Step>>) {
    match &node.data {
        Data::Broken => broken.push(path.clone()),
        Data::List(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Index(index));
                collect_broken(item, path, broken);
                path.pop();
            }
        }
        Data::Map(entries) => {
            for entry in entries {
                path.push(Step::Key(entry.key.clone()));
                collect_broken(&entry.node, path, broken);
                path.pop();
            }
        }
        _ => {}
    }
}

/// A value that is not what its field wants.
fn mismatch(path: &str, node: &Node, field: &Field) -> Violation {
    let found = found(node, field);
    let (rule, message) = if is_kind(&node.data, &field.kind) {
        ("value", url_fault(node, field).unwrap_or_else(|| "not a valid value".to_owned()))
    } else {
        ("type", "not of the right type".to_owned())
    };
    Violation {
        found: Some(found),
        expected: Some(field.expected.clone()),
        suggestion: remedy(node, field),
        ..Violation::new(path, rule, message)
    }
}

/// What is wrong with a URL, without the URL.
fn url_fault(node: &Node, field: &Field) -> Option<String> {
    let Data::Text(text) = &node.data else { return None };
    let is_url = field.secret && field.expected.starts_with("a URL");
    is_url.then(|| text.parse::<NatsUrl>().err().map(|fault| fault.to_string())).flatten()
}

fn is_kind(data: &Data, kind: &Kind) -> bool {
    match (data, kind) {
        (Data::Text(_), Kind::Text | Kind::Choice(_))
        | (Data::Bool(_), Kind::Boolean)
        | (Data::Number(_), Kind::Number)
        | (Data::List(_), Kind::List(_))
        | (Data::Map(_), Kind::Section(_)) => true,
        (Data::Number(number), Kind::Integer) => !number.is_f64(),
        _ => false,
    }
}

/// Says what was found. Nothing that is or may be a secret, and nothing from the environment, is repeated.
fn found(node: &Node, field: &Field) -> String {
    const SHOWN: usize = 40;
    match &node.data {
        Data::Null | Data::Broken => "nothing".to_owned(),
        Data::List(items) if items.is_empty() => "an empty list".to_owned(),
        Data::List(_) => "a list".to_owned(),
        Data::Map(_) => "a section of keys".to_owned(),
        _ if node.variable.is_some() => {
            format!("what the environment variable `{}` holds", node.variable.as_deref().unwrap_or_default())
        }
        _ if field.secret => "a value that is not shown".to_owned(),
        Data::Bool(flag) => format!("`{flag}`"),
        Data::Number(number) => format!("`{number}`"),
        // A URL with credentials, in a place where no URL belongs.
        Data::Text(text) | Data::Untyped(text) if text.contains('@') => "a text that is not shown".to_owned(),
        Data::Text(text) | Data::Untyped(text) if text.chars().count() > SHOWN => {
            let start: String = text.chars().take(SHOWN).collect();
            format!("a text of {} characters that begins with {start:?}", text.chars().count())
        }
        Data::Text(text) | Data::Untyped(text) => format!("the text {text:?}"),
    }
}

/// What to write instead, where that is clear.
fn remedy(node: &Node, field: &Field) -> Option<String> {
    if node.variable.is_some() {
        return None;
    }
    match (&field.kind, &node.data) {
        (Kind::Choice(choices), Data::Text(text)) => {
            suggest::nearest(text, choices.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"))
        }
        (Kind::Integer | Kind::Number, Data::Text(text)) => {
            scalar::number(text).map(|number| format!("write `{number}`, without quotes"))
        }
        (Kind::Boolean, Data::Text(text)) => match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Some("write `true`".to_owned()),
            "false" | "no" | "off" | "n" => Some("write `false`".to_owned()),
            _ => None,
        },
        (Kind::Text, Data::Number(_) | Data::Bool(_)) => Some("put it in quotes".to_owned()),
        (Kind::Section(_), Data::List(_)) => Some("write its keys without `-`".to_owned()),
        (Kind::List(_), Data::Map(_) | Data::Text(_)) => Some("begin each item with `- `".to_owned()),
        _ => None,
    }
}

/// The key of the section that was meant, or the only place where the key exists.
fn known_key(section: &[Step], key: &str) -> Option<String> {
    let Kind::Section(fields) = &ROOT.at(section)?.kind else { return None };
    if let Some(near) = suggest::nearest(key, fields.keys().map(String::as_str)) {
        return Some(near.to_owned());
    }
    let mut places = Vec::new();
    places_of(key, &ROOT, &mut Vec::new(), &mut places);
    match places.as_slice() {
        [place] => Some(place.clone()),
        _ => None,
    }
}

fn places_of(key: &str, field: &Field, path: &mut Vec<Step>, places: &mut Vec<String>) {
    let Kind::Section(fields) = &field.kind else { return };
    for (name, field) in fields {
        path.push(Step::Key(name.clone()));
        if name == key {
            places.push(dotted(path));
        }
        places_of(key, field, path, places);
        path.pop();
    }
}

/// `8080` for `8080.0`: to the schema both are whole.
fn whole(number: &Number) -> Option<Number> {
    // Up to here every whole number has a float of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = number.as_f64().filter(|_| number.is_f64())?;
    if float.fract() == 0.0 && float.abs() <= EXACT { format!("{float:.0}").parse().ok() } else { None }
}
