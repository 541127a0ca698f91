//! How an answer is written down: as a chat or as plain text, whole or in events.

use axum::response::sse::Event;
use mlx_types::messages::RawObject;
use mlx_types::{RequestId, Timestamp};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Value, json};

use super::answer::Ending;
use super::merge::{Choice, Choices};
use super::openai::Asked;

/// Chat or plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Chat,
    Text,
}

/// How one answer is written down.
#[derive(Clone)]
pub(super) struct Form {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    /// Whether several answers were asked for: then each says who speaks, and how it ends, as the engine has it.
    several: bool,
    /// What an event of a token has before and behind the text: a stream is mostly those.
    around_text: [String; 2],
}

/// What all objects of the protocol have.
#[derive(Serialize)]
struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

impl Form {
    pub(super) fn new(shape: Shape, asked: &Asked) -> Self {
        let prefix = match shape {
            Shape::Chat => "chatcmpl",
            Shape::Text => "cmpl",
        };
        let mut form = Self {
            shape,
            id: format!("{prefix}-{}", RequestId::new()),
            created: Timestamp::now().as_millis() / 1000,
            model: asked.request.model_id.clone(),
            include_usage: asked.include_usage,
            several: asked.choices > 1,
            around_text: Default::default(),
        };
        form.around_text = form.around_text();
        form
    }

    /// Everything of a token's event but its text.
    fn around_text(&self) -> [String; 2] {
        let envelope = self.object(self.chunk_object(), (), None);
        let mut before = serde_json::to_string(&envelope).unwrap_or_default();
        // What stands for the choices is the last of it.
        before.truncate(before.len().saturating_sub("null}".len()));
        before.push_str(match self.shape {
            Shape::Chat => r#"[{"index":0,"delta":{"content":"#,
            Shape::Text => r#"[{"index":0,"text":"#,
        });
        let behind = match self.shape {
            Shape::Chat => r#"},"logprobs":null,"finish_reason":null}]}"#,
            Shape::Text => r#","logprobs":null,"finish_reason":null}]}"#,
        };
        [before, behind.to_owned()]
    }

    /// The answers in one piece.
    pub(super) fn whole<'a>(&'a self, choices: Choices, end: &'a Ending) -> impl Serialize + 'a {
        let choices: Vec<Whole<'a>> = choices
            .into_answers()
            .map(|(index, choice)| Whole { shape: self.shape, index, choice, finish_reason: &end.reason })
            .collect();
        let object = match self.shape {
            Shape::Chat => "chat.completion",
            Shape::Text => "text_completion",
        };
        self.object(object, choices, Some(usage(end)))
    }

    /// A chat says first who speaks.
    pub(super) fn opening(&self) -> Vec<Event> {
        match self.shape {
            Shape::Chat if !self.several => vec![self.chunk(&json!({ "role": "assistant", "content": "" }), None)],
            Shape::Chat | Shape::Text => Vec::new(),
        }
    }

    pub(super) fn text(&self, text: &str) -> Option<Event> {
        if text.is_empty() {
            return None; // it may be held back, for it may begin a stop sequence
        }
        let [before, behind] = &self.around_text;
        let text = serde_json::to_string(text).unwrap_or_default();
        Some(Event::default().data([before, text.as_str(), behind].concat()))
    }

    /// An entry of `choices`, as the engine sent it.
    pub(super) fn delta(&self, entry: &RawObject) -> Event {
        self.event([entry], None)
    }

    pub(super) fn ending(&self, end: &Ending) -> Vec<Event> {
        let last = (!self.several).then(|| match self.shape {
            Shape::Chat => self.chunk(&json!({}), Some(&end.reason)),
            Shape::Text => self.chunk(&json!(""), Some(&end.reason)),
        });
        let figures = self.include_usage.then(|| self.event([(); 0], Some(usage(end))));
        last.into_iter().chain(figures).chain([Event::default().data("[DONE]")]).collect()
    }

    fn chunk(&self, content: &Value, finish_reason: Option<&str>) -> Event {
        let member = match self.shape {
            Shape::Chat => "delta",
            Shape::Text => "text",
        };
        self.event([json!({ "index": 0, member: content, "logprobs": null, "finish_reason": finish_reason })], None)
    }

    fn event(&self, choices: impl Serialize, usage: Option<Value>) -> Event {
        let json = serde_json::to_string(&self.object(self.chunk_object(), choices, usage)).unwrap_or_default();
        // What an engine wrote may have line breaks, which are spaces to JSON and the end of a line to an event.
        let json = if json.contains(['\r', '\n']) { json.replace(['\r', '\n'], " ") } else { json };
        Event::default().data(json)
    }

    fn chunk_object(&self) -> &'static str {
        match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        }
    }

    fn object<C>(&self, object: &'static str, choices: C, usage: Option<Value>) -> Envelope<'_, C> {
        Envelope { id: &self.id, object, created: self.created, model: &self.model, choices, usage }
    }
}

/// One whole answer.
struct Whole<'a> {
    shape: Shape,
    index: u64,
    choice: Choice,
    /// Of the stream, where the answer does not say so itself.
    finish_reason: &'a str,
}

impl Serialize for Whole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("index", &self.index)?;
        match self.shape {
            Shape::Chat => object.serialize_entry("message", &self.choice.message())?,
            Shape::Text => object.serialize_entry("text", &self.choice.text)?,
        }
        if !self.choice.beside().any(|(name, _)| name == "logprobs") {
            object.serialize_entry("logprobs", &None::<()>)?;
        }
        for (name, value) in self.choice.beside() {
            object.serialize_entry(name, value)?;
        }
        let reason = self.choice.finish_reason.as_deref().unwrap_or(self.finish_reason);
        object.serialize_entry("finish_reason", reason)?;
        object.end()
    }
}

/// As the engine counts; where it does not, the pieces of the answer, and 0 for the prompt, which claims less than a guess would.
fn usage(end: &Ending) -> Value {
    let prompt = end.usage.prompt_tokens.unwrap_or_default();
    let completion = end.usage.completion_tokens.unwrap_or(end.tokens);
    let mut usage = json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt.saturating_add(completion),
    });
    if let (Some(cached), Some(members)) = (end.usage.cached_tokens, usage.as_object_mut()) {
        members.insert("prompt_tokens_details".to_owned(), json!({ "cached_tokens": cached }));
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_written_as_every_other_event_whatever_is_in_it() {
        let body = br#"{"model": "m\"},{", "messages": [{"role": "user", "content": "p"}], "prompt": "p"}"#;
        for (shape, asked) in [
            (Shape::Chat, super::super::openai::chat(body).unwrap()),
            (Shape::Text, super::super::openai::completion(body).unwrap()),
        ] {
            let form = Form::new(shape, &asked);
            for text in ["a", "\"\n\\\u{1}", "é😀"] {
                let content = if shape == Shape::Chat { json!({ "content": text }) } else { json!(text) };
                let [before, behind] = &form.around_text;
                let fast: Value =
                    serde_json::from_str(&[before, json!(text).to_string().as_str(), behind].concat()).unwrap();
                let member = if shape == Shape::Chat { "delta" } else { "text" };
                let choice = json!({ "index": 0, member: content, "logprobs": null, "finish_reason": null });
                let slow = serde_json::to_value(form.object(form.chunk_object(), [choice], None)).unwrap();
                assert_eq!(fast, slow);
            }
        }
    }

    #[test]
    fn r1_line_breaks_of_an_engine_do_not_end_an_event() {
        let asked = super::super::openai::chat(br#"{"model": "m", "messages": [{"role": "user", "content": "p"}]}"#);
        let form = Form::new(Shape::Chat, &asked.unwrap());
        let entry = RawObject::from_json("{\r\n\"delta\": {\n\"x\": 1.50}}").unwrap();
        let event = format!("{:?}", form.delta(&entry));
        assert!(event.contains("1.50") && !event.contains("\\r"), "{event}");
    }
}
