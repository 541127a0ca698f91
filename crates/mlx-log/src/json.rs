//! Lines for machines: one strict JSON object each, with unique keys.

use std::fmt;

use crate::fault::Fault;
use crate::nested::structure;
use crate::syntax::{self, Escaped, Line, Syntax};
use crate::value::Value;

/// The JSON format; its schema is [`LINE_SCHEMA`](crate::LINE_SCHEMA).
pub(crate) struct Json;

impl Syntax for Json {
    fn value(&self, out: &mut Vec<u8>, value: &Value<'_>) {
        match value {
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Signed(value) => syntax::number(out, value),
            Value::Unsigned(value) => syntax::number(out, value),
            Value::Float(value) if value.is_finite() => syntax::number(out, value),
            // JSON has no number for these.
            Value::Float(value) => quoted(out, &value.to_string()),
            Value::Wide(value) | Value::Text(value) => quoted(out, value),
            Value::Debug(debug) => {
                let start = out.len();
                out.push(b'"');
                self.message(out, value);
                // Most values are none, which the last byte tells.
                if out.last().is_some_and(|last| b"]})".contains(last))
                    && let Some(structure) = structure(debug)
                {
                    out.truncate(start);
                    return nested(out, &structure);
                }
                out.push(b'"');
            }
        }
    }

    fn key(&self, out: &mut Vec<u8>, key: &str) {
        if !out.is_empty() {
            out.push(b',');
        }
        quoted(out, key);
        out.push(b':');
    }

    fn message(&self, out: &mut Vec<u8>, message: &dyn fmt::Display) {
        // A `Display` that fails leaves what it wrote before, in a line that is still whole.
        let _ = fmt::write(&mut Escaped { out, escape }, format_args!("{message}"));
    }

    fn line(&self, out: &mut Vec<u8>, line: &Line<'_>) {
        out.extend_from_slice(b"{\"timestamp\":\"");
        out.extend_from_slice(line.timestamp.rfc3339());
        out.extend_from_slice(b"\",\"level\":\"");
        out.extend_from_slice(syntax::level_name(line.level).as_bytes());
        out.extend_from_slice(b"\",\"component\":");
        quoted(out, line.component);
        out.extend_from_slice(b",\"message\":\"");
        out.extend_from_slice(line.message);
        out.extend_from_slice(b"\",\"context\":{");
        out.extend_from_slice(line.fields);
        out.push(b'}');
        if let Some(error) = line.error {
            fault(out, error);
        }
        out.extend_from_slice(b"}\n");
    }
}

fn fault(out: &mut Vec<u8>, error: &Fault) {
    out.extend_from_slice(b",\"error\":{\"name\":");
    quoted(out, error.name);
    out.extend_from_slice(b",\"message\":");
    quoted(out, &error.message);
    if let Some(code) = &error.code {
        out.extend_from_slice(b",\"code\":");
        quoted(out, code);
    }
    out.extend_from_slice(b",\"sources\":[");
    for (index, source) in error.sources.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        quoted(out, source);
    }
    out.extend_from_slice(b"]}");
}

fn nested(out: &mut Vec<u8>, value: &serde_json::Value) {
    let mut separator = "";
    match value {
        serde_json::Value::Array(items) => {
            out.push(b'[');
            for item in items {
                out.extend_from_slice(std::mem::replace(&mut separator, ",").as_bytes());
                nested(out, item);
            }
            out.push(b']');
        }
        serde_json::Value::Object(members) => {
            out.push(b'{');
            for (key, value) in members {
                out.extend_from_slice(std::mem::replace(&mut separator, ",").as_bytes());
                quoted(out, key);
                out.push(b':');
                nested(out, value);
            }
            out.push(b'}');
        }
        serde_json::Value::String(text) => quoted(out, text),
        scalar => syntax::number(out, scalar),
    }
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

/// Appends `text` with everything escaped that would end a JSON string, break a line or steer a terminal.
///
/// JSON asks for quote, backslash and C0 only. The C1 controls (U+009B begins an escape sequence as ESC does), DEL,
/// the line separators and the marks that reorder text are legal in JSON, and do their harm when a person looks.
fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut clean = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let class = CLASS.get(usize::from(byte)).copied().unwrap_or(PLAIN);
        if class == PLAIN {
            at += 1;
            continue;
        }
        let length = if class == SUSPECT { harmful(bytes.get(at..).unwrap_or_default()) } else { 1 };
        if length == 0 {
            at += 1;
            continue;
        }
        out.extend_from_slice(bytes.get(clean..at).unwrap_or_default());
        match class {
            CONTROL | SUSPECT => {
                let char = text.get(at..at + length).and_then(|text| text.chars().next()).unwrap_or_default();
                unicode_escape(out, u32::from(char));
            }
            short => out.extend_from_slice(&[b'\\', short]),
        }
        at += length;
        clean = at;
    }
    out.extend_from_slice(bytes.get(clean..).unwrap_or_default());
}

/// The length in bytes of the harmful character that `bytes` begins with, 0 for a harmless one.
fn harmful(bytes: &[u8]) -> usize {
    match bytes {
        // U+0080..=U+009F
        [0xC2, 0x80..=0x9F, ..] => 2,
        // U+200E, U+200F, U+2028..=U+202E, U+2066..=U+2069
        [0xE2, 0x80, 0x8E | 0x8F | 0xA8..=0xAE, ..] | [0xE2, 0x81, 0xA6..=0xA9, ..] => 3,
        _ => 0,
    }
}

fn unicode_escape(out: &mut Vec<u8>, char: u32) {
    let digit = |shift: u32| {
        let nibble = char.checked_shr(shift).unwrap_or(0) & 0xF;
        char::from_digit(nibble, 16).map_or(b'0', |digit| u8::try_from(digit).unwrap_or(b'0'))
    };
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

const PLAIN: u8 = 0;
/// Written as `\u00XX`.
const CONTROL: u8 = 1;
/// The first byte of a character that may be harmful.
const SUSPECT: u8 = 2;

/// What each byte asks for: one of the above, or the letter after the backslash.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    let mut byte = 0;
    while byte < 0x20 {
        class[byte] = CONTROL;
        byte += 1;
    }
    class[0x08] = b'b';
    class[0x09] = b't';
    class[0x0A] = b'n';
    class[0x0C] = b'f';
    class[0x0D] = b'r';
    class[0x22] = b'"';
    class[0x5C] = b'\\';
    class[0x7F] = CONTROL;
    class[0xC2] = SUSPECT;
    class[0xE2] = SUSPECT;
    class
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> String {
        let mut out = Vec::new();
        quoted(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn l1_terminal_escapes_and_reordering_marks_are_spelt_out() {
        assert_eq!(json("\u{1b}[2J\u{9b}\u{7f}"), r#""\u001b[2J\u009b\u007f""#);
        assert_eq!(json("\u{202e}\u{2066}\u{200f}\u{2028}"), r#""\u202e\u2066\u200f\u2028""#);
        assert_eq!(json("\"\\\n\t\r\u{8}\u{c}\0"), r#""\"\\\n\t\r\b\f\u0000""#);
        // Neighbours of the harmful ones, and what people write.
        assert_eq!(json("\u{a0}é–…\u{2010}\u{2065}\u{206a}語🦀"), "\"\u{a0}é–…\u{2010}\u{2065}\u{206a}語🦀\"");
    }

    #[test]
    fn l1_every_character_reads_back() {
        for char in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let text = format!("a{char}b");
            assert_eq!(serde_json::from_str::<String>(&json(&text)).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn l1_strings_read_back_as_they_were(text in any::<String>()) {
            let json = json(&text);
            prop_assert!(!json.chars().any(char::is_control), "{json:?}");
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn l1_plain_text_is_written_as_serde_json_does(text in "[ -~\n\r\t\u{8}\u{c}äöü語🦀]*") {
            prop_assert_eq!(json(&text), serde_json::to_string(&text).unwrap());
        }
    }
}
