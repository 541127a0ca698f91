//! What is wrong with a document: everything, in one pass, in the order of the file.

use std::collections::HashSet;
use std::sync::LazyLock;

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use mlx_errors::{Violation, Violations};
use mlx_types::{ClusterConfig, NatsUrl};
use serde_json::{Number, Value};

use crate::field::{Field, Kind, ROOT, SCHEMA};
use crate::findings::Findings;
use crate::path::steps;
use crate::path::{Step, dotted, shown};
use crate::source::Sources;
use crate::tree::{Data, Node, Position, State};
use crate::{redact, scalar, suggest};

/// Keys that are looked up among those that exist, in one load: who has more has the wrong file.
const LOOKUPS: usize = 1_000;

/// Turns of the types' own check, each of which leaves one value out.
const TURNS: usize = 20;

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
pub(crate) fn explain(tree: Node, findings: Findings, sources: &Sources) -> Violations {
    let mut explainer = Explainer { tree, sources, findings };
    explainer.run();
    explainer.findings.into_violations()
}

/// A document that is no map of keys at all.
pub(crate) fn not_a_section(node: &Node, sources: &Sources) -> Violation {
    mismatch(&[], node, &ROOT).location(sources.location(node.place))
}

/// Secrets from the environment that end in a line break, as what `$(cat file)` makes of a file with Windows' line ends.
pub(crate) fn line_breaks(
    node: &Node,
    field: &Field,
    path: &mut Vec<Step>,
    sources: &Sources,
    warnings: &mut Vec<Violation>,
) {
    match &node.data {
        Data::Map(entries) => {
            for entry in entries {
                let Some(field) = field.key(entry.name()) else { continue };
                path.push(Step::Key(entry.key.clone()));
                line_breaks(&entry.node, field, path, sources, warnings);
                path.pop();
            }
        }
        Data::Text(text) if field.secret && text.ends_with(['\n', '\r']) => {
            let message = match &node.variable {
                Some(variable) => format!("the environment variable `{variable}` ends in a line break"),
                None => "the value ends in a line break".to_owned(),
            };
            warnings.push(
                Violation::new(dotted(path), "lineBreak", message)
                    .location(sources.location(node.place))
                    .suggestion(LINE_BREAK.to_owned()),
            );
        }
        _ => {}
    }
}

const LINE_BREAK: &str = "take the line break off, unless it is part of the value: was it read from a file?";

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
    findings: Findings,
}

impl Explainer<'_> {
    fn run(&mut self) {
        let mut lookups = LOOKUPS;
        self.take_what_was_meant(&mut Vec::new(), &ROOT, &mut lookups);
        self.against_schema();
        self.against_types();
    }

    /// Tells of every key that does not exist. What stands below a misspelt one is checked as what was meant.
    fn take_what_was_meant(&mut self, path: &mut Vec<Step>, field: &Field, lookups: &mut usize) {
        let Some(node) = path.iter().try_fold(&mut self.tree, |node, step| node.child_mut(step)) else { return };
        match (&mut node.data, &field.kind) {
            (Data::Map(entries), Kind::Section(fields)) => {
                let mut there: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
                let mut below = Vec::new();
                for entry in entries {
                    if fields.contains_key(&entry.key) {
                        below.push(entry.key.clone());
                        continue;
                    }
                    let candidates = fields.keys().map(String::as_str).filter(|name| !there.contains(*name));
                    let near = if *lookups == 0 { None } else { suggest::nearest(&entry.key, candidates) };
                    *lookups = lookups.saturating_sub(1);
                    match near {
                        Some(near) => {
                            there.insert(near.to_owned());
                            below.push(near.to_owned());
                            entry.meant = Some(near.into());
                        }
                        None => entry.node.state = State::Unknown,
                    }
                    let (section, sources, place) = (&*path, self.sources, entry.key_place);
                    let (key, meant) = (&entry.key, near);
                    self.findings.offer(place, || unknown_key(section, key, meant, place, sources));
                }
                for name in below {
                    let Some(field) = fields.get(&name) else { continue };
                    path.push(Step::Key(name));
                    self.take_what_was_meant(path, field, lookups);
                    path.pop();
                }
            }
            (Data::List(items), Kind::List(item)) if matches!(item.kind, Kind::Section(_)) => {
                for index in 0..items.len() {
                    path.push(Step::Index(index));
                    self.take_what_was_meant(path, item, lookups);
                    path.pop();
                }
            }
            _ => {}
        }
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
                // Told already.
                ValidationErrorKind::AdditionalProperties { .. } => {}
                ValidationErrorKind::Required { property } => self.missing(&path, property),
                _ => self.mismatch(&path),
            }
        }
    }

    fn missing(&mut self, section: &[Step], property: &Value) {
        let key = property.as_str().unwrap_or_default();
        let node = self.tree.nearest(section);
        if !node.entry(key).is_some_and(|entry| entry.node.is_faulty()) {
            let violation = || Violation::new(shown(section), "required", format!("`{key}` is missing"));
            offer(&mut self.findings, self.sources, node.place, violation);
        }
        self.tree.mark(section, State::Faulty);
    }

    fn mismatch(&mut self, path: &[Step]) {
        let node = self.tree.nearest(path);
        // One value may break several rules of the schema, which all end in the same sentence.
        if node.is_faulty() {
            return;
        }
        let Some(field) = ROOT.at(path) else { return };
        offer(&mut self.findings, self.sources, node.place, || mismatch(path, node, field));
        self.tree.mark(path, State::Faulty);
    }

    /// What the schema cannot say: the rules between members, on what is left of the document.
    fn against_types(&mut self) {
        // Each turn leaves one value out, so that the loop ends; a schema and types that agree need one turn.
        for _ in 0..TURNS {
            let value = self.tree.to_value(Some(&ROOT));
            let config: ClusterConfig = match serde_path_to_error::deserialize(value) {
                Ok(config) => config,
                Err(error) => {
                    let path = steps(&error.path().to_string()).unwrap_or_default();
                    let node = self.tree.nearest(&path);
                    let violation = || {
                        Violation::new(shown(&path), "type", "not a valid value")
                            .expected(ROOT.at(&path).map(|field| field.expected.clone()))
                    };
                    offer(&mut self.findings, self.sources, node.place, violation);
                    if path.is_empty() {
                        return;
                    }
                    self.tree.mark(&path, State::Faulty);
                    continue;
                }
            };
            for violation in config.check().err().iter().flatten() {
                let path = steps(&violation.path).unwrap_or_default();
                if self.depends_on_a_fault(&path) {
                    continue;
                }
                let place = self.tree.nearest(&path).place;
                let location = self.sources.location(place);
                self.findings.offer(place, || violation.clone().location(location));
            }
            return;
        }
    }

    /// Whether a value that the rule at `path` may look at is not known: one beside it, or beside a section that it is in.
    fn depends_on_a_fault(&self, path: &[Step]) -> bool {
        let ways = (0..path.len()).filter_map(|depth| path.get(..depth));
        let sections = ways.filter(|way| !way.is_empty() || path.len() == 1).map(|way| self.tree.at(way));
        let beside = sections.flatten().any(|section| match &section.data {
            Data::Map(entries) => entries.iter().any(|entry| entry.node.is_faulty() || holds_faulty_list(&entry.node)),
            _ => false,
        });
        beside || self.tree.at(path).is_some_and(Node::holds_fault)
    }
}

/// A list goes whole.
fn holds_faulty_list(node: &Node) -> bool {
    matches!(node.data, Data::List(_)) && node.holds_fault()
}

/// Adds a violation with its place, and says where a value came from that has none in a file.
fn offer(findings: &mut Findings, sources: &Sources, place: Position, violation: impl FnOnce() -> Violation) {
    findings.offer(place, || {
        let mut violation = violation();
        violation.location = sources.location(place);
        if let Some(attribution) = sources.attribution(place) {
            violation.message = format!("{}; {attribution}", violation.message);
        }
        violation
    });
}

fn unknown_key(section: &[Step], key: &str, near: Option<&str>, place: Position, sources: &Sources) -> Violation {
    let path = [section, &[Step::Key(key.to_owned())]].concat();
    let meant = near.map(str::to_owned).or_else(|| known_key(section, key));
    let mut violation = Violation::new(shown(&path), "unknownKey", "there is no such key");
    violation.suggestion = meant.map(|near| format!("did you mean `{near}`?"));
    violation.location = sources.location(place);
    if let Some(attribution) = sources.attribution(place) {
        violation.message = format!("{}; {attribution}", violation.message);
    }
    violation
}

/// A value that is not what its field wants.
fn mismatch(path: &[Step], node: &Node, field: &Field) -> Violation {
    let found = found(node, field);
    let (rule, message) = if is_too_large(&node.data, &field.kind) {
        ("range", "larger than any number that this program can hold".to_owned())
    } else if is_kind(&node.data, &field.kind) {
        ("value", url_fault(node, field).unwrap_or_else(|| "not a valid value".to_owned()))
    } else {
        ("type", "not of the right type".to_owned())
    };
    Violation::new(shown(path), rule, message)
        .found(found)
        .expected(field.expected.clone())
        .suggestion(remedy(node, field))
}

/// A whole number that no integer holds is a float by then.
fn is_too_large(data: &Data, kind: &Kind) -> bool {
    const LARGEST: f64 = 18_446_744_073_709_551_615.0;
    let Data::Number(number) = data else { return false };
    matches!(kind, Kind::Integer) && number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= LARGEST)
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
        Data::Number(number) if is_too_large(&node.data, &field.kind) => {
            format!("about `{number}`")
        }
        Data::Number(number) => format!("`{number}`"),
        // A line of its own, of which a space is missing, for one.
        Data::Text(_) | Data::Untyped(_) if matches!(field.kind, Kind::Section(_) | Kind::List(_)) => {
            "a text".to_owned()
        }
        // The line below may have been meant for another key.
        Data::Text(_) | Data::Untyped(_) if node.place.line != node.place.end_line => {
            "a text of several lines".to_owned()
        }
        // A URL with credentials, in a place where no URL belongs; or a key and its value.
        Data::Text(text) | Data::Untyped(text) if redact::may_hold_secret(text) => {
            "a text that is not shown".to_owned()
        }
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
        let ends_in_break = matches!(&node.data, Data::Text(text) if text.ends_with(['\n', '\r']));
        return ends_in_break.then(|| LINE_BREAK.to_owned());
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

/// The only place where the key exists.
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
