//! From text to tree: well-formedness, duplicate keys, and bounds on depth and size.

use std::collections::HashMap;

use mlx_errors::Violation;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::budget::{Budget, Exceeded, MAX_PATH};
use crate::findings::Findings;
use crate::path::{Step, shown};
use crate::scalar;
use crate::source::Sources;
use crate::tree::{Data, Entry, Node, Position};

/// Deeper than any configuration, and far from the end of the stack.
const MAX_DEPTH: usize = 64;

/// Reads one document.
///
/// # Errors
/// The one violation after which nothing more can be said of the document. Those after which reading can go on
/// (duplicate keys, unknown tags) are added to `findings`.
pub(crate) fn parse(
    text: &str,
    source: usize,
    sources: &Sources,
    budget: &mut Budget,
    findings: &mut Findings,
) -> Result<Node, Box<Violation>> {
    let read = |text: &str, budget: &mut Budget, findings: &mut Findings| {
        Reader {
            parser: Parser::new_from_str(text),
            text,
            source,
            sources,
            budget,
            findings,
            anchors: HashMap::new(),
            path: Vec::new(),
            path_length: 0,
        }
        .document()
    };
    match without_tabs_behind_colons(text) {
        Some(text) => read(&text, budget, findings),
        None => read(text, budget, findings),
    }
}

/// YAML takes a tab between a key's colon and its value, and the parser does not: a space at the same place for each.
fn without_tabs_behind_colons(text: &str) -> Option<String> {
    if !text.contains(":\t") {
        return None;
    }
    let mut replaced = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (mut quote, mut before) = (None, ' ');
        let mut behind_colon = false;
        for c in line.chars() {
            behind_colon = c == '\t' && quote.is_none() && (before == ':' || behind_colon);
            match quote {
                Some(open) if c == open => quote = None,
                None if matches!(c, '"' | '\'') && !before.is_alphanumeric() => quote = Some(c),
                _ => {}
            }
            replaced.push(if behind_colon { ' ' } else { c });
            before = c;
        }
    }
    Some(replaced)
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    text: &'a str,
    source: usize,
    sources: &'a Sources,
    budget: &'a mut Budget,
    findings: &'a mut Findings,
    anchors: HashMap<usize, Node>,
    path: Vec<Step>,
    /// Bytes of the keys of it.
    path_length: usize,
}

impl<'a> Reader<'a> {
    fn document(mut self) -> Result<Node, Box<Violation>> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    return Err(
                        self.fatal(self.place(span), "a second document begins; a configuration is one document")
                    );
                }
                event => root = Some(self.node(event, span)?),
            }
        }
        match root {
            Some(node) if !matches!(node.data, Data::Null) => Ok(node),
            _ => {
                let start = Position { source: self.source, line: 1, column: 1, end_line: 1, end_column: 1 };
                let mut violation = self.fatal(start, "the document is empty");
                violation.suggestion = Some("write `{}` to run on the defaults".to_owned());
                Err(violation)
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Box<Violation>> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Box<Violation>> {
        let place = self.place(span);
        let text = if let Event::Scalar(text, ..) = &event { text.len() } else { 0 };
        let taken = self.budget.take(1, text);
        self.within(place, taken)?;
        if self.path.len() > MAX_DEPTH {
            return Err(self.fatal(place, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let data = self.scalar(&text, style, tag.as_deref(), place);
                (anchor, Node::new(data, place))
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), place);
                (anchor, Node::new(Data::List(self.list()?), place))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), place);
                (anchor, Node::new(Data::Map(self.map()?), place))
            }
            Event::Alias(anchor) => return self.alias(anchor, place),
            _ => return Err(self.fatal(place, "a value was expected here")),
        };
        self.remember(anchor, &node)?;
        Ok(node)
    }

    /// Keeps what an alias may repeat.
    fn remember(&mut self, anchor: usize, node: &Node) -> Result<(), Box<Violation>> {
        if anchor != 0 {
            let taken = self.budget.take_copy(node);
            self.within(node.place, taken)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<Node>, Box<Violation>> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            self.path.push(Step::Index(items.len()));
            items.push(self.node(event, span)?);
            self.path.pop();
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, Box<Violation>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Position> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let key_place = self.place(span);
            let (key, anchor) = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, _, anchor, _) => (text.into_owned(), anchor),
                Event::Alias(anchor) => (self.key_of(anchor, key_place)?, 0),
                _ => return Err(self.fatal(key_place, "a key must be a plain text")),
            };
            let taken = self.budget.take_bytes(key.len());
            self.within(key_place, taken)?;
            self.remember(anchor, &Node::new(Data::Text(key.clone()), key_place))?;
            self.path_length += key.len();
            if self.path_length > MAX_PATH {
                return Err(self.fatal(key_place, &format!("the keys on the way here have more than {MAX_PATH} bytes")));
            }
            self.path.push(Step::Key(key.clone()));
            let (event, span) = self.next()?;
            let node = self.node(event, span)?;
            if let Some(first) = seen.get(&key) {
                let message = format!("this key is already given on line {}", first.line);
                self.path_length -= key.len();
                self.report(key_place, "duplicateKey", &message);
            } else {
                seen.insert(key.clone(), key_place);
                self.path_length -= key.len();
                entries.push(Entry::new(key, key_place, node));
            }
            self.path.pop();
        }
    }

    fn alias(&mut self, anchor: usize, place: Position) -> Result<Node, Box<Violation>> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(self.fatal(place, "the alias stands inside of what it refers to"));
        };
        let taken = self.budget.take_copy(node);
        let copy = taken.is_ok().then(|| node.clone());
        self.within(place, taken)?;
        copy.ok_or_else(|| self.fatal(place, "an alias of nothing"))
    }

    /// The key that an alias stands for.
    fn key_of(&self, anchor: usize, place: Position) -> Result<String, Box<Violation>> {
        match self.anchors.get(&anchor).map(|node| &node.data) {
            Some(Data::Text(text)) => Ok(text.clone()),
            _ => Err(self.fatal(place, "a key must be a plain text")),
        }
    }

    fn within(&self, place: Position, taken: Result<(), Exceeded>) -> Result<(), Box<Violation>> {
        taken.map_err(|exceeded| self.fatal(place, &exceeded.message()))
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Position) -> Data {
        match tag {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Data::Text(text.to_owned()),
            Some(_) => {
                self.refuse_tag(tag, place);
                Data::Broken
            }
            None if style == ScalarStyle::Plain => scalar::resolve(text),
            None => Data::Text(text.to_owned()),
        }
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, place: Position) {
        if tag.is_some() {
            self.report(place, "tag", "tags other than `!!str` are not supported");
        }
    }

    fn report(&mut self, place: Position, rule: &str, message: &str) {
        let (path, sources) = (&self.path, self.sources);
        self.findings.offer(place, || Violation::new(shown(path), rule, message).location(sources.location(place)));
    }

    fn fatal(&self, place: Position, message: &str) -> Box<Violation> {
        let location = self.sources.location(place);
        Box::new(Violation::new(shown(&self.path), "syntax", message).location(location))
    }

    fn syntax(&self, error: &ScanError) -> Box<Violation> {
        let (mut line, mut column) = (error.marker().line().max(1), error.marker().col() + 1);
        let written = self.text.trim_end();
        let lines = written.lines().count().max(1);
        // What is missing at the end is missing after the last thing written, where there is a line to show.
        if line > lines {
            line = lines;
            column = written.lines().last().map_or(0, |last| last.chars().count()).max(1);
        }
        let place = Position { source: self.source, line, column, end_line: line, end_column: column };
        let mut violation = self.fatal(place, error.info());
        violation.suggestion = self.hint(line, error.info());
        violation
    }

    /// What is usually behind an error of the parser.
    fn hint(&self, line: usize, info: &str) -> Option<String> {
        let found = self.text.lines().nth(line - 1).unwrap_or_default();
        let indent: String = found.chars().take_while(|c| c.is_whitespace()).collect();
        let hint = if info.contains("unprintable") {
            "a character that cannot be seen stands here; take it out"
        } else if indent.contains('\t') || info.contains("tab") {
            "indent with spaces, not with tabs"
        } else if info.contains("simple key expect") || info.contains("could not find expected ':'") {
            "is a `:` missing after the key?"
        } else if info.contains("mapping values are not allowed") {
            "is a `:` missing on a line above, the indentation wrong, or a text that holds `: ` not in quotes?"
        } else if info.contains("did not find expected key") {
            "is it indented as the keys beside it?"
        } else if info.contains("quoted scalar") && !info.contains("escape") {
            "is a closing quote missing?"
        } else if info.contains("flow") && found.contains("${") {
            "put `${...}` in quotes where it stands between braces or brackets"
        } else {
            return None;
        };
        Some(hint.to_owned())
    }

    fn place(&self, span: Span) -> Position {
        Position {
            source: self.source,
            line: span.start.line(),
            column: span.start.col() + 1,
            end_line: span.end.line(),
            end_column: span.end.col() + 1,
        }
    }
}
