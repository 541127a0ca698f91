//! What a [`ModelServer`](super::ModelServer) answers, down to the bytes.

use std::time::Duration;

use serde_json::{Value, json};

/// An answer to a completion request: a refusal, or a stream of steps.
///
/// ```
/// use mlx_tests::Answer;
///
/// let cut_short = Answer::stream().chat_token("Hel").chat_token("lo").cut();
/// let busy = Answer::refusal(429, "too many requests").with_header("retry-after", "7");
/// ```
#[derive(Clone, Debug)]
pub struct Answer(pub(super) Form);

#[derive(Clone, Debug)]
pub(super) enum Form {
    Refusal {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    Steps(Vec<Step>),
    /// A token after another until the client closes the connection.
    Endless,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Bytes(Vec<u8>),
    Pause(Duration),
    Silence,
    Cut,
}

impl Answer {
    /// A status with OpenAI's error body around `message`.
    pub fn refusal(status: u16, message: &str) -> Self {
        let body = json!({ "error": { "message": message, "type": "error", "param": null, "code": null } });
        Self::refusal_of(status, &body.to_string())
    }

    /// A status with any body.
    pub fn refusal_of(status: u16, body: &str) -> Self {
        Self(Form::Refusal { status, headers: Vec::new(), body: body.to_owned() })
    }

    /// A refusal with a header more.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let Form::Refusal { headers, .. } = &mut self.0 else { panic!("only a refusal has headers of its own") };
        headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Tokens "0 ", "1 ", "2 " and so on, at the server's pace, until the client closes the connection.
    pub fn endless() -> Self {
        Self(Form::Endless)
    }

    /// A stream of events, which ends well after its last step: nothing is sent that is not asked for here.
    pub fn stream() -> Self {
        Self(Form::Steps(Vec::new()))
    }

    /// Sends bytes, in a chunk of their own.
    #[must_use]
    pub fn bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Bytes(bytes.into()))
    }

    /// Sends an event.
    #[must_use]
    pub fn event(self, data: &Value) -> Self {
        self.bytes(event(data))
    }

    /// Sends a token of a chat.
    #[must_use]
    pub fn chat_token(self, text: &str) -> Self {
        self.event(&chat_chunk(&json!({ "content": text }), None))
    }

    /// Sends the last event of a chat, with its reason.
    #[must_use]
    pub fn chat_finish(self, reason: &str) -> Self {
        self.event(&chat_chunk(&json!({}), Some(reason)))
    }

    /// Sends `[DONE]`.
    #[must_use]
    pub fn done(self) -> Self {
        self.bytes(DONE)
    }

    /// Waits.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        self.step(Step::Pause(pause))
    }

    /// Says nothing more, with the connection open.
    #[must_use]
    pub fn silence(self) -> Self {
        self.step(Step::Silence)
    }

    /// Breaks the connection.
    #[must_use]
    pub fn cut(self) -> Self {
        self.step(Step::Cut)
    }

    fn step(mut self, step: Step) -> Self {
        let Form::Steps(steps) = &mut self.0 else { panic!("only a stream has steps") };
        steps.push(step);
        self
    }
}

pub(super) const DONE: &str = "data: [DONE]\n\n";

pub(super) fn event(data: &Value) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

pub(super) fn chat_chunk(delta: &Value, finish_reason: Option<&str>) -> Value {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish_reason });
    json!({ "id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice] })
}

pub(super) fn text_chunk(text: &str, finish_reason: Option<&str>) -> Value {
    let choice = json!({ "index": 0, "text": text, "finish_reason": finish_reason });
    json!({ "id": "c-1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice] })
}
