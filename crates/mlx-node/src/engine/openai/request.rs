//! What the model server is asked.

use std::borrow::Cow;

use mlx_types::config::EngineApi;
use mlx_types::messages::{ChatMessage, InferenceRequest};
use serde::Serialize;

/// The body of a completion request. What is unset is left to the server's own default.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    model: &'a str,
    /// Whatever the requester wants: the bus carries a stream in any case, and only a stream shows that the server lives.
    stream: bool,
    /// Asks for what the answer costs, which most servers say only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Cow<'a, [ChatMessage]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// The role that newer clients use in place of `system`, which is the one that every chat template knows.
const DEVELOPER: &str = "developer";

fn known_roles(messages: &[ChatMessage]) -> Cow<'_, [ChatMessage]> {
    if messages.iter().all(|message| message.role != DEVELOPER) {
        return Cow::Borrowed(messages);
    }
    let known = |message: &ChatMessage| {
        let role = if message.role == DEVELOPER { "system" } else { &message.role };
        ChatMessage::new(role, message.content.as_str())
    };
    messages.iter().map(known).collect()
}

impl<'a> Body<'a> {
    /// The request for `api`. A prompt is a chat of one message.
    pub(super) fn new(request: &'a InferenceRequest, api: EngineApi, asks_for_usage: bool) -> Self {
        let stream_options = asks_for_usage.then_some(StreamOptions { include_usage: true });
        let prompt = request.prompt.as_str();
        let (messages, prompt) = match (api, &request.messages) {
            (EngineApi::Chat, Some(messages)) => (Some(known_roles(messages)), None),
            (EngineApi::Chat, None) => (Some(Cow::from(vec![ChatMessage::new("user", prompt)])), None),
            (EngineApi::Completions, _) => (None, Some(prompt)),
        };
        let &InferenceRequest { max_tokens, temperature, top_p, .. } = request;
        Self {
            model: &request.model_id,
            stream: true,
            stream_options,
            messages,
            prompt,
            max_tokens,
            temperature,
            top_p,
        }
    }
}
