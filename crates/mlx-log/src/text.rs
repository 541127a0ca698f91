//! Lines for people: time, level, component, message and `key=value`.

use std::fmt;

use tracing::Level;

use crate::syntax::{self, Escaped, Line, Syntax};
use crate::value::Value;

/// The text format.
pub(crate) struct Text {
    /// Whether the level is coloured: on a terminal only.
    pub(crate) colour: bool,
}

impl Syntax for Text {
    fn value(&self, out: &mut Vec<u8>, value: &Value<'_>) {
        match value {
            Value::Signed(value) => syntax::number(out, value),
            Value::Unsigned(value) => syntax::number(out, value),
            Value::Bool(_) | Value::Float(_) | Value::Wide(_) => self.message(out, value),
            Value::Text(text) => word(out, text),
            Value::Debug(_) => word(out, &value.to_text()),
        }
    }

    fn key(&self, out: &mut Vec<u8>, key: &str) {
        out.push(b' ');
        escape(out, key);
        out.push(b'=');
    }

    fn message(&self, out: &mut Vec<u8>, message: &dyn fmt::Display) {
        // A `Display` that fails leaves what it wrote before.
        let _ = fmt::write(&mut Escaped { out, escape }, format_args!("{message}"));
    }

    fn line(&self, out: &mut Vec<u8>, line: &Line<'_>) {
        out.extend_from_slice(line.timestamp.time_of_day());
        out.extend_from_slice(b"Z ");
        let (colour, name) = match line.level {
            Level::ERROR => (b"\x1b[31m", b"ERROR"),
            Level::WARN => (b"\x1b[33m", b"WARN "),
            Level::INFO => (b"\x1b[32m", b"INFO "),
            Level::DEBUG => (b"\x1b[34m", b"DEBUG"),
            Level::TRACE => (b"\x1b[35m", b"TRACE"),
        };
        if self.colour {
            out.extend_from_slice(colour);
            out.extend_from_slice(name);
            out.extend_from_slice(b"\x1b[0m");
        } else {
            out.extend_from_slice(name);
        }
        out.push(b' ');
        escape(out, line.component);
        if !line.message.is_empty() {
            out.extend_from_slice(b": ");
            out.extend_from_slice(line.message);
        }
        out.extend_from_slice(line.fields);
        if let Some(error) = line.error {
            if let Some(code) = &error.code {
                self.key(out, "code");
                word(out, code);
            }
            self.key(out, "error");
            word(out, &error.message);
            for source in &error.sources {
                out.extend_from_slice(b"\n    caused by: ");
                escape(out, source);
            }
        }
        out.push(b'\n');
    }
}

/// A value: as it is where it reads as one word, quoted otherwise.
fn word(out: &mut Vec<u8>, text: &str) {
    let plain = |char: char| !char.is_whitespace() && !matches!(char, '"' | '=' | '\\');
    if !text.is_empty() && text.chars().all(plain) {
        escape(out, text);
    } else {
        out.push(b'"');
        let mut rest = text;
        while let Some(at) = rest.find(['"', '\\', '\n']) {
            let (before, after) = rest.split_at(at);
            escape(out, before);
            let mut chars = after.chars();
            match chars.next() {
                Some('\n') => out.extend_from_slice(b"\\n"),
                Some('\\') => out.extend_from_slice(b"\\\\"),
                Some(_) | None => out.extend_from_slice(b"\\\""),
            }
            rest = chars.as_str();
        }
        escape(out, rest);
        out.push(b'"');
    }
}

/// Appends `text` so that it can neither steer a terminal nor pass for a line of its own: a line break is followed by
/// an indent, other controls and the marks that reorder text are spelt out.
fn escape(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(harmful) {
        let (before, after) = rest.split_at(at);
        out.extend_from_slice(before.as_bytes());
        let mut chars = after.chars();
        match chars.next() {
            Some('\n') => out.extend_from_slice(b"\n    "),
            Some(char) => out.extend(char.escape_unicode().map(|char| u8::try_from(char).unwrap_or(b'?'))),
            None => {}
        }
        rest = chars.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

fn harmful(char: char) -> bool {
    (char.is_control() && char != '\t')
        || matches!(char, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn line(level: Level, colour: bool) -> String {
        let timestamp = Timestamp::now();
        let line = Line { timestamp, level, component: "a", message: b"m", fields: b"", error: None };
        let mut out = Vec::new();
        Text { colour }.line(&mut out, &line);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_level_alone_is_coloured() {
        for (level, name, colour) in [
            (Level::ERROR, "ERROR", 31),
            (Level::WARN, "WARN ", 33),
            (Level::INFO, "INFO ", 32),
            (Level::DEBUG, "DEBUG", 34),
            (Level::TRACE, "TRACE", 35),
        ] {
            assert!(line(level, true).ends_with(&format!("Z \u{1b}[{colour}m{name}\u{1b}[0m a: m\n")));
            assert!(line(level, false).ends_with(&format!("Z {name} a: m\n")));
        }
    }
}
