//! A file as it may be drawn: without what may be a secret, and with every other character at its place.
//!
//! What is shown is what is known to be none: keys, and the values of keys that exist and take no secret. Everything else is
//! covered, also in a file that is not well-formed, of which only the lines are known: the values of unknown keys, what has
//! something before an `@`, a URL with more than a host and a port, comments, and what continues any of these on the next
//! line.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use mlx_errors::is_secret_name;

use crate::field::{Field, Kind, ROOT};

/// What stands for a character that is not shown.
const COVER: char = '*';

/// The text with what may be a secret covered. Lines that end in a carriage return alone are lines.
pub(crate) fn without_secrets(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let shown = String::with_capacity(text.len());
    let mut cover = Cover { shown, covered: None, last: Takes::Unknown, last_start: 0 };
    for line in text.split_inclusive('\n') {
        cover.line(line);
    }
    cover.shown
}

/// Whether a value may hold a secret, by its look.
pub(crate) fn may_hold_secret(value: &str) -> bool {
    value.contains(['@', ':', '=']) || suspicious(value) < value.len()
}

/// What a key takes, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// Keys.
    Section,
    Plain,
    /// A URL, which may hold credentials.
    Url,
    Secret,
    /// No such key.
    Unknown,
}

/// The names of all keys, without regard to case and underscores.
static NAMES: LazyLock<BTreeMap<String, Takes>> = LazyLock::new(|| {
    fn collect(field: &Field, names: &mut BTreeMap<String, Takes>) {
        match &field.kind {
            Kind::Section(fields) => {
                for (name, field) in fields {
                    let leaf = field.item().unwrap_or(field);
                    let takes = match leaf.kind {
                        Kind::Section(_) => Takes::Section,
                        Kind::Text if leaf.expected.starts_with("a URL") => Takes::Url,
                        _ if leaf.secret || sounds_secret(name) => Takes::Secret,
                        _ => Takes::Plain,
                    };
                    // A name that takes a secret anywhere takes one everywhere.
                    let known = names.entry(letters(name)).or_insert(takes);
                    if matches!(*known, Takes::Plain | Takes::Section) {
                        *known = takes;
                    }
                    collect(field, names);
                }
            }
            Kind::List(item) => collect(item, names),
            _ => {}
        }
    }
    let mut names = BTreeMap::new();
    collect(&ROOT, &mut names);
    names
});

fn letters(name: &str) -> String {
    name.chars().filter(|c| *c != '_' && *c != '-').collect::<String>().to_lowercase()
}

/// Names of files and of counts of tokens are no secrets, and keys of ours.
fn sounds_secret(name: &str) -> bool {
    is_secret_name(name)
}

fn takes(name: &str) -> Takes {
    NAMES.get(&letters(name)).copied().unwrap_or(Takes::Unknown)
}

struct Cover {
    shown: String,
    /// What stands further to the right than this continues something that is not shown.
    covered: Option<usize>,
    /// What the last key takes, and where it stands.
    last: Takes,
    last_start: usize,
}

impl Cover {
    fn line(&mut self, line: &str) {
        if line.trim().is_empty() {
            return self.shown.push_str(line);
        }
        let start = line.len() - line.trim_start().len();
        let keys = keys(line);
        // Only a key that exists ends what is not shown.
        let is_key = keys.first().is_some_and(|key| takes(key.name) != Takes::Unknown);
        if self.covered.is_some_and(|indent| start > indent || !is_key) {
            return self.cover_from(line, start);
        }
        self.covered = None;
        let Some(first) = keys.first() else { return self.line_without_key(line, start) };
        let hidden = keys.iter().find_map(|key| Some((key, key.hidden_from(line)?)));
        let end = hidden.map_or(line.len(), |(_, from)| from);
        self.last = keys.last().map_or(Takes::Unknown, |key| takes(key.name));
        self.last_start = first.start;
        // What is open at the end of the line goes on below it.
        if hidden.is_some() {
            self.covered = Some(first.start);
        }
        self.cover_from(line, end.min(suspicious(line)));
    }

    /// An item of a list, the rest of a text, or a key without its colon.
    fn line_without_key(&mut self, line: &str, start: usize) {
        let content = line.get(start..).unwrap_or_default();
        let is_structure = content.trim_end().chars().all(|c| "-[]{},?".contains(c)) || content.starts_with('#');
        let is_below = start > self.last_start || content.starts_with("- ");
        let belongs = is_below && matches!(self.last, Takes::Plain | Takes::Url);
        // Also where no space follows the colon.
        let word = content.split(|c: char| c.is_whitespace() || c == ':').next().unwrap_or_default();
        let end = match takes(word) {
            _ if is_structure || belongs || is_harmless(content.trim()) => line.len(),
            Takes::Unknown if content.starts_with("? ") => {
                self.covered = Some(start);
                start + 1
            }
            Takes::Unknown => start,
            Takes::Section | Takes::Plain | Takes::Url | Takes::Secret => {
                self.covered = Some(start);
                start + word.len()
            }
        };
        self.cover_from(line, end.min(suspicious(line)));
    }

    /// Copies a line, with every character from `from` on covered that is no space.
    fn cover_from(&mut self, line: &str, from: usize) {
        let (before, after) = line.split_at_checked(from).unwrap_or(("", line));
        self.shown.push_str(before);
        self.shown.extend(after.chars().map(|c| if c.is_whitespace() { c } else { COVER }));
    }
}

/// What may be a key in a line: whatever stands before a colon.
struct Key<'a> {
    name: &'a str,
    start: usize,
    /// Where its value begins.
    value: usize,
}

impl Key<'_> {
    /// Where the value begins, or its key, if it may not be shown.
    fn hidden_from(&self, line: &str) -> Option<usize> {
        let value = line.get(self.value..).unwrap_or_default().trim();
        match takes(self.name) {
            Takes::Section | Takes::Plain | Takes::Url => None,
            Takes::Unknown if !sounds_secret(self.name) && is_harmless(value) => None,
            Takes::Unknown | Takes::Secret if value.is_empty() || line.is_char_boundary(self.value) => Some(self.value),
            Takes::Unknown | Takes::Secret => Some(self.start),
        }
    }
}

/// A switch, a small number, an alias: nobody's secret.
fn is_harmless(value: &str) -> bool {
    let name = value.strip_prefix(['*', '&']).map(|name| name.trim_end_matches(" {}"));
    if name.is_some_and(|name| !name.contains(char::is_whitespace)) {
        return true;
    }
    let value = value.trim_end_matches(['}', ']', ',', ' ']);
    let is_small = value.len() <= 5 && value.bytes().all(|byte| byte.is_ascii_digit());
    (is_small && !value.is_empty()) || ["true", "false", "null", "{}", "[]"].contains(&value)
}

fn keys(line: &str) -> Vec<Key<'_>> {
    let mut keys = Vec::new();
    let mut from = 0;
    for (at, _) in line.match_indices(':') {
        let after = line.get(at + 1..).unwrap_or_default();
        let before = line.get(from..at).unwrap_or_default();
        let is_colon =
            after.starts_with(|c: char| c.is_whitespace()) || after.is_empty() || before.ends_with(['"', '\'']);
        if !is_colon {
            continue; // `nats://h:4222`
        }
        // Behind a value, in braces; behind the marks of an item, an anchor, a tag.
        let name = before.rsplit([',', '{', '[']).next().unwrap_or_default();
        let name = name.trim().trim_start_matches(['-', '?']).trim();
        let name = name.rsplit(' ').next().unwrap_or_default();
        let start = line.len() - line.trim_start().len();
        keys.push(Key { name: name.trim_matches(['"', '\'']), start, value: at + 1 });
        from = at + 1;
    }
    keys
}

/// Where in a line the first thing stands that may be a secret whatever its key; its length where there is none.
fn suspicious(line: &str) -> usize {
    let comment = line.find('#').map_or(line.len(), |at| at + 1);
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let secret_word = line.match_indices(is_part).find_map(|(at, _)| {
        let begins = !line.get(..at).is_some_and(|before| before.ends_with(is_part));
        let rest = line.get(at..).filter(|_| begins)?;
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let behind =
            rest.get(end..).map_or(0, |behind| behind.len() - behind.trim_start_matches(['"', '\'', ':', '}']).len());
        rest.get(..end).is_some_and(sounds_secret).then_some(at + end + behind)
    });
    let comment = comment.min(secret_word.unwrap_or(line.len()));
    let at_signs = line.match_indices('@').map(|(at, _)| (word_begin(line, at), at));
    let at_signs = at_signs.filter(|(word, _)| !is_url_of_the_usual_form(line, *word));
    let credentials = at_signs.filter(|(word, at)| word < at).map(|(word, _)| word).next();
    let colons = line.match_indices(':').filter(|(at, _)| {
        let after = line.get(at + 1..).unwrap_or_default();
        let is_separator = after.starts_with(|c: char| c.is_whitespace()) || after.is_empty();
        !is_separator && !line.get(..*at).is_some_and(|before| before.ends_with(['"', '\''])) && !is_plain(line, *at)
    });
    let words = colons.map(|(at, _)| word_begin(line, at));
    let more_than_a_port = words.into_iter().find(|word| !is_url_of_the_usual_form(line, *word));
    comment.min(credentials.unwrap_or(line.len())).min(more_than_a_port.unwrap_or(line.len()))
}

/// Whether what follows a colon inside a word is the rest of `nats://host:4222`, of an address, or of `${NAME:-}`.
fn is_plain(line: &str, colon: usize) -> bool {
    let after = line.get(colon + 1..).unwrap_or_default();
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ']' | '}' | '/');
    let part = after.get(..after.find(ends).unwrap_or(after.len())).unwrap_or_default();
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_variable = after.starts_with("${") && after.find('}').and_then(|end| after.get(2..end)).is_some_and(is_name);
    // Of a reference that is no part of a longer value.
    let in_reference = line.get(..colon).and_then(|before| before.rsplit_once("${")).is_some_and(|(before, name)| {
        is_name(name) && !before.ends_with(|c: char| !c.is_whitespace() && c != '"' && c != '\'')
    });
    let is_hexadecimal = part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    let in_brackets = line.get(..colon).is_some_and(|before| before.rfind('[') > before.rfind(']'));
    after.starts_with("//")
        || in_reference
        || (!part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        || is_variable
        || (is_hexadecimal && in_brackets)
}

/// `scheme://user:password@host`, of which the part before the `@` is hidden when the line is drawn.
fn is_url_of_the_usual_form(line: &str, word: usize) -> bool {
    let rest = line.get(word..).unwrap_or_default();
    let is_quoted = line.get(..word).is_some_and(|before| before.ends_with(['"', '\'']));
    let ends =
        |c: char| matches!(c, '"' | '\'' | '\n') || (!is_quoted && (c.is_whitespace() || matches!(c, ',' | ']' | '}')));
    let word = rest.get(..rest.find(ends).unwrap_or(rest.len())).unwrap_or_default();
    let Some((scheme, after)) = word.split_once("://") else { return false };
    !scheme.is_empty()
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && !word.contains(|c: char| c.is_whitespace() || c == '\\')
        && after.matches('@').count() == 1
}

/// Where the word, or the quoted text, begins in which the place `at` is.
fn word_begin(line: &str, at: usize) -> usize {
    let before = line.get(..at).unwrap_or_default();
    let quote = ['"', '\''].into_iter().filter(|quote| before.matches(*quote).count() % 2 == 1);
    let quoted = quote.filter_map(|quote| before.rfind(quote)).max();
    let begin = quoted.or_else(|| before.rfind(char::is_whitespace)).map_or(0, |before| before + 1);
    let word = line.get(begin..).unwrap_or_default();
    begin + word.len() - word.trim_start_matches(['[', '{', ',']).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x1_what_is_known_to_be_no_secret_is_shown_and_nothing_else() {
        for (text, shown) in [
            ("mode: both\n", "mode: both\n"),
            ("nats:\n  user: me\n  password: CANARY\n", "nats:\n  user: me\n  password: ******\n"),
            ("serverUrl: nats://h:4222 # CANARY\n", "serverUrl: nats://h:4222 # ******\n"),
            ("serverUrl: u:CANARY@h:4222", "serverUrl: ***************"),
            ("serverUrl: nats:/u:CANARY@h", "serverUrl: ****************"),
            ("servers: [nats://h:4222, 'nats://u:CAN ARY@h']", "servers: [nats://h:4222, '************ *******"),
            ("servers: [\"nats://[::1]:4222\"]", "servers: [\"nats://[::1]:4222\"]"),
            ("url: u:CANARY@h", "url: **********"),
            ("pass: CANARY", "pass: ******"),
            (
                "nats: { mode: external, pass: CANARY, reconnect: true }",
                "nats: { mode: external, pass: ******* ********** **** *",
            ),
            ("passwords:\n  - CANARY\n- CANARY\nmode: both", "passwords:\n  * ******\n* ******\nmode: both"),
            ("password: |\n  user: CANARY\nmode: both", "password: *\n  ***** ******\nmode: both"),
            ("  password: \"abc\n CANARY\"\nmode: both", "  password: ****\n *******\nmode: both"),
            ("password CANARY", "password ******"),
            ("port: 80\rpassword: CANARY\r", "port: 80\npassword: ******\n"),
            ("? password\n: CANARY", "? ********\n* ******"),
            ("\"pass\\u0077ord\": CANARY", "\"pass\\u0077ord\": ******"),
            ("&a password: CANARY", "&a password: ******"),
            ("prot: 4222", "prot: 4222"),
            ("port: the password is CANARY", "port: the password ** ******"),
            ("CANARY", "******"),
            ("password:CANARY", "***************"),
            ("host: ${A:-b}", "host: ${A:-b}"),
            ("serverUrl: nats://u:${A:-CANARY}", "serverUrl: *********************"),
            ("serverUrl: nats://u:CANARY", "serverUrl: ***************"),
            ("serverUrl: nats://u:CANARY@h/x", "serverUrl: nats://u:CANARY@h/x"), // hidden when it is drawn
            ("user: |\n  a\n  b\nmode: both", "user: |\n  a\n  b\nmode: both"),
            ("b: &base {}\nc: *base", "b: &base {}\nc: *base"),
            ("# CANARY\n", "# ******\n"),
        ] {
            assert_eq!(without_secrets(text), shown, "{text:?}");
        }
    }
}
