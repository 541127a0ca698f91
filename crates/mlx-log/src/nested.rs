//! Structure out of what `Debug` writes: objects and arrays of a line's context, instead of text that only looks like them.
//!
//! `tracing` hands a value logged with `?` over as something that can only be printed. What `#[derive(Debug)]` prints has a
//! grammar, of which JSON is nearly a part, so that a value logged by [`json`](crate::json) comes the same way. Whatever does
//! not follow it stays the text that it is.

use std::fmt::{self, Write as _};
use std::iter::Peekable;
use std::str::Chars;

use mlx_errors::{REDACTED, is_secret_name};
use serde_json::{Map, Number, Value};

/// Objects within objects; what goes deeper stays text.
const DEEPEST: u32 = 32;

/// The name of a struct or a variant, as a member of its object.
const TYPE: &str = "type";

/// The one value of a variant or of a struct without names, beside [`TYPE`].
const VALUE: &str = "value";

/// The object or array that `value` prints; none, where it prints anything else.
pub(crate) fn structure(value: &dyn fmt::Debug) -> Option<Value> {
    let plain = printed(format_args!("{value:?}"))?;
    let mut reader = Reader { rest: plain.chars().peekable(), depth: 0 };
    let found = reader.value()?;
    if reader.rest.next().is_some() {
        return None;
    }
    match &found {
        Value::Array(items) if items.is_empty() => {}
        Value::Object(members) if members.is_empty() => {}
        // Text is the same either way, also where someone else chose it: it stays text, whatever it looks like.
        Value::Array(_) | Value::Object(_) if printed(format_args!("{value:#?}"))? != plain => {}
        _ => return None,
    }
    Some(found)
}

/// None where a `Debug` fails.
fn printed(value: fmt::Arguments<'_>) -> Option<String> {
    let mut text = String::new();
    text.write_fmt(value).ok()?;
    Some(text)
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    depth: u32,
}

impl Reader<'_> {
    fn value(&mut self) -> Option<Value> {
        // What secrets print of themselves, which looks like a list.
        if REDACTED.chars().eq(self.rest.clone().take(REDACTED.len())) {
            self.rest.nth(REDACTED.len() - 1);
            return Some(REDACTED.into());
        }
        match *self.rest.peek()? {
            '"' => self.text('"').map(Value::String),
            '\'' => self.text('\'').map(Value::String),
            '[' | '{' | '(' => self.nested(""),
            _ => self.word(),
        }
    }

    /// A number, a name with or without something behind it, or what a `Debug` of its own writes without spaces.
    fn word(&mut self) -> Option<Value> {
        let mut word = String::new();
        while let Some(char) = self.rest.next_if(|char| char.is_alphanumeric() || "_.+-:/@%#".contains(*char)) {
            word.push(char);
        }
        match self.rest.peek().copied() {
            _ if word.is_empty() => None,
            Some('(') => self.nested(&word),
            Some(' ') if self.opens_behind_a_space() => {
                self.rest.next();
                self.nested(&word)
            }
            _ => Some(scalar(word)),
        }
    }

    fn opens_behind_a_space(&self) -> bool {
        matches!(self.rest.clone().nth(1), Some('{' | '['))
    }

    /// A list, a tuple, a map, a set or a struct of that name, which may be empty.
    fn nested(&mut self, name: &str) -> Option<Value> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let open = self.rest.next()?;
        let close = match open {
            '[' => ']',
            '{' => '}',
            _ => ')',
        };
        let (mut items, mut members) = (Vec::new(), Map::new());
        loop {
            self.spaces();
            if self.rest.next_if_eq(&close).is_some() {
                break;
            }
            if !self.left_out() {
                self.entry(open, &mut items, &mut members)?;
            }
            self.spaces();
            if self.rest.next_if_eq(&',').is_none() && self.rest.peek() != Some(&close) {
                return None;
            }
        }
        self.depth -= 1;
        if open == '{' && items.is_empty() {
            return Some(named(name, members));
        }
        if !members.is_empty() {
            return None;
        }
        unnamed(name, open, items)
    }

    /// The `..` of a struct that does not show everything.
    fn left_out(&mut self) -> bool {
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('.') || ahead.next() != Some('.') {
            return false;
        }
        self.rest = ahead;
        true
    }

    fn entry(&mut self, open: char, items: &mut Vec<Value>, members: &mut Map<String, Value>) -> Option<()> {
        if open != '{' {
            items.push(self.value()?);
            return Some(());
        }
        let key = self.key()?;
        if self.rest.next_if_eq(&':').is_none() {
            items.push(key);
            return Some(());
        }
        self.spaces();
        let value = self.value()?;
        let key = match key {
            Value::String(key) => key,
            Value::Null => "null".to_owned(),
            Value::Bool(_) | Value::Number(_) => key.to_string(),
            Value::Array(_) | Value::Object(_) => return None,
        };
        let value = match value {
            // Numbers are none: `tokens: 7` is a count.
            Value::String(_) | Value::Array(_) | Value::Object(_) if is_secret_name(&key) => REDACTED.into(),
            value => value,
        };
        // The first of a name stays, as it does among the fields of a line.
        members.entry(key).or_insert(value);
        Some(())
    }

    /// The name of a member, or any value, where there is no colon within.
    fn key(&mut self) -> Option<Value> {
        let mut ahead = self.rest.clone();
        let mut name = String::new();
        while let Some(char) = ahead.next_if(|char| char.is_alphanumeric() || *char == '_') {
            name.push(char);
        }
        if name.is_empty() || ahead.peek() != Some(&':') || ahead.clone().nth(1) == Some(':') {
            return self.value();
        }
        self.rest = ahead;
        Some(Value::String(name))
    }

    fn text(&mut self, quote: char) -> Option<String> {
        self.rest.next();
        let mut text = String::new();
        loop {
            match self.rest.next()? {
                '\\' => text.push(self.escaped()?),
                char if char == quote => return Some(text),
                char => text.push(char),
            }
        }
    }

    /// What stands behind a backslash, in Rust and in JSON.
    fn escaped(&mut self) -> Option<char> {
        Some(match self.rest.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => return self.code_point(),
            char @ ('"' | '\'' | '\\' | '/') => char,
            _ => return None,
        })
    }

    fn code_point(&mut self) -> Option<char> {
        let braces = self.rest.next_if_eq(&'{').is_some();
        let mut digits = String::new();
        while digits.len() < if braces { 6 } else { 4 }
            && let Some(digit) = self.rest.next_if(char::is_ascii_hexdigit)
        {
            digits.push(digit);
        }
        if braces {
            self.rest.next_if_eq(&'}')?;
        }
        char::from_u32(u32::from_str_radix(&digits, 16).ok()?)
    }

    fn spaces(&mut self) {
        while self.rest.next_if_eq(&' ').is_some() {}
    }
}

fn scalar(word: String) -> Value {
    match word.as_str() {
        "None" | "null" => return Value::Null,
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    let number = word.parse::<i64>().map(Number::from).or_else(|_| word.parse::<u64>().map(Number::from)).ok();
    // Wider integers than JSON readers agree on, and what is no number, are text.
    let float = || word.contains('.').then(|| word.parse().ok().and_then(Number::from_f64)).flatten();
    number.or_else(float).map_or_else(|| Value::String(word), Value::Number)
}

fn named(name: &str, mut members: Map<String, Value>) -> Value {
    // `Object` is what serde_json calls a map.
    if !name.is_empty() && name != "Object" {
        members.entry(TYPE).or_insert_with(|| name.into());
    }
    members.into()
}

fn unnamed(name: &str, open: char, mut items: Vec<Value>) -> Option<Value> {
    let one = if items.len() == 1 { items.pop() } else { None };
    let content = match (name, open, one) {
        ("Some" | "Number" | "String" | "Bool", '(', one) => return one,
        // `Array` is what serde_json calls a list.
        ("" | "Array", '[' | '{', one) => return Some(one.map_or(Value::Array(items), |one| vec![one].into())),
        ("", _, Some(one)) => vec![one].into(),
        (_, _, Some(one)) => one,
        (_, _, None) => Value::Array(items),
    };
    if name.is_empty() {
        return Some(content);
    }
    Some(Map::from_iter([(TYPE.to_owned(), name.into()), (VALUE.to_owned(), content)]).into())
}

/// A serialisable value, to be logged as the JSON that it is: `tracing::info!(profile = ?mlx_log::json(&profile), "…")`.
///
/// Objects and arrays stand as such in the `context` of a JSON line; a single text or number looks as it does with `?`. The
/// value is serialised when the line is written, and not at all at a level that is off. Text under the names of secrets
/// (`password`, `token`, …) is hidden, at any depth.
///
/// ```
/// let figures = std::collections::BTreeMap::from([("queued", 3), ("running", 1)]);
/// tracing::info!(figures = ?mlx_log::json(&figures), "busy");
/// // … "context":{"figures":{"queued":3,"running":1}} …
/// ```
pub fn json<T: serde::Serialize>(value: &T) -> impl fmt::Debug + '_ {
    AsJson(value)
}

struct AsJson<'a, T>(&'a T);

impl<T: serde::Serialize> fmt::Debug for AsJson<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = if f.alternate() { serde_json::to_string_pretty(self.0) } else { serde_json::to_string(self.0) };
        match json {
            Ok(json) => f.write_str(&json),
            Err(error) => write!(f, "not to be serialised: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Debug)]
    #[expect(dead_code, reason = "read by Debug")]
    struct Worker {
        id: &'static str,
        password: Option<&'static str>,
        token: Vec<&'static str>,
        key: Hidden,
        waits: Duration,
        state: State,
        load: f64,
        r#type: (),
    }

    struct Hidden;

    impl fmt::Debug for Hidden {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(REDACTED)
        }
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "read by Debug")]
    enum State {
        Ready,
        Closed(Option<u8>),
        Reconnecting { attempt: u32 },
        Range(i8, u128),
    }

    #[test]
    fn l1_what_derives_debug_is_structured() {
        let state = |state: State| structure(&vec![state]).unwrap()[0].clone();
        assert_eq!(state(State::Ready), "Ready");
        assert_eq!(state(State::Closed(Some(3))), json!({"type": "Closed", "value": 3}));
        assert_eq!(state(State::Closed(None)), json!({"type": "Closed", "value": null}));
        assert_eq!(state(State::Reconnecting { attempt: 2 }), json!({"type": "Reconnecting", "attempt": 2}));
        let wide = "340282366920938463463374607431768211455";
        assert_eq!(state(State::Range(-1, u128::MAX)), json!({"type": "Range", "value": [-1, wide]}));
        let worker = Worker {
            id: "a \"b\"\n\u{1b}{, x: 1}",
            password: Some("hunter2"),
            token: vec!["hunter2"],
            key: Hidden,
            waits: Duration::from_millis(1500),
            state: State::Ready,
            load: 0.5,
            r#type: (),
        };
        let expected = json!({
            "id": "a \"b\"\n\u{1b}{, x: 1}", "password": REDACTED, "token": REDACTED, "key": REDACTED,
            "waits": "1.5s", "state": "Ready", "load": 0.5, "type": [],
        });
        assert_eq!(structure(&worker), Some(expected.clone()));
        assert_eq!(structure(&Some(&worker)), Some(expected));
    }

    #[test]
    fn l1_collections_are_structured() {
        let map = BTreeMap::from([(1, vec![Some("a"), None]), (2, vec![])]);
        assert_eq!(structure(&map), Some(json!({"1": ["a", null], "2": []})));
        assert_eq!(structure(&BTreeSet::from(['x', '\''])), Some(json!(["'", "x"])));
        assert_eq!(structure(&(1, "a")), Some(json!([1, "a"])));
        assert_eq!(structure(&(1,)), Some(json!([1])));
        assert_eq!(structure(&Vec::<u8>::new()), Some(json!([])));
        let addresses = [std::net::SocketAddr::from(([127, 0, 0, 1], 4222))];
        assert_eq!(structure(&addresses), Some(json!(["127.0.0.1:4222"])));
    }

    #[test]
    fn l1_what_is_text_stays_text() {
        for text in ["[1, 2]", "{\"a\": 1}", "Some([1])", "connected (epoch 1)", "a { b: 1 }", "[", "{a", "x)", ""] {
            assert_eq!(structure(&format_args!("{text}")), None, "{text}");
            assert_eq!(structure(&text), None, "{text}");
        }
        assert_eq!(structure(&Some(3)), None);
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(structure(&json(&deep)), None);
    }

    proptest! {
        #[test]
        fn l1_whatever_serialises_reads_back(keys in prop::collection::btree_map(".*", (".*", any::<i64>(), any::<bool>()), 1..5)) {
            prop_assume!(!keys.keys().any(|key| is_secret_name(key)));
            let value = serde_json::to_value(&keys).unwrap();
            prop_assert_eq!(structure(&json(&value)), Some(value.clone()));
            // And so does what serde_json prints of itself.
            prop_assert_eq!(structure(&value), Some(value));
        }

        #[test]
        fn l1_no_text_is_too_odd(text in "[a-zA-Z0-9 \\[\\]{}(),.:\"'\\\\_]{0,40}") {
            struct Odd(String);
            impl fmt::Debug for Odd {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(&self.0)?;
                    if f.alternate() { f.write_str(" ") } else { Ok(()) }
                }
            }
            let _ = structure(&Odd(text));
        }
    }
}
