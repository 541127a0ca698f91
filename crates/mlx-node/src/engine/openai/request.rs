//! What the model server is asked: the request's own members, and what else its client wanted, as that wrote it.

use mlx_types::config::EngineApi;
use mlx_types::messages::{ChatMessage, EmbeddingRequest, InferenceRequest, RawObject};
use serde::ser::{Error, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::members::Members;

/// The role that newer clients use in place of `system`, which is the one that every chat template knows.
const DEVELOPER: &str = "developer";

/// Members of a body that are never the client's.
const OWN: [&str; 5] = ["model", "stream", "stream_options", "messages", "prompt"];

/// The body of a request for text. What is unset is left to the server's own default.
pub(super) struct Body<'a> {
    pub(super) request: &'a InferenceRequest,
    pub(super) api: EngineApi,
    pub(super) how: How,
}

/// What is wanted of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// A stream that says what it costs, which most servers do only when asked.
    WithUsage,
    /// A stream.
    Plain,
    /// One token and no stream, for an error in the server's own words.
    OneToken,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let InferenceRequest { temperature, top_p, .. } = self.request;
        let max_tokens = if self.how == How::OneToken { Some(1) } else { self.request.max_tokens };
        let mut body = serializer.serialize_map(None)?;
        body.serialize_entry("model", &self.request.model_id)?;
        // Whatever the requester wants: the bus carries a stream in any case, and only a stream shows that the server lives.
        body.serialize_entry("stream", &(self.how != How::OneToken))?;
        if self.how == How::WithUsage {
            body.serialize_entry("stream_options", &serde_json::json!({ "include_usage": true }))?;
        }
        match (self.api, &self.request.messages) {
            (EngineApi::Completions, _) => body.serialize_entry("prompt", &self.request.prompt)?,
            (EngineApi::Chat, Some(messages)) => {
                body.serialize_entry("messages", &messages.iter().map(Said).collect::<Vec<_>>())?;
            }
            // A prompt is a chat of one message.
            (EngineApi::Chat, None) => {
                let message = ChatMessage::new("user", self.request.prompt.as_str());
                body.serialize_entry("messages", &[Said(&message)])?;
            }
        }
        let set = |name: &str| match name {
            "max_tokens" => max_tokens.is_some(),
            "temperature" => temperature.is_some(),
            "top_p" => top_p.is_some(),
            name => OWN.contains(&name),
        };
        optional(&mut body, "max_tokens", max_tokens.as_ref())?;
        optional(&mut body, "temperature", temperature.as_ref())?;
        optional(&mut body, "top_p", top_p.as_ref())?;
        for (name, value) in members(self.request.params.as_ref())? {
            if !set(&name) {
                body.serialize_entry(&name, value)?;
            }
        }
        body.end()
    }
}

/// The body of a request for embeddings.
pub(super) struct Embedding<'a>(pub(super) &'a EmbeddingRequest);

impl Serialize for Embedding<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_map(None)?;
        body.serialize_entry("model", &self.0.model_id)?;
        for (name, value) in members(Some(&self.0.params))? {
            if name != "model" {
                body.serialize_entry(&name, value)?;
            }
        }
        body.end()
    }
}

fn optional<M: SerializeMap>(body: &mut M, name: &str, value: Option<&impl Serialize>) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| body.serialize_entry(name, value))
}

/// One message, as the protocol has it.
struct Said<'a>(&'a ChatMessage);

impl Serialize for Said<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ChatMessage { role, content, params, .. } = self.0;
        let mut message = serializer.serialize_map(None)?;
        message.serialize_entry("role", if role == DEVELOPER { "system" } else { role })?;
        // Said even where there is none: many a chat template looks for it.
        message.serialize_entry("content", content)?;
        for (name, value) in members(params.as_ref())? {
            if name != "role" && name != "content" {
                message.serialize_entry(&name, value)?;
            }
        }
        message.end()
    }
}

fn members<E: Error>(params: Option<&RawObject>) -> Result<Vec<(String, &RawValue)>, E> {
    let Some(params) = params else { return Ok(Vec::new()) };
    // A name that is no text, as one with half a character.
    params.read::<Members<'_>>().map(|members| members.0).map_err(E::custom)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(request: &InferenceRequest, api: EngineApi) -> Value {
        serde_json::to_value(Body { request, api, how: How::WithUsage }).unwrap()
    }

    #[test]
    fn r1_what_is_carried_unread_is_written_beside_our_own_and_never_over_it() {
        let params =
            r#"{"seed": 7, "model": "other", "stream": false, "temperature": 2, "top_p": 0.50, "prompt": "x"}"#;
        let params = RawObject::from_json(params).unwrap();
        let call = RawObject::from_json(r#"{"tool_calls": [{"id": "c"}], "role": "system"}"#).unwrap();
        let messages = vec![
            ChatMessage::new("developer", "Be brief."),
            ChatMessage::new("assistant", "").content(None).params(call),
        ];
        let request = InferenceRequest::new("m", "p").messages(messages).params(params).temperature(0.5);
        let expected = json!({
            "model": "m",
            "stream": true,
            "stream_options": { "include_usage": true },
            "messages": [
                { "role": "system", "content": "Be brief." },
                { "role": "assistant", "content": null, "tool_calls": [{ "id": "c" }] },
            ],
            "temperature": 0.5,
            "seed": 7,
            "top_p": 0.5,
        });
        assert_eq!(body(&request, EngineApi::Chat), expected);
        let text = serde_json::to_string(&Body { request: &request, api: EngineApi::Chat, how: How::Plain }).unwrap();
        assert!(text.contains("0.50"), "as it was written: {text}");
        let completion = body(&InferenceRequest::new("m", "p"), EngineApi::Completions);
        assert_eq!((&completion["prompt"], completion.get("messages")), (&json!("p"), None));
    }
}
