//! From text to tree: well-formedness, duplicate keys, and bounds on depth and size.

use std::collections::HashMap;

use mlx_errors::Violation;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::scalar;
use crate::source::Sources;
use crate::tree::{Data, Entry, Node, Place, Step, dotted};

/// Deeper than any configuration, and far from the end of the stack.
const MAX_DEPTH: usize = 64;
/// Nodes of one document with its aliases expanded: an alias bomb stops here.
const MAX_NODES: usize = 100_000;

/// Reads one document.
///
/// # Errors
/// The one violation after which nothing more can be said of the document. Those after which reading can go on
/// (duplicate keys, unknown tags) are added to `violations`.
pub(crate) fn parse(
    text: &str,
    source: usize,
    sources: &Sources,
    violations: &mut Vec<(Place, Violation)>,
) -> Result<Node, Box<Violation>> {
    Reader {
        parser: Parser::new_from_str(text),
        text,
        source,
        sources,
        violations,
        anchors: HashMap::new(),
        nodes: 0,
        path: Vec::new(),
    }
    .document()
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    text: &'a str,
    source: usize,
    sources: &'a Sources,
    violations: &'a mut Vec<(Place, Violation)>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    path: Vec<Step>,
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
                let start = Place { source: self.source, line: 1, column: 1, end_line: 1, end_column: 1 };
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
        self.count(place, 1)?;
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
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
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
        let mut seen: HashMap<String, Place> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let key_place = self.place(span);
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.fatal(key_place, "a key must be a plain text")),
            };
            self.path.push(Step::Key(key.clone()));
            let (event, span) = self.next()?;
            let node = self.node(event, span)?;
            if let Some(first) = seen.get(&key) {
                let message = format!("this key is already given on line {}", first.line);
                let path = dotted(&self.path);
                self.report(key_place, Violation::new(path, "duplicateKey", message));
            } else {
                seen.insert(key.clone(), key_place);
                entries.push(Entry { key, key_place, node });
            }
            self.path.pop();
        }
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<Node, Box<Violation>> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(self.fatal(place, "the alias stands inside of what it refers to"));
        };
        self.count(place, weight(&node))?;
        Ok(node)
    }

    fn count(&mut self, place: Place, nodes: usize) -> Result<(), Box<Violation>> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = format!("the document holds more than {MAX_NODES} values, its aliases expanded");
            return Err(self.fatal(place, &message));
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Data {
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

    fn refuse_tag(&mut self, tag: Option<&Tag>, place: Place) {
        if tag.is_some() {
            let path = dotted(&self.path);
            self.report(place, Violation::new(path, "tag", "tags other than `!!str` are not supported"));
        }
    }

    fn report(&mut self, place: Place, violation: Violation) {
        let violation = Violation { location: self.sources.location(place), ..violation };
        self.violations.push((place, violation));
    }

    fn fatal(&self, place: Place, message: &str) -> Box<Violation> {
        let location = self.sources.location(place);
        Box::new(Violation { location, ..Violation::new(dotted(&self.path), "syntax", message) })
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
        let place = Place { source: self.source, line, column, end_line: line, end_column: column };
        let mut violation = self.fatal(place, error.info());
        violation.suggestion = self.hint(line, error.info());
        violation
    }

    /// What is usually behind an error of the parser.
    fn hint(&self, line: usize, info: &str) -> Option<String> {
        let found = self.text.lines().nth(line - 1).unwrap_or_default();
        let indent: String = found.chars().take_while(|c| c.is_whitespace()).collect();
        let hint = if indent.contains('\t') || info.contains("tab") {
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

    fn place(&self, span: Span) -> Place {
        Place {
            source: self.source,
            line: span.start.line(),
            column: span.start.col() + 1,
            end_line: span.end.line(),
            end_column: span.end.col() + 1,
        }
    }
}

fn weight(node: &Node) -> usize {
    match &node.data {
        Data::List(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Data::Map(entries) => 1 + entries.iter().map(|entry| weight(&entry.node)).sum::<usize>(),
        _ => 1,
    }
}
