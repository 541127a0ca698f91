//! Broken rules drawn for people, each with the offending line.

use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Message, Origin, Renderer, Snippet};
use mlx_errors::{Location, REDACTED, Violation, Violations, is_secret_name, one_line, redact};

/// Each with its line of the file, the place marked; with terminal colours if `colour`.
///
/// `source` gives the text of a file by the name in the violation's location; where it gives none, and for
/// violations without a location, the line is left out. It is left out too where it may hold a secret, in a key
/// with a secret's name or below one, or in a URL whose credentials cannot be told from the rest; other credentials in
/// URLs are hidden.
///
/// ```
/// # use mlx_errors::{Location, Violation, Violations};
/// let mut violation = Violation::new("nats.prot", "unknownKey", "there is no such key");
/// violation.location = Some(Location::new("cluster.yaml", 2, 3));
/// violation.suggestion = Some("did you mean `port`?".into());
/// let source = |_: &std::path::Path| Some("nats:\n  prot: 4222\n".into());
/// let drawn = mlx_config::draw(&Violations::from(vec![violation]), source, false);
/// assert_eq!(drawn, "\
/// error[unknownKey]: nats.prot: there is no such key
///  --> cluster.yaml:2:3
///   |
/// 2 |   prot: 4222
///   |   ^^^^
///   |
///   = help: did you mean `port`?
/// ");
/// ```
pub fn draw(violations: &Violations, source: impl Fn(&Path) -> Option<String>, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for violation in violations {
        let shown = violation.location.as_ref().and_then(|location| {
            let line = Line::of(&source(&location.file)?, location)?;
            Some((location, line)).filter(|(_, line)| !line.secret && !concerns_secret(violation))
        });
        text.push_str(&renderer.render(&[group(violation, shown)]));
        text.push('\n');
    }
    text
}

fn group<'a>(violation: &'a Violation, shown: Option<(&'a Location, Line)>) -> Group<'a> {
    let path = if violation.path.is_empty() { String::new() } else { format!("{}: ", violation.path) };
    let title = one_line(&format!("{path}{}", violation.message));
    let group = Level::ERROR.primary_title(title).id(one_line(&violation.rule));
    let found = violation.details();
    let group = match (shown, &violation.location) {
        (Some((location, line)), _) => {
            let mark = AnnotationKind::Primary.span(line.mark);
            let mark = mark.label(found.as_deref().map(one_line));
            let snippet = Snippet::source(line.text)
                .line_start(location.line)
                .path(one_line(&location.file.to_string_lossy()))
                .annotation(mark);
            group.element(snippet)
        }
        (None, Some(location)) => {
            let origin = Origin::path(one_line(&location.file.to_string_lossy()))
                .line(location.line)
                .char_column(location.column);
            let group = group.element(origin);
            group.elements(found.as_deref().map(note))
        }
        (None, None) => group.elements(found.as_deref().map(note)),
    };
    match &violation.suggestion {
        Some(suggestion) => group.element(Level::HELP.message(one_line(suggestion))),
        None => group,
    }
}

/// The line that a location names.
struct Line {
    text: String,
    /// The bytes to mark: the word that begins at the column.
    mark: std::ops::Range<usize>,
    secret: bool,
}

impl Line {
    fn of(source: &str, location: &Location) -> Option<Self> {
        let mut above: Vec<&str> = source.lines().take(location.line).collect();
        let line = above.pop().filter(|_| above.len() + 1 == location.line)?;
        let below = source.lines().skip(location.line);
        let secret = assigns_secret(line) || inside_secret(line, &above) || shows_credentials(line, &above, below);
        // The column counts in the line as it is written; hiding a password before it moves the place.
        let column = location.column.saturating_sub(1);
        let written = line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
        let text = redact(line).into_owned();
        let before = redact(line.get(..written).unwrap_or_default());
        let (start, after) = match text.strip_prefix(&*before) {
            Some(after) => (before.len(), after),
            // The column lies within what is hidden: the line as a whole is meant.
            None => (text.len() - text.trim_start().len(), text.trim_start()),
        };
        let ends_word = |char: char| char.is_whitespace() || matches!(char, ':' | ',' | '#' | ']' | '}');
        let word = match after.chars().next() {
            Some(quote @ ('"' | '\'')) => after.get(1..).and_then(|rest| rest.find(quote)).map(|at| at + 2),
            _ => after.find(ends_word),
        };
        let first = after.chars().next().map_or(0, char::len_utf8);
        let mark = start..start + word.unwrap_or_else(|| after.trim_end().len()).max(first);
        Some(Self { text, mark, secret })
    }
}

/// Whether the rule is about a secret: its key is one, or was meant to be.
fn concerns_secret(violation: &Violation) -> bool {
    let words = |text: &str| text.split(|char: char| !char.is_alphanumeric() && char != '_').any(is_secret_name);
    words(&violation.path) || violation.suggestion.as_deref().is_some_and(words)
}

/// Whether a value is given to a key with a secret's name in this line.
fn assigns_secret(line: &str) -> bool {
    let mut keys: Vec<&str> = line.split([':', '=']).collect();
    // What follows the last separator is no key.
    keys.pop();
    keys.iter().any(|key| is_secret_name(key.trim_end_matches(|char: char| !char.is_alphanumeric())))
}

/// Whether the line lies below a key with a secret's name, as the lines of a block scalar do.
fn inside_secret(line: &str, above: &[&str]) -> bool {
    let mut deepest = indent(line);
    for parent in above.iter().rev().filter(|line| !line.trim().is_empty()) {
        if indent(parent) < deepest {
            if assigns_secret(parent) {
                return true;
            }
            deepest = indent(parent);
        }
    }
    false
}

/// Whether the line has credentials of a URL that [`redact`] does not know for such: with a space or a quote in the password,
/// which is what is wrong with many a URL, or broken over two lines.
fn shows_credentials<'a>(line: &str, above: &[&str], below: impl Iterator<Item = &'a str>) -> bool {
    let begun = |line: &str| {
        let known = redact(line).replace(&format!("://{REDACTED}@"), " ");
        known.split_once("://").map(|(_, after)| after.to_owned())
    };
    let deeper = |next: &&str| next.trim().is_empty() || indent(next) > indent(line);
    if let Some(after) = begun(line) {
        return after.contains('@') || below.take_while(deeper).any(|next| next.contains('@'));
    }
    let before = above.iter().rev().find(|line| !line.trim().is_empty());
    line.contains('@') && before.is_some_and(|before| begun(before).is_some_and(|after| !after.contains('@')))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn note(text: &str) -> Message<'static> {
    Level::NOTE.message(one_line(text))
}
