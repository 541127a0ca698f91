//! One entry of an event's `choices`: a text, or more than a token can say.

use std::fmt;

use mlx_types::messages::RawObject;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::members::{Members, object};

/// An entry of `choices`.
pub(super) struct Choice<'a> {
    /// Which of the answers.
    pub(super) index: u64,
    /// Why it ended, if it did.
    pub(super) finish_reason: Option<String>,
    raw: &'a RawValue,
    /// Of a chat, unless it is a list, or of a plain completion.
    text: Option<String>,
    more: More,
}

/// What there is beside a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum More {
    #[default]
    Nothing,
    /// What the model thinks before it answers.
    Thoughts,
    Else,
}

/// What a choice says.
#[derive(Debug, PartialEq)]
pub(super) enum Says {
    Nothing,
    /// A text, and that is all.
    Text(String),
    /// What has to be passed on as it came.
    More {
        /// The text in it.
        text: Option<String>,
        /// Whether the answer is another one without the rest.
        essential: bool,
    },
}

impl<'a> Choice<'a> {
    pub(super) fn read(raw: &'a RawValue) -> serde_json::Result<Self> {
        let Entry { index, text, finish_reason, delta, mut more } = serde_json::from_str(raw.get())?;
        let Delta { content, more: within } = delta.unwrap_or_default();
        more = more.max(within);
        let text = content.or(text).filter(|text| !text.is_empty());
        Ok(Self { index: index.unwrap_or(0), finish_reason, raw, text, more })
    }

    pub(super) fn says(&self) -> Says {
        match (&self.text, self.more) {
            (None, More::Nothing) => Says::Nothing,
            (Some(text), More::Nothing) => Says::Text(text.clone()),
            (text, more) => Says::More { text: text.clone(), essential: more == More::Else },
        }
    }

    /// All of it.
    pub(super) fn as_it_came(&self) -> serde_json::Result<RawObject> {
        RawObject::from_json(self.raw.get())
    }

    /// All of it but its end, which is told by the end of the stream.
    pub(super) fn without_end(&self) -> serde_json::Result<RawObject> {
        if self.finish_reason.is_none() {
            return self.as_it_came();
        }
        let members: Members<'_> = serde_json::from_str(self.raw.get())?;
        let rest = members.0.iter().filter(|(name, _)| name != "finish_reason");
        object(rest.map(|(name, value)| (name.as_str(), *value)))
    }
}

/// A choice, read in one go: nearly every one is a text and no more, and is to cost no more than that.
#[derive(Default)]
struct Entry {
    index: Option<u64>,
    text: Option<String>,
    finish_reason: Option<String>,
    delta: Option<Delta>,
    more: More,
}

#[derive(Default)]
struct Delta {
    content: Option<String>,
    more: More,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Member {
    Index,
    Delta,
    Text,
    FinishReason,
    #[serde(other)]
    Else,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Within {
    Role,
    Content,
    /// By these, engines show what a model thinks.
    #[serde(alias = "reasoning", alias = "reasoning_details")]
    ReasoningContent,
    #[serde(other)]
    Else,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

impl<'de> Deserialize<'de> for Delta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DeltaVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a choice")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut entry = Entry::default();
        while let Some(member) = map.next_key()? {
            match member {
                Member::Index => entry.index = map.next_value()?,
                Member::Delta => entry.delta = map.next_value()?,
                Member::Text => entry.text = map.next_value()?,
                Member::FinishReason => entry.finish_reason = map.next_value()?,
                Member::Else => entry.more = entry.more.max(what_is(map.next_value()?, More::Else)),
            }
        }
        Ok(entry)
    }
}

struct DeltaVisitor;

impl<'de> Visitor<'de> for DeltaVisitor {
    type Value = Delta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a delta")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Delta, A::Error> {
        let mut delta = Delta::default();
        while let Some(member) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            let more = match member {
                Within::Role => More::Nothing,
                // A list of parts is more than a text.
                Within::Content if value.get().starts_with('[') => what_is(value, More::Else),
                Within::Content => {
                    delta.content = serde_json::from_str(value.get()).map_err(serde::de::Error::custom)?;
                    More::Nothing
                }
                Within::ReasoningContent => what_is(value, More::Thoughts),
                Within::Else => what_is(value, More::Else),
            };
            delta.more = delta.more.max(more);
        }
        Ok(delta)
    }
}

fn what_is(value: &RawValue, something: More) -> More {
    if is_something(value.get()) { something } else { More::Nothing }
}

fn is_something(json: &str) -> bool {
    !matches!(json, "null" | "\"\"" | "[]" | "{}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(json: &str) -> Says {
        Choice::read(serde_json::from_str(json).unwrap()).unwrap().says()
    }

    #[test]
    fn r1_what_is_more_than_a_text_is_told_from_a_text() {
        let text = |text: &str| Says::Text(text.to_owned());
        let more = |text: Option<&str>, essential| Says::More { text: text.map(str::to_owned), essential };
        for (json, said) in [
            (
                r#"{"delta":{"content":"a","role":"assistant","tool_calls":[],"refusal":null},"logprobs":null}"#,
                text("a"),
            ),
            (r#"{"text":"b","logprobs":null,"stop_reason":null}"#, text("b")),
            (r#"{"delta":{"role":"assistant","content":""}}"#, Says::Nothing),
            (r#"{"delta":{},"finish_reason":"stop"}"#, Says::Nothing),
            (r#"{"delta":null}"#, Says::Nothing),
            (r#"{"delta":{"reasoning_content":"hm","content":null}}"#, more(None, false)),
            (r#"{"delta":{"reasoning_content":"hm","content":"a"}}"#, more(Some("a"), false)),
            (r#"{"delta":{"tool_calls":[{"index":0}]}}"#, more(None, true)),
            (r#"{"delta":{"content":[{"type":"thinking"}]}}"#, more(None, true)),
            (r#"{"delta":{"content":"a"},"logprobs":{"content":[]}}"#, more(Some("a"), true)),
        ] {
            assert_eq!(says(json), said, "{json}");
        }
    }

    #[test]
    fn r1_the_end_is_taken_out_and_the_rest_stays_as_it_is_written() {
        let json = r#"{"delta":{"x":1.50},"finish_reason":"tool_calls","logprobs":{"a": [ 2 ]}}"#;
        let choice = Choice::read(serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!(choice.without_end().unwrap().as_json(), r#"{"delta":{"x":1.50},"logprobs":{"a": [ 2 ]}}"#);
        assert_eq!(choice.as_it_came().unwrap().as_json(), json);
    }
}
