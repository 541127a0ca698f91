//! `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$${`, resolved inside scalars once the document is parsed.
//!
//! A value from the environment is a text inside one scalar and can never become a key, a list or a comment.

use mlx_errors::Violation;

use crate::env::{self, Environment};
use crate::source::Sources;
use crate::tree::{Data, Node, Place, Step, dotted};

/// Resolves every variable below `node`.
pub(crate) fn resolve(
    node: &mut Node,
    environment: &Environment,
    sources: &Sources,
    violations: &mut Vec<(Place, Violation)>,
) {
    Resolver { environment, sources, violations, path: Vec::new() }.node(node);
}

struct Resolver<'a> {
    environment: &'a Environment,
    sources: &'a Sources,
    violations: &'a mut Vec<(Place, Violation)>,
    path: Vec<Step>,
}

impl Resolver<'_> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.data {
            Data::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push(Step::Index(index));
                    self.node(item);
                    self.path.pop();
                }
            }
            Data::Map(entries) => {
                for entry in entries {
                    self.path.push(Step::Key(entry.key.clone()));
                    self.node(&mut entry.node);
                    self.path.pop();
                }
            }
            Data::Text(text) if text.contains("${") => {
                let text = std::mem::take(text);
                (node.data, node.variable) = self.text(&text, node.place);
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str, place: Place) -> (Data, Option<String>) {
        let mut resolved = String::with_capacity(text.len());
        let mut variable = None;
        let mut untyped = false;
        let mut broken = false;
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(escaped) = before.strip_suffix('$') {
                resolved.push_str(escaped);
                resolved.push_str("${");
                rest = from.strip_prefix("${").unwrap_or_default();
                continue;
            }
            resolved.push_str(before);
            let offset = text.len() - from.len();
            match self.reference(from) {
                Ok(found) => {
                    untyped = offset == 0 && found.rest.is_empty();
                    resolved.push_str(&found.value);
                    variable = variable.or(found.variable);
                    rest = found.rest;
                }
                Err((violation, after)) => {
                    self.report(*violation, at_offset(place, text, offset));
                    broken = true;
                    rest = after;
                }
            }
        }
        resolved.push_str(rest);
        let data = match (broken, untyped) {
            (true, _) => Data::Broken,
            (false, true) => Data::Untyped(resolved),
            (false, false) => Data::Text(resolved),
        };
        (data, variable)
    }

    /// Reads and resolves the reference that `from` begins with.
    fn reference<'t>(&self, from: &'t str) -> Result<Reference<'t>, (Box<Violation>, &'t str)> {
        let path = dotted(&self.path);
        let fault =
            |rule: &str, message: String, rest: &'t str| (Box::new(Violation::new(path.clone(), rule, message)), rest);
        let inner = from.strip_prefix("${").unwrap_or(from);
        let Some((inner, rest)) = inner.split_once('}') else {
            let message = "`${` has no `}`; write `$${` for the characters themselves".to_owned();
            return Err(fault("variable", message, ""));
        };
        let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
        let (name, form) = inner.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            let message = "`${` is not followed by the name of a variable; write `$${` for the characters themselves";
            return Err(fault("variable", message.to_owned(), rest));
        }
        let value = self.environment.get(name).map_err(|env::NotUtf8| {
            fault("variable", format!("the environment variable `{name}` is not UTF-8"), rest)
        })?;
        // As in a shell, an empty variable counts as unset where the reference says what then.
        let set = value.filter(|value| !value.is_empty());
        let from_variable = |value: &str| Reference { value: value.to_owned(), variable: Some(name.to_owned()), rest };
        if form.is_empty() {
            return value.map(from_variable).ok_or_else(|| {
                let (mut violation, rest) =
                    fault("variable", format!("the environment variable `{name}` is not set"), rest);
                violation.suggestion = Some(format!("set it, or write `${{{name}:-default}}`"));
                (violation, rest)
            });
        }
        if let Some(default) = form.strip_prefix(":-") {
            let default = || Reference { value: default.to_owned(), variable: None, rest };
            return Ok(set.map_or_else(default, from_variable));
        }
        if let Some(message) = form.strip_prefix(":?") {
            return set.map(from_variable).ok_or_else(|| {
                let message = if message.is_empty() { "it is required" } else { message };
                fault("variable", format!("the environment variable `{name}` is not set: {message}"), rest)
            });
        }
        Err(fault("variable", format!("after `${{{name}` only `}}`, `:-` or `:?` may follow"), rest))
    }

    fn report(&mut self, violation: Violation, place: Place) {
        let violation = Violation { location: self.sources.location(place), ..violation };
        self.violations.push((place, violation));
    }
}

struct Reference<'t> {
    value: String,
    /// The variable, where the value is its.
    variable: Option<String>,
    rest: &'t str,
}

/// The place of a part of a scalar, where the scalar is written as it reads; the scalar's own place otherwise.
fn at_offset(place: Place, text: &str, offset: usize) -> Place {
    let written = place.end_column.saturating_sub(place.column);
    let quotes = written.saturating_sub(text.chars().count());
    if place.line != place.end_line || written < text.chars().count() || !matches!(quotes, 0 | 2) {
        return place;
    }
    let before = text.get(..offset).map_or(0, |before| before.chars().count());
    Place { column: place.column + quotes / 2 + before, ..place }
}
