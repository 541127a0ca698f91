//! Inference: the request, the tokens that answer it, and the cancellation.

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::open_enum::open_enum;
use super::raw::bounds;
use super::{ChatContent, Feature, RawObject};
use crate::check::{finite, finite_if_set};
use crate::{RequestId, SessionId, WorkerId};

/// A prompt to complete: on `worker.{workerId}.inference`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "InferenceRequest"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct InferenceRequest {
    /// The request; its tokens come on `response.{requestId}`.
    pub request_id: RequestId,
    /// The model to ask.
    pub model_id: String,
    /// The text to complete; for a chat the whole of it, for workers that do not read `messages`.
    pub prompt: String,
    /// The chat to go on with, oldest message first, 1 to 4096 of them. A worker that reads it ignores `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(length(min = 1, max = 4096), dive)]
    pub messages: Option<Vec<ChatMessage>>,
    /// Tokens to make at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 1))]
    pub max_tokens: Option<u64>,
    /// How freely to sample, 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 0.0, max = 2.0), custom(finite_if_set))]
    pub temperature: Option<f64>,
    /// The probability mass to sample from, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 0.0, max = 1.0), custom(finite_if_set))]
    pub top_p: Option<f64>,
    /// The conversation it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// Whether tokens are wanted as they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Whether the prompt is to be gone on with as it stands, without a chat template. Workers that do not know this member use
    /// their template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<bool>,
    /// Everything else that the engine is asked for, in the words of its own protocol: `tools`, `response_format`, `seed` and so
    /// on. At most 1 MiB and 64 levels; carried as it came, and never logged. Only workers whose
    /// [`accepts`](super::WorkerCapabilities::accepts) say so read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(bounds::params))]
    pub params: Option<RawObject>,
}

mlx_errors::setters! {
    InferenceRequest {
        request_id: set RequestId,
        messages: option Vec<ChatMessage>,
        max_tokens: option u64,
        temperature: option f64,
        top_p: option f64,
        session_id: option SessionId,
        stream: option bool,
        raw: option bool,
        params: option RawObject,
    }
}

impl InferenceRequest {
    /// A new request with a random id and every option unset.
    pub fn new(model_id: impl Into<String>, prompt: impl Into<String>) -> Self {
        Self {
            request_id: RequestId::new(),
            model_id: model_id.into(),
            prompt: prompt.into(),
            messages: None,
            max_tokens: None,
            temperature: None,
            top_p: None,
            session_id: None,
            stream: None,
            raw: None,
            params: None,
        }
    }

    /// What a worker has to accept to see the whole of it: nothing for a prompt, and for a chat of texts. A chat with `params` is for
    /// those that read whole chats, since `params` may be about it, as tools are.
    pub fn needs(&self) -> Vec<Feature> {
        let has_params = self.params.is_some();
        let needs_chat = self.messages.iter().flatten().any(|message| has_params || !message.is_plain());
        let needs = [(has_params, Feature::Params), (needs_chat, Feature::Messages)];
        needs.into_iter().filter(|(needed, _)| *needed).map(|(_, feature)| feature).collect()
    }
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "ChatMessage"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct ChatMessage {
    /// Who speaks, 1 to 64 characters: `system`, `user` and `assistant` are known to every model, others to some.
    #[garde(length(chars, min = 1, max = 64))]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    pub role: String,
    /// What is said; unset for an assistant that only calls tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(bounds::content))]
    pub content: Option<ChatContent>,
    /// Everything else that belongs to it, in the words of the engine's own protocol: `tool_calls`, `tool_call_id`, `name` and so
    /// on. Bounded as those of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(bounds::params))]
    pub params: Option<RawObject>,
}

mlx_errors::setters! {
    ChatMessage {
        content: option ChatContent,
        params: option RawObject,
    }
}

impl ChatMessage {
    /// A message that says something.
    pub fn new(role: impl Into<String>, content: impl Into<ChatContent>) -> Self {
        Self { role: role.into(), content: Some(content.into()), params: None }
    }

    /// Its text, where it says one.
    pub fn text(&self) -> Option<&str> {
        self.content.as_ref()?.as_text()
    }

    /// Whether it is a text and no more, which every worker reads that reads chats.
    pub fn is_plain(&self) -> bool {
        self.text().is_some() && self.params.is_none()
    }
}

/// What a Rust worker answers in the request's reply inbox: it has taken the request on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "InferenceAcceptance"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct InferenceAcceptance {
    /// The request.
    pub request_id: RequestId,
    /// Who serves it.
    pub worker_id: WorkerId,
}

impl InferenceAcceptance {
    /// The word that `worker_id` has taken `request_id` on.
    pub fn new(request_id: RequestId, worker_id: WorkerId) -> Self {
        Self { request_id, worker_id }
    }
}

/// A frame of a token stream: on `response.{requestId}`, told apart by `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "StreamingResponse"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub enum StreamingResponse {
    /// One token.
    Token {
        /// The request.
        request_id: RequestId,
        /// Its text.
        token: String,
        /// Its place, from 0.
        index: u64,
    },
    /// Several tokens at once; sent only to a requester that offered to read them.
    Tokens {
        /// The request.
        request_id: RequestId,
        /// Their texts, at least one.
        #[garde(length(min = 1))]
        tokens: Vec<String>,
        /// The place of the first, from 0.
        index: u64,
    },
    /// What a token cannot say: tool calls, reasoning, log probabilities. Sent only to a requester that offered to read it.
    Delta {
        /// The request.
        request_id: RequestId,
        /// An entry of `choices` of a streamed answer in OpenAI's protocol, as the engine sent it. Bounded as `params`, in levels.
        #[garde(custom(bounds::object))]
        delta: RawObject,
        /// Its place, counted together with the tokens.
        index: u64,
    },
    /// The end: the completion is whole.
    Done {
        /// The request.
        request_id: RequestId,
        /// Tokens made; 0 is legal.
        total_tokens: u64,
        /// From the request to the last token, in ms.
        #[garde(range(min = 0.0), custom(finite))]
        latency_ms: f64,
        /// Why it ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        finish_reason: Option<FinishReason>,
        /// What it cost, where the engine counts that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// The end: it failed.
    Error {
        /// The request.
        request_id: RequestId,
        /// What happened, for people.
        error: String,
        /// A stable code, for programs.
        code: String,
        /// Whether the same request may succeed if it is made again; unset where the code alone says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retryable: Option<bool>,
    },
}

impl StreamingResponse {
    /// The request that the frame answers.
    pub fn request_id(&self) -> RequestId {
        match self {
            Self::Token { request_id, .. }
            | Self::Tokens { request_id, .. }
            | Self::Delta { request_id, .. }
            | Self::Done { request_id, .. }
            | Self::Error { request_id, .. } => *request_id,
        }
    }

    /// Whether nothing may follow it.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Error { .. })
    }
}

/// What an answer cost, in tokens as the engine counts them: its own, of which a frame may hold several or a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "Usage"))]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u64>,
    /// Tokens of the prompt that the engine had computed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
}

mlx_errors::setters! {
    Usage {
        prompt_tokens: option u64,
        completion_tokens: option u64,
        cached_tokens: option u64,
    }
}

open_enum! {
    /// Why a completion ended.
    FinishReason {
        /// The model had no more to say, or was told to stop cleanly.
        Stop = "stop",
        /// `maxTokens` was reached.
        Length = "length",
        /// The requester cancelled it.
        Cancelled = "cancelled",
        /// The model calls a tool.
        ToolCalls = "tool_calls",
        /// The engine held something back.
        ContentFilter = "content_filter",
    }
}

/// The requester no longer wants the answer: on `worker.{workerId}.cancel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", remote = "Self")]
#[cfg_attr(feature = "schema", schemars(rename = "InferenceCancel"))]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct InferenceCancel {
    /// The request to end.
    pub request_id: RequestId,
    /// How to end it.
    pub mode: CancelMode,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

mlx_errors::setters! {
    InferenceCancel {
        reason: text,
    }
}

impl InferenceCancel {
    /// A cancellation without a reason.
    pub fn new(request_id: RequestId, mode: CancelMode) -> Self {
        Self { request_id, mode, reason: None }
    }
}

/// How to end a request. Closed: a worker that took an unknown way for one of these would do the wrong thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum CancelMode {
    /// Finish cleanly: send `done` with what was counted.
    Stop,
    /// Drop it now: send nothing more.
    Kill,
}
