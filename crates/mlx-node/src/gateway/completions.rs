//! `/v1/chat/completions` and `/v1/completions`: the same answers in two shapes, whole or as a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use mlx_types::{RequestId, Timestamp};
use serde_json::{Value, json};

use super::answer::{Answer, Ending, Piece};
use super::error::ApiError;
use super::openai::{self, Asked};
use super::{BODY_LIMIT, Gateway};

/// Names the worker in a response, for whoever wants to find it in the logs.
pub(super) const WORKER: HeaderName = HeaderName::from_static("x-mlx-worker");
/// How often a stream without a token shows that it is alive, so that nothing on the way takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `POST /v1/chat/completions`.
pub(super) async fn chat(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    respond(gateway, openai::chat(&json_body(&headers, body)?)?, Shape::Chat).await
}

/// `POST /v1/completions`.
pub(super) async fn completion(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    respond(gateway, openai::completion(&json_body(&headers, body)?)?, Shape::Text).await
}

/// The body, which has to say that it is JSON: another site's page can have a browser send anything but that.
fn json_body(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("a body of more than {BODY_LIMIT} bytes is not read");
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
            }
            status => ApiError::new(status, "invalid_request", rejection.body_text()),
        });
    }
    let message = "the header `content-type: application/json` is needed";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", message))
}

async fn respond(gateway: Arc<Gateway>, asked: Asked, shape: Shape) -> Result<Response, ApiError> {
    let form = Form {
        shape,
        id: format!("{}-{}", shape.prefix(), RequestId::new()),
        created: Timestamp::now().as_millis() / 1000,
        model: asked.request.model_id.clone(),
        include_usage: asked.include_usage,
    };
    let answer = gateway.ask(asked.request, asked.stop).await?;
    let worker: HeaderMap =
        answer.worker().and_then(|id| Some((WORKER, id.to_string().parse().ok()?))).into_iter().collect();
    if asked.stream {
        let events =
            stream::once(std::future::ready(form.opening())).chain(events(form, answer)).flat_map(stream::iter);
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        return Ok((worker, Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(keep_alive)).into_response());
    }
    let whole = whole(answer).await?;
    Ok((worker, axum::Json(form.whole(&whole.0, whole.1))).into_response())
}

async fn whole(mut answer: Answer) -> Result<(String, Ending), ApiError> {
    let mut text = String::new();
    loop {
        let piece = answer.next().await?;
        text.push_str(&piece.text);
        if let Some(end) = piece.end {
            return Ok((text, end));
        }
    }
}

/// The events of an answer, as they come. The answer is dropped with its end, or with the connection.
fn events(form: Form, answer: Answer) -> impl stream::Stream<Item = Vec<Event>> {
    stream::unfold((form, Some(answer)), |(form, answer)| async move {
        let mut answer = answer?;
        Some(match answer.next().await {
            Ok(Piece { text, end: None }) => (form.text(&text), (form, Some(answer))),
            Ok(Piece { text, end: Some(end) }) => ([form.text(&text), form.ending(end)].concat(), (form, None)),
            // Too late for a status: clients know an event with an error, and that no `[DONE]` follows.
            Err(refusal) => (vec![event(&refusal.body())], (form, None)),
        })
    })
}

/// Chat or plain text.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Chat,
    Text,
}

impl Shape {
    fn prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Text => "cmpl",
        }
    }
}

/// How one answer is written down.
struct Form {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
}

impl Form {
    fn whole(&self, text: &str, end: Ending) -> Value {
        let choice = match self.shape {
            Shape::Chat => json!({
                "index": 0,
                "message": { "role": "assistant", "content": text },
                "logprobs": null,
                "finish_reason": end.reason,
            }),
            Shape::Text => json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": end.reason }),
        };
        let object = match self.shape {
            Shape::Chat => "chat.completion",
            Shape::Text => "text_completion",
        };
        self.object(object, &json!([choice]), Some(usage(end)))
    }

    /// A chat says first who speaks.
    fn opening(&self) -> Vec<Event> {
        match self.shape {
            Shape::Chat => vec![self.chunk(&json!({ "role": "assistant", "content": "" }), None)],
            Shape::Text => Vec::new(),
        }
    }

    fn text(&self, text: &str) -> Vec<Event> {
        if text.is_empty() {
            return Vec::new(); // held back, for it may begin a stop sequence
        }
        vec![match self.shape {
            Shape::Chat => self.chunk(&json!({ "content": text }), None),
            Shape::Text => self.chunk(&json!(text), None),
        }]
    }

    fn ending(&self, end: Ending) -> Vec<Event> {
        let last = match self.shape {
            Shape::Chat => self.chunk(&json!({}), Some(end.reason)),
            Shape::Text => self.chunk(&json!(""), Some(end.reason)),
        };
        let figures =
            self.include_usage.then(|| event(&self.object(self.chunk_object(), &json!([]), Some(usage(end)))));
        [last].into_iter().chain(figures).chain([Event::default().data("[DONE]")]).collect()
    }

    fn chunk(&self, content: &Value, finish_reason: Option<&str>) -> Event {
        let member = match self.shape {
            Shape::Chat => "delta",
            Shape::Text => "text",
        };
        let choice = json!({ "index": 0, member: content, "logprobs": null, "finish_reason": finish_reason });
        event(&self.object(self.chunk_object(), &json!([choice]), None))
    }

    fn chunk_object(&self) -> &'static str {
        match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        }
    }

    fn object(&self, object: &str, choices: &Value, usage: Option<Value>) -> Value {
        let mut whole = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let (Some(usage), Some(members)) = (usage, whole.as_object_mut()) {
            members.insert("usage".to_owned(), usage);
        }
        whole
    }
}

/// Workers do not say how many tokens a prompt has, and 0 claims less than a guess would.
fn usage(end: Ending) -> Value {
    json!({ "prompt_tokens": 0, "completion_tokens": end.tokens, "total_tokens": end.tokens })
}

fn event(data: &Value) -> Event {
    // JSON as serde writes it has no line break, which is all that an event cannot hold.
    Event::default().data(data.to_string())
}
