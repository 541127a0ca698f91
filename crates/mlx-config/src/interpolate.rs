//! `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$${`, resolved inside scalars once the document is parsed. A default may
//! hold further references, as Compose has it.
//!
//! A value from the environment is a text inside one scalar and can never become a key, a list or a comment.

use std::sync::Arc;

use mlx_errors::Violation;

use crate::budget::Budget;
use crate::env::{self, Environment};
use crate::findings::Findings;
use crate::path::{Step, shown};
use crate::source::Sources;
use crate::tree::{Data, Node, Position};

/// References inside the default of a reference.
const MAX_DEPTH: usize = 16;

/// Resolves every variable below `node`.
pub(crate) fn resolve(
    node: &mut Node,
    environment: &Environment,
    sources: &Sources,
    budget: &mut Budget,
    findings: &mut Findings,
) {
    Resolver { environment, sources, budget, findings, is_over: false, path: Vec::new() }.node(node);
}

struct Resolver<'a> {
    environment: &'a Environment,
    sources: &'a Sources,
    budget: &'a mut Budget,
    findings: &'a mut Findings,
    /// The budget is used up, which has been told.
    is_over: bool,
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

    fn text(&mut self, text: &str, place: Position) -> (Data, Option<Arc<str>>) {
        if self.is_over {
            return (Data::Broken, None);
        }
        let parts = self.parts(text, 0);
        let spent = parts.as_ref().map_or(0, |parts| parts.text.len());
        if let Err(exceeded) = self.budget.take_bytes(spent) {
            self.is_over = true;
            self.report(self.fault("variable", exceeded.message()), place);
            return (Data::Broken, None);
        }
        match parts {
            Ok(Parts { text, variable, is_reference: true }) => (Data::Untyped(text), variable),
            Ok(Parts { text, variable, is_reference: false }) => (Data::Text(text), variable),
            Err(faults) => {
                for (offset, fault) in faults {
                    self.report(fault, at_offset(place, text, offset));
                }
                (Data::Broken, None)
            }
        }
    }

    /// Resolves every reference in a text, or says what is wrong with each, and where in the text.
    fn parts(&self, text: &str, depth: usize) -> Result<Parts, Vec<(usize, Violation)>> {
        let mut parts = Parts { text: String::with_capacity(text.len()), variable: None, is_reference: false };
        let mut faults = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(escaped) = before.strip_suffix('$') {
                parts.text.push_str(escaped);
                parts.text.push_str("${");
                rest = from.strip_prefix("${").unwrap_or_default();
                continue;
            }
            parts.text.push_str(before);
            let offset = text.len() - from.len();
            let (reference, after) = split(from);
            rest = after;
            let resolved = match reference {
                Some(_) if depth == MAX_DEPTH => Err(vec![(
                    0,
                    self.fault("variable", format!("references are nested deeper than {MAX_DEPTH} levels")),
                )]),
                Some(inner) => self.reference(inner, depth),
                None => Err(vec![(0, self.fault("variable", UNCLOSED.to_owned()))]),
            };
            match resolved {
                Ok(found) => {
                    parts.is_reference = offset == 0 && rest.is_empty();
                    parts.text.push_str(&found.text);
                    parts.variable = parts.variable.or(found.variable);
                }
                Err(found) => faults.extend(found.into_iter().map(|(within, fault)| (offset + within, fault))),
            }
        }
        parts.text.push_str(rest);
        if faults.is_empty() { Ok(parts) } else { Err(faults) }
    }

    /// Resolves what stands between `${` and its `}`. Places are counted from the `${`.
    fn reference(&self, inner: &str, depth: usize) -> Result<Parts, Vec<(usize, Violation)>> {
        let fail = |message: String| vec![(0, self.fault("variable", message))];
        let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
        let (name, form) = inner.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            let message = "`${` is not followed by the name of a variable; write `$${` for the characters themselves";
            return Err(fail(message.to_owned()));
        }
        let value = self
            .environment
            .get(name)
            .map_err(|env::NotUtf8| fail(format!("the environment variable `{name}` is not UTF-8")))?;
        // As in a shell, an empty variable counts as unset where the reference says what then.
        let set = value.filter(|value| !value.is_empty());
        let from_variable =
            |value: &str| Parts { text: value.to_owned(), variable: Some(name.into()), is_reference: true };
        if form.is_empty() {
            return value.map(from_variable).ok_or_else(|| {
                let mut faults = fail(format!("the environment variable `{name}` is not set"));
                for (_, fault) in &mut faults {
                    fault.suggestion = Some(format!("set it, or write `${{{name}:-default}}`"));
                }
                faults
            });
        }
        if let Some(default) = form.strip_prefix(":-") {
            return match set {
                Some(value) => Ok(from_variable(value)),
                None => self.parts(default, depth + 1).map_err(|faults| {
                    let before = "${".len() + inner.len() - default.len();
                    faults.into_iter().map(|(within, fault)| (before + within, fault)).collect()
                }),
            };
        }
        if let Some(message) = form.strip_prefix(":?") {
            return set.map(from_variable).ok_or_else(|| {
                let message = if message.is_empty() { "it is required" } else { message };
                fail(format!("the environment variable `{name}` is not set: {message}"))
            });
        }
        Err(fail(format!("after `${{{name}` only `}}`, `:-` or `:?` may follow")))
    }

    fn fault(&self, rule: &str, message: String) -> Violation {
        Violation::new(shown(&self.path), rule, message)
    }

    fn report(&mut self, violation: Violation, place: Position) {
        let sources = self.sources;
        self.findings.offer(place, || violation.location(sources.location(place)));
    }
}

const UNCLOSED: &str = "`${` has no `}`; write `$${` for the characters themselves";

/// What a text comes to.
struct Parts {
    text: String,
    /// The variable that it, or a part of it, came from.
    variable: Option<Arc<str>>,
    /// It is one reference and nothing else.
    is_reference: bool,
}

/// What stands between the `${` that `from` begins with and its own `}`, if there is one, and what follows.
fn split(from: &str) -> (Option<&str>, &str) {
    let inner = from.strip_prefix("${").unwrap_or(from);
    let mut open = 1_usize;
    let mut before = '\0';
    for (at, c) in inner.char_indices() {
        match c {
            '{' if before == '$' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return (inner.get(..at), inner.get(at + 1..).unwrap_or_default());
        }
        before = c;
    }
    (None, "")
}

/// The place of a part of a scalar, where the scalar is written as it reads; the scalar's own place otherwise.
fn at_offset(place: Position, text: &str, offset: usize) -> Position {
    let written = place.end_column.saturating_sub(place.column);
    let quotes = written.saturating_sub(text.chars().count());
    if place.line != place.end_line || written < text.chars().count() || !matches!(quotes, 0 | 2) {
        return place;
    }
    let before = text.get(..offset).map_or(0, |before| before.chars().count());
    Position { column: place.column + quotes / 2 + before, ..place }
}
