//! The pieces of a streamed answer, put together as a server that does not stream would send it.

use std::collections::BTreeMap;

use mlx_types::messages::RawObject;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::members::Members;

/// Texts of which there is one, however often it is said.
const ONCE: [&str; 5] = ["id", "type", "role", "name", "object"];

/// The answers to one request, by their index.
#[derive(Debug, Default)]
pub(super) struct Choices(BTreeMap<u64, Choice>);

/// One answer.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// What it says.
    pub(super) text: String,
    /// The other members of its message.
    message: Vec<(String, Merged)>,
    /// Its own other members.
    beside: Vec<(String, Merged)>,
    /// Why it ended, where each says so itself.
    pub(super) finish_reason: Option<String>,
}

impl Choices {
    /// More text of the first answer.
    pub(super) fn push(&mut self, text: &str) {
        self.0.entry(0).or_default().text.push_str(text);
    }

    /// An entry of `choices` of a streamed answer.
    ///
    /// # Errors
    /// One that is none.
    pub(super) fn add(&mut self, entry: &RawObject) -> serde_json::Result<()> {
        let members: Members<'_> = entry.read()?;
        let index = members.get("index").map_or(Ok(Some(0)), serde_json::from_str::<Option<u64>>)?;
        let choice = self.0.entry(index.unwrap_or_default()).or_default();
        for (name, value) in &members.0 {
            match name.as_str() {
                "index" => {}
                "finish_reason" => {
                    choice.finish_reason =
                        serde_json::from_str::<Option<String>>(value.get())?.or(choice.finish_reason.take());
                }
                "text" => {
                    let text: Option<String> = serde_json::from_str(value.get())?;
                    choice.text.push_str(&text.unwrap_or_default());
                }
                "delta" => choice.delta(value)?,
                _ => put(&mut choice.beside, name, Merged::of(value)?),
            }
        }
        Ok(())
    }

    /// All of them, at least one.
    pub(super) fn into_answers(mut self) -> impl Iterator<Item = (u64, Choice)> {
        self.0.entry(0).or_default();
        self.0.into_iter()
    }
}

impl Choice {
    fn delta(&mut self, delta: &RawValue) -> serde_json::Result<()> {
        let delta: Option<Members<'_>> = serde_json::from_str(delta.get())?;
        for (name, value) in delta.iter().flat_map(|delta| &delta.0) {
            match Merged::of(value)? {
                Merged::Text(text) if name == "content" => self.text.push_str(&text),
                _ if name == "role" => {}
                value => put(&mut self.message, name, value),
            }
        }
        Ok(())
    }

    /// The message of a chat.
    pub(super) fn message(&self) -> impl Serialize + '_ {
        Message(self)
    }

    /// What the answer has beside its text, such as log probabilities.
    pub(super) fn beside(&self) -> impl Iterator<Item = (&str, &Merged)> {
        self.beside.iter().map(|(name, value)| (name.as_str(), value))
    }
}

struct Message<'a>(&'a Choice);

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Choice { text, message, .. } = self.0;
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("role", "assistant")?;
        if !message.iter().any(|(name, value)| name == "content" && !value.is_null()) {
            let only_calls = text.is_empty() && message.iter().any(|(name, _)| name == "tool_calls");
            object.serialize_entry("content", &Some(text).filter(|_| !only_calls))?;
        }
        for (name, value) in message.iter().filter(|(name, value)| name != "content" || !value.is_null()) {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

/// JSON in the making. What has no more parts stays as it was written.
#[derive(Debug)]
pub(super) enum Merged {
    Raw(Box<RawValue>),
    Text(String),
    List(Vec<Merged>),
    Object(Vec<(String, Merged)>),
}

impl Merged {
    fn of(value: &RawValue) -> serde_json::Result<Self> {
        // Frames are bounded in levels, and this with them.
        Ok(match value.get().as_bytes().first() {
            Some(b'"') => Self::Text(serde_json::from_str(value.get())?),
            Some(b'[') => {
                let list: Vec<&RawValue> = serde_json::from_str(value.get())?;
                Self::List(list.into_iter().map(Self::of).collect::<Result<_, _>>()?)
            }
            Some(b'{') => {
                let members: Members<'_> = serde_json::from_str(value.get())?;
                let members = members.0.into_iter().map(|(name, value)| Ok((name, Self::of(value)?)));
                Self::Object(members.collect::<serde_json::Result<_>>()?)
            }
            _ => Self::Raw(value.to_owned()),
        })
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Raw(value) if value.get() == "null")
    }

    /// Takes what the next piece says under the same name.
    fn merge(&mut self, name: &str, next: Self) {
        match (self, next) {
            (_, next) if next.is_null() => {}
            (Self::Text(known), Self::Text(text)) if ONCE.contains(&name) => {
                if known.is_empty() {
                    *known = text;
                }
            }
            (Self::Text(known), Self::Text(text)) => known.push_str(&text),
            (Self::List(known), Self::List(list)) => list.into_iter().for_each(|entry| add(known, entry)),
            (Self::Object(known), Self::Object(members)) => {
                for (name, value) in members {
                    put(known, &name, value);
                }
            }
            (known, next) => *known = next,
        }
    }

    /// The place that an entry of a list says that it has.
    fn index(&self) -> Option<&str> {
        let Self::Object(members) = self else { return None };
        members.iter().find_map(|(name, value)| match value {
            Self::Raw(value) if name == "index" => Some(value.get()),
            _ => None,
        })
    }
}

/// Adds an entry to a list: to the one that has the same place, where it says which.
fn add(list: &mut Vec<Merged>, entry: Merged) {
    let known = entry.index().and_then(|index| list.iter().rposition(|known| known.index() == Some(index)));
    match known.and_then(|at| list.get_mut(at)) {
        Some(known) => known.merge("", entry),
        None => list.push(entry),
    }
}

fn put(members: &mut Vec<(String, Merged)>, name: &str, value: Merged) {
    match members.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => known.merge(name, value),
        None => members.push((name.to_owned(), value)),
    }
}

impl Serialize for Merged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Raw(value) => value.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::List(list) => list.serialize(serializer),
            Self::Object(members) => {
                let mut object = serializer.serialize_map(None)?;
                for (name, value) in members {
                    // The place of a call among others is that in its list.
                    if name != "index" {
                        object.serialize_entry(name, value)?;
                    }
                }
                object.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn merged(entries: &[&str]) -> Vec<(u64, Value, Value, Option<String>)> {
        let mut choices = Choices::default();
        for entry in entries {
            choices.add(&RawObject::from_json(*entry).unwrap()).unwrap();
        }
        let answers = choices.into_answers().map(|(index, choice)| {
            let beside: serde_json::Map<String, Value> =
                choice.beside().map(|(name, value)| (name.to_owned(), serde_json::to_value(value).unwrap())).collect();
            (index, serde_json::to_value(choice.message()).unwrap(), beside.into(), choice.finish_reason)
        });
        answers.collect()
    }

    #[test]
    fn r1_calls_of_tools_are_put_together_by_their_place() {
        let [(0, message, _, _)] = &merged(&[
            r#"{"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}"#,
            r#"{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]}}"#,
            r#"{"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}}"#,
            r#"{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"1}"}}]}}"#,
        ])[..] else {
            panic!("one answer")
        };
        let call = |id: &str, name: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
        let calls = json!([call("a", "f", "{\"x\":1}"), call("b", "g", "{}")]);
        assert_eq!(*message, json!({ "role": "assistant", "content": null, "tool_calls": calls }));
    }

    #[test]
    fn r1_several_answers_are_kept_apart_and_lists_go_on() {
        let answers = merged(&[
            r#"{"index":1,"delta":{"role":"assistant","content":"b"}}"#,
            r#"{"index":0,"delta":{"content":"a","reasoning_content":"h"},"logprobs":{"content":[{"token":"a","logprob":-0.10}]}}"#,
            r#"{"index":0,"delta":{"content":"c","reasoning_content":"m"},"logprobs":{"content":[{"token":"c","logprob":-2}]}}"#,
            r#"{"index":1,"delta":{},"finish_reason":"length"}"#,
            r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#,
        ]);
        let logprobs = json!({ "content": [{ "token": "a", "logprob": -0.1 }, { "token": "c", "logprob": -2 }] });
        let first = json!({ "role": "assistant", "content": "ac", "reasoning_content": "hm" });
        let second = json!({ "role": "assistant", "content": "b" });
        assert_eq!(
            answers,
            [
                (0, first, json!({ "logprobs": logprobs }), Some("stop".to_owned())),
                (1, second, json!({}), Some("length".to_owned())),
            ]
        );
    }
}
