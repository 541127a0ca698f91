//! A page of Markdown as what there is to do with it.
//!
//! Which part a block plays is said by a comment before it that readers do not see:
//!
//! | comment | the block behind it |
//! |---|---|
//! | none | `sh`: commands, which must succeed |
//! | `<!-- exit 3 -->` | commands that must end with this code |
//! | `<!-- background NAME -->` | commands of another terminal, which go on |
//! | `<!-- stands in: COMMAND -->` | one command, in whose place this one is run |
//! | `<!-- file NAME -->` | a file, written to the current folder |
//! | `<!-- program: a worker -->` | a Rust program, run beside a worker |
//! | `<!-- script NAME -->` | a program in Python, for a test of its own |
//! | `<!-- message SUBJECT -->` | JSON that is a message of this subject |
//! | `<!-- configuration -->` | YAML that a node would read |
//! | `<!-- server -->`, `<!-- server with permissions -->` | the configuration of a nats-server |
//! | `<!-- output -->` | what the commands before it print |
//! | `<!-- picture -->` | nothing to run |
//!
//! `<!-- ctrl-c NAME -->`, without a block, ends what goes on in the background under this name.

use std::path::Path;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

/// A block of code, or a comment that stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The line of the page, from 1.
    pub(crate) line: usize,
    pub(crate) part: Part,
    pub(crate) text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Commands {
        exit: i32,
    },
    Background(String),
    StandIn(String),
    File(String),
    Program,
    Script(String),
    Message(String),
    Configuration,
    Server {
        permissions: bool,
    },
    Output,
    Picture,
    /// Not to be run: other languages, fragments.
    Shown(String),
    Interrupt(String),
}

/// The page at `path`, seen from the root of the workspace.
pub(crate) fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page of `docs/`, by its path.
pub(crate) fn all_of_docs() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let names = std::fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| Path::new(name).extension().is_some_and(|kind| kind == "md"))
        .map(|name| format!("docs/{name}"))
        .collect()
}

/// Everything that the page wants done, in order; or the first block of which nobody knows what to do with it.
pub(crate) fn steps(page: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut remark: Option<(usize, String)> = None;
    let mut block: Option<(usize, String, String)> = None;
    for (event, range) in Parser::new(page).into_offset_iter() {
        let line = page[..range.start].lines().count() + 1;
        match event {
            Event::Html(html) | Event::InlineHtml(html) => {
                let Some(text) = html.trim().strip_prefix("<!--").and_then(|html| html.strip_suffix("-->")) else {
                    continue;
                };
                match text.trim().split_once(' ') {
                    Some(("ctrl-c", name)) => {
                        let part = Part::Interrupt(name.to_owned());
                        steps.push(Step { line, part, text: String::new() });
                    }
                    _ => remark = Some((line, text.trim().to_owned())),
                }
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(info) => info.split([' ', ',']).next().unwrap_or_default().to_owned(),
                    CodeBlockKind::Indented => String::new(),
                };
                block = Some((line, language, String::new()));
            }
            Event::Text(text) => match &mut block {
                Some((_, _, code)) => code.push_str(&text),
                None => unused(&mut remark)?,
            },
            Event::End(TagEnd::CodeBlock) => {
                let (line, language, text) = block.take().unwrap();
                let remark = remark.take().map(|(_, remark)| remark).unwrap_or_default();
                let part = part(&language, &remark)
                    .ok_or_else(|| format!("line {line}: what is to be done with `{language}` and `{remark}`?"))?;
                steps.push(Step { line, part, text });
            }
            _ => {}
        }
    }
    unused(&mut remark)?;
    Ok(steps)
}

/// A comment that no block follows is a mistake, if it looks like one of ours.
fn unused(remark: &mut Option<(usize, String)>) -> Result<(), String> {
    match remark.take() {
        Some((line, text)) if part("sh", &text).is_some() || part("rust", &text).is_some() => {
            Err(format!("line {line}: no block follows `{text}`"))
        }
        _ => Ok(()),
    }
}

fn part(language: &str, remark: &str) -> Option<Part> {
    let (word, rest) = remark.split_once(' ').unwrap_or((remark, ""));
    let rest = rest.trim().to_owned();
    Some(match (language, word) {
        ("sh", "") => Part::Commands { exit: 0 },
        ("sh", "exit") => Part::Commands { exit: rest.parse().ok()? },
        ("sh", "background") if !rest.is_empty() => Part::Background(rest),
        ("sh", "stands") => Part::StandIn(rest.strip_prefix("in: ")?.to_owned()),
        ("rust" | "yaml" | "toml", "file") if !rest.is_empty() => Part::File(rest),
        ("rust", "program:") if rest == "a worker" => Part::Program,
        ("python", "script") if !rest.is_empty() => Part::Script(rest),
        ("json", "message") if !rest.is_empty() => Part::Message(rest),
        ("yaml", "configuration") => Part::Configuration,
        ("conf", "server") => Part::Server { permissions: rest == "with permissions" },
        (language, "") => Part::Shown(language.to_owned()),
        ("text", "output") => Part::Output,
        ("text", "picture") => Part::Picture,
        _ => return None,
    })
}

/// Whether the lines of `wanted` are in `printed`, in their order; `…` stands for anything.
pub(crate) fn shows(printed: &str, wanted: &str) -> bool {
    let mut printed = printed.lines();
    wanted.lines().filter(|line| !line.trim().is_empty()).all(|wanted| printed.any(|line| is_like(line, wanted)))
}

fn is_like(line: &str, wanted: &str) -> bool {
    let Some((start, mut wanted)) = wanted.trim_end().split_once('…') else {
        return line.trim_end() == wanted.trim_end();
    };
    let Some(mut line) = line.trim_end().strip_prefix(start) else { return false };
    while let Some((middle, rest)) = wanted.split_once('…') {
        let Some(place) = line.find(middle) else { return false };
        line = &line[place + middle.len()..];
        wanted = rest;
    }
    line.ends_with(wanted)
}

#[test]
fn a_block_of_unknown_purpose_is_an_error() {
    for page in ["<!-- exit many -->\n```sh\n```", "<!-- output -->\n```sh\n```", "<!-- anything -->\n```text\n```"] {
        assert!(steps(page).is_err(), "{page}");
    }
    for (page, language) in [("```console\n$ ls\n```", "console"), ("    ls\n", ""), ("```rust\n```", "rust")] {
        assert_eq!(steps(page).unwrap()[0].part, Part::Shown(language.to_owned()));
    }
    assert_eq!(steps("<!-- exit 3 -->\ntext\n").unwrap_err(), "line 1: no block follows `exit 3`");
    let page = "text\n\n<!-- a remark -->\n\n```sh\nls\n```\n";
    assert!(steps(page).unwrap_err().starts_with("line 5: "));
}

#[test]
fn blocks_are_told_apart_by_the_comment_before_them() {
    let page = "<!-- exit 3 -->\n```sh\nls\n```\n<!-- output -->\n```text\na\n```\n<!-- ctrl-c x -->\n\n```sh\n```\n";
    let parts: Vec<_> = steps(page).unwrap().into_iter().map(|step| (step.line, step.part)).collect();
    let commands = |exit| Part::Commands { exit };
    assert_eq!(parts, [(2, commands(3)), (6, Part::Output), (9, Part::Interrupt("x".to_owned())), (11, commands(0))]);
}

#[test]
fn output_is_compared_but_for_what_is_left_open() {
    assert!(shows("a\nworker 7 is 3\nb\n", "a\nworker … is …\n"));
    assert!(!shows("worker 7 is 3\na\n", "a\nworker … is …\n"), "the order counts");
    assert!(shows("x [CODE]", "… [CODE]") && !shows("x [CODE] y", "… [CODE]"));
    assert!(!shows("", "anything") && !shows("abc", "ab"));
}
