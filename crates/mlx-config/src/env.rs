//! The environment: variables that files refer to, and variables that set a key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use mlx_errors::Violation;

use crate::budget::Budget;
use crate::field::{Field, Kind};
use crate::findings::Findings;
use crate::path::{Step, dotted};
use crate::source::Sources;
use crate::suggest;
use crate::tree::{Data, Entry, Node, Position};
use crate::yaml;

/// What every variable that sets a key begins with.
const PREFIX: &str = "MLX_";

/// The variables, by name; `None` for a value that is not UTF-8.
#[derive(Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, Option<String>>);

/// The value of a variable is no text.
pub(crate) struct NotUtf8;

impl Environment {
    pub(crate) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let named = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self(named.map(|(name, value)| (name, value.into_string().ok())).collect())
    }

    /// The value of a variable, if it is set.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&str>, NotUtf8> {
        self.0.get(name).map(|value| value.as_deref().ok_or(NotUtf8)).transpose()
    }

    /// A layer of the keys that variables set.
    ///
    /// A variable with `__` in its name that sets no key is a violation: it was meant to. One without is somebody
    /// else's, `MLX_NATS_SERVER` for one, unless it names a key at the top.
    pub(crate) fn layer(
        &self,
        root: &Field,
        sources: &mut Sources,
        budget: &mut Budget,
        findings: &mut Findings,
    ) -> Node {
        let mut layer = Node::new(Data::Map(Vec::new()), Position::default());
        let keys = keys(root);
        for (name, value) in self.0.range(PREFIX.to_owned()..).take_while(|(name, _)| name.starts_with(PREFIX)) {
            let known = keys.get(name.as_str());
            if known.is_none() && !name.contains("__") {
                continue;
            }
            let place = Position { source: sources.add_variable(name), ..Position::default() };
            let fault = match (known, value) {
                (None, _)
                    if keys.keys().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with("__"))) =>
                {
                    Violation::new("", "unknownKey", format!("`{name}` names a section; set its keys one by one"))
                }
                (None, _) => {
                    let violation = Violation::new("", "unknownKey", format!("`{name}` sets no known key"));
                    let near = suggest::nearest(name, keys.keys().map(String::as_str));
                    violation.suggestion(near.map(|near| format!("did you mean `{near}`?")))
                }
                (Some((path, _)), None) => {
                    let message = format!("the environment variable `{name}` is not UTF-8");
                    Violation::new(dotted(path), "variable", message)
                }
                (Some((path, field)), Some(value)) => match value_node(value, field, name, place, sources, budget) {
                    Ok(node) => {
                        insert(&mut layer, path, node);
                        continue;
                    }
                    Err(message) => Violation::new(dotted(path), "type", message),
                },
            };
            findings.push(place, fault);
        }
        layer
    }

    /// Variables that set nothing, and are nearly the name of one that would: `MLX_NATS_MODE`.
    pub(crate) fn near_misses(&self, root: &Field) -> Vec<Violation> {
        let keys = keys(root);
        let plain = |name: &str| name.chars().filter(|c| *c != '_').collect::<String>().to_uppercase();
        let by_letters: BTreeMap<String, &str> = keys.keys().map(|name| (plain(name), name.as_str())).collect();
        let meant = |name: &str| {
            let is_ours = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
            // What has its own meaning, or is an error already.
            let is_known = !is_ours || keys.contains_key(name) || (name.starts_with(PREFIX) && name.contains("__"));
            if is_known { None } else { by_letters.get(&plain(name)).copied() }
        };
        let misses = self.0.keys().filter_map(|name| Some((name, meant(name)?)));
        misses
            .map(|(name, near)| {
                let message = format!("the environment variable `{name}` sets nothing");
                let suggestion = Some(format!("did you mean `{near}`?"));
                Violation::new("", "ignoredVariable", message).suggestion(suggestion)
            })
            .collect()
    }
}

/// The name of the variable that sets the key at `path`: `MLX_NATS__EMBEDDED__PORT`.
pub(crate) fn variable_name(path: &[Step]) -> String {
    let mut name = PREFIX.to_owned();
    for (index, step) in path.iter().enumerate() {
        if index > 0 {
            name.push_str("__");
        }
        let Step::Key(key) = step else { continue };
        let mut after_lower = false;
        for c in key.chars() {
            if after_lower && c.is_uppercase() {
                name.push('_');
            }
            after_lower = !c.is_uppercase();
            name.extend(c.to_uppercase());
        }
    }
    name
}

/// Puts `node` at `path`, making the maps on the way.
pub(crate) fn insert(root: &mut Node, path: &[Step], node: Node) {
    let layer = path.iter().rev().fold(node, |node, step| {
        let Step::Key(key) = step else { return node };
        let place = node.place;
        Node::new(Data::Map(vec![Entry::new(key.clone(), place, node)]), place)
    });
    root.merge(layer);
}

/// A text takes the type of its field; for a list or a section it is YAML, as in `[nats://a:4222, nats://b:4222]`.
fn value_node(
    value: &str,
    field: &Field,
    name: &str,
    place: Position,
    sources: &Sources,
    budget: &mut Budget,
) -> Result<Node, String> {
    budget.take(1, value.len()).map_err(|exceeded| format!("{}, `{name}` among them", exceeded.message()))?;
    let mut node = Node::new(Data::Untyped(value.to_owned()), place);
    node.variable = Some(name.into());
    if !matches!(field.kind, Kind::List(_) | Kind::Section(_)) {
        return Ok(node);
    }
    let mut findings = Findings::default();
    let parsed = yaml::parse(value, place.source, sources, budget, &mut findings);
    match parsed {
        Ok(mut node) if findings.is_empty() => {
            attribute(&mut node, &name.into(), place);
            Ok(node)
        }
        _ => Err(format!("the environment variable `{name}` is not well-formed YAML, as in `[first, second]`")),
    }
}

fn attribute(node: &mut Node, name: &Arc<str>, place: Position) {
    node.place = place;
    node.variable = Some(Arc::clone(name));
    match &mut node.data {
        Data::List(items) => {
            for item in items {
                attribute(item, name, place);
            }
        }
        Data::Map(entries) => {
            for entry in entries {
                entry.key_place = place;
                attribute(&mut entry.node, name, place);
            }
        }
        _ => {}
    }
}

/// Every key below `root` that one variable can set, by that variable.
fn keys(root: &Field) -> BTreeMap<String, (Vec<Step>, &Field)> {
    fn collect<'a>(field: &'a Field, path: &mut Vec<Step>, keys: &mut BTreeMap<String, (Vec<Step>, &'a Field)>) {
        match &field.kind {
            Kind::Section(fields) => {
                for (key, field) in fields {
                    path.push(Step::Key(key.clone()));
                    collect(field, path, keys);
                    path.pop();
                }
            }
            _ => {
                keys.insert(variable_name(path), (path.clone(), field));
            }
        }
    }
    let mut keys = BTreeMap::new();
    collect(root, &mut Vec::new(), &mut keys);
    keys
}
