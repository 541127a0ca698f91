//! Messages as JavaScript reads them, where a peer's JSON is not quite what ours takes: what a good message does not pay for.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Values inside of values that are read. What is deeper can only be of members that nobody knows here, and is read as `null`.
const MAX_DEPTH: usize = 100;

/// Reads a message, and, where that fails, once more as JavaScript does: a byte order mark is passed over, of a member that is
/// given twice the last one counts, `8080.0`, `1e3` and `-0` are whole numbers, half characters are U+FFFD, and unknown members may be
/// nested as deep as they like.
///
/// ```
/// # use mlx_types::messages::{self, HealthCheck};
/// let json = r#"{"requestId":"6f2c1b9e-3d4a-4b8e-9a51-0c6f1de2a7b3","timestamp":1.76e12}"#;
/// let check: HealthCheck = messages::from_json(json.as_bytes())?;
/// assert_eq!(check.timestamp.as_millis(), 1_760_000_000_000);
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
/// Those of the first reading, which know the place in the text.
pub fn from_json<M: DeserializeOwned>(json: &[u8]) -> serde_json::Result<M> {
    serde_json::from_slice(json).or_else(|error| again(json).ok_or(error))
}

#[cold]
fn again<M: DeserializeOwned>(json: &[u8]) -> Option<M> {
    let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
    let text = std::str::from_utf8(json).ok()?;
    let mended = Mender { rest: text, mended: String::with_capacity(text.len()), depth: 0 }.all();
    // A map of ours keeps the last value of a name.
    let value: Value = serde_json::from_str(&mended).ok()?;
    serde_json::from_value(value).ok()
}

/// Copies JSON, and changes what JavaScript reads otherwise. What is malformed stays so.
struct Mender<'a> {
    rest: &'a str,
    mended: String,
    depth: usize,
}

impl Mender<'_> {
    fn all(mut self) -> String {
        while let Some(first) = self.rest.chars().next() {
            match first {
                '"' => self.string(),
                '-' | '0'..='9' => self.number(),
                '[' | '{' if self.depth == MAX_DEPTH => self.too_deep(),
                '[' | '{' => {
                    self.depth += 1;
                    self.copy(1);
                }
                ']' | '}' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.copy(1);
                }
                other => self.copy(other.len_utf8()),
            }
        }
        self.mended
    }

    fn copy(&mut self, bytes: usize) {
        let (copied, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.mended.push_str(copied);
        self.rest = rest;
    }

    fn string(&mut self) {
        let (text, rest) = split_string(self.rest);
        self.mended.push_str(&without_halves(text));
        self.rest = rest;
    }

    fn number(&mut self) {
        let end = self.rest.find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9'));
        let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        match whole(number) {
            Some(whole) => self.mended.push_str(&whole),
            None => self.mended.push_str(number),
        }
        self.rest = rest;
    }

    /// `null` in place of the value that begins here.
    fn too_deep(&mut self) {
        let (mut rest, mut open) = (self.rest, 0_usize);
        while let Some(first) = rest.chars().next() {
            match first {
                '"' => {
                    rest = split_string(rest).1;
                    continue;
                }
                '[' | '{' => open += 1,
                ']' | '}' => open -= 1,
                _ => {}
            }
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            if open == 0 {
                break;
            }
        }
        self.mended.push_str("null");
        self.rest = rest;
    }
}

/// The string that a text begins with, its quotes included, and what follows.
fn split_string(text: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    text.split_at(end.map_or(text.len(), |(at, _)| at + 1))
}

/// A number that JSON allows and that has no fraction, as an integer; nothing where it is written as one, or is none that an
/// integer holds.
fn whole(number: &str) -> Option<String> {
    const TOO_LARGE: f64 = 18_446_744_073_709_551_616.0;
    if number != "-0" && !number.contains(['.', 'e', 'E']) {
        return None;
    }
    // Refuses what JSON does not allow: `01`, `1.`, `.5`.
    let value: f64 = serde_json::from_str(number).ok()?;
    (value.fract() == 0.0 && value.abs() < TOO_LARGE).then(|| format!("{:.0}", value + 0.0))
}

/// A JSON string with U+FFFD for each half character in it.
fn without_halves(text: &str) -> Cow<'_, str> {
    if !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended.push_str(before);
        let unit = unit(escape);
        let is_pair = unit.is_some_and(is_high) && escape.get(6..).and_then(self::unit).is_some_and(is_low);
        let length = match unit {
            Some(_) if is_pair => 12,
            Some(_) => 6,
            None => 1 + escape.chars().nth(1).map_or(0, char::len_utf8),
        };
        let (whole, after) = escape.split_at_checked(length).unwrap_or((escape, ""));
        let is_half = !is_pair && unit.is_some_and(|unit| is_high(unit) || is_low(unit));
        mended.push_str(if is_half { "\u{fffd}" } else { whole });
        rest = after;
    }
    mended.push_str(rest);
    Cow::Owned(mended)
}

fn unit(escape: &str) -> Option<u32> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hexadecimal.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

fn is_high(unit: u32) -> bool {
    (0xD800..0xDC00).contains(&unit)
}

fn is_low(unit: u32) -> bool {
    (0xDC00..0xE000).contains(&unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(json: &str) -> Option<Value> {
        let mended = Mender { rest: json, mended: String::new(), depth: 0 }.all();
        serde_json::from_str(&mended).ok()
    }

    #[test]
    fn what_javascript_takes_for_a_whole_number_is_one() {
        let numbers = read("[8080.0, 1e3, 1.5e1, -0, -0.0, 1.5, 1E2, 18446744073709551615, 9007199254740993]");
        assert_eq!(numbers, Some(json!([8080, 1000, 15, 0, 0, 1.5, 100, u64::MAX, 9_007_199_254_740_993_u64])));
        for malformed in ["[01]", "[1.]", "[.5]", "[+1]", "[1e]", "[--1]", "[1.0.0]", "[0x1]"] {
            assert_eq!(read(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn halves_are_replaced_and_whole_characters_stay() {
        assert_eq!(
            read(r#"["\ud83d\ude00", "\ud83d", "\\ud83d", "\u00e9"]"#),
            Some(json!(["😀", "\u{fffd}", "\\ud83d", "é"]))
        );
    }

    #[test]
    fn what_is_deep_is_null_and_what_follows_it_is_read() {
        let deep = format!("{{\"a\":{}\"]\"{},\"b\":1}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read(&deep).unwrap()["b"], 1);
        assert_eq!(read(&"[".repeat(100_000)), None);
    }

    proptest! {
        /// Whatever is valid already means what it meant.
        #[test]
        fn valid_json_keeps_its_meaning(texts in prop::collection::vec("[a\\\\\"{}\\[\\]😀u0-9.:,-]{0,12}", 0..8), number in any::<f64>()) {
            prop_assume!(number.is_finite());
            let value = json!({ "texts": texts, "number": number, "nested": { "list": [texts.len(), null, true] } });
            let read = read(&value.to_string()).unwrap();
            prop_assert_eq!(&read["texts"], &value["texts"]);
            prop_assert_eq!(&read["nested"], &value["nested"]);
            prop_assert_eq!(read["number"].as_f64(), value["number"].as_f64());
        }

        #[test]
        fn nothing_panics_on_text_of_any_kind(text in "[\\[\\]{}\"\\\\ud83e0.,:+ -]{0,60}") {
            let _ = from_json::<Value>(text.as_bytes());
        }
    }
}
