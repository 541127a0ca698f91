//! One entry of an event's `choices`: a text, or more than a token can say.

use mlx_types::messages::RawObject;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::members::{Members, object};

/// Members of a choice that go their own way.
const KNOWN: [&str; 4] = ["index", "delta", "text", "finish_reason"];
/// Members of a delta that a token says, or that say nothing.
const PLAIN: [&str; 2] = ["role", "content"];
/// Members by which engines show what a model thinks before it answers.
const REASONING: [&str; 3] = ["reasoning_content", "reasoning", "reasoning_details"];

/// An entry of `choices`.
pub(super) struct Choice<'a> {
    /// Which of the answers.
    pub(super) index: u64,
    /// Why it ended, if it did.
    pub(super) finish_reason: Option<String>,
    raw: &'a RawValue,
    members: Members<'a>,
    delta: Option<Members<'a>>,
    /// Of a chat, unless it is a list, or of a plain completion.
    text: Option<String>,
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
        #[derive(Deserialize)]
        struct Own {
            index: Option<u64>,
            text: Option<String>,
            finish_reason: Option<String>,
        }
        let own: Own = serde_json::from_str(raw.get())?;
        let members: Members<'a> = serde_json::from_str(raw.get())?;
        let delta: Option<Members<'a>> = members.get("delta").map_or(Ok(None), serde_json::from_str)?;
        let content = delta.as_ref().and_then(|delta| delta.get("content"));
        let text = match content {
            // A list of parts is more than a text.
            Some(content) if content.starts_with('[') => None,
            Some(content) => serde_json::from_str::<Option<String>>(content)?.or(own.text),
            None => own.text,
        };
        let text = text.filter(|text| !text.is_empty());
        Ok(Self { index: own.index.unwrap_or(0), finish_reason: own.finish_reason, raw, members, delta, text })
    }

    pub(super) fn says(&self) -> Says {
        let beside = self.members.0.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str()));
        let within = self.delta.iter().flat_map(|delta| &delta.0);
        let within = within.filter(|(name, value)| !PLAIN.contains(&name.as_str()) || value.get().starts_with('['));
        let more: Vec<&str> = beside
            .chain(within)
            .filter(|(_, value)| is_something(value.get()))
            .map(|(name, _)| name.as_str())
            .collect();
        match &self.text {
            text if !more.is_empty() => {
                Says::More { text: text.clone(), essential: !more.iter().all(|name| REASONING.contains(name)) }
            }
            Some(text) => Says::Text(text.clone()),
            None => Says::Nothing,
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
        let rest = self.members.0.iter().filter(|(name, _)| name != "finish_reason");
        object(rest.map(|(name, value)| (name.as_str(), *value)))
    }
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
