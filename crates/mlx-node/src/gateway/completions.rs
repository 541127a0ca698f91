//! `/v1/chat/completions` and `/v1/completions`: the same answers in two shapes, whole or as a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use mlx_types::{RequestId, Timestamp};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::answer::{Answer, Ending, Piece};
use super::error::ApiError;
use super::openai::{self, Asked};
use super::{BODY_LIMIT, Gateway};

/// Names the worker in a response, for whoever wants to find it in the logs.
pub(super) const WORKER: HeaderName = HeaderName::from_static("x-mlx-worker");
/// How long a stream is silent at the most: then it shows that it is alive, so that nothing on the way takes it for dead.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_mins(1);

/// `POST /v1/chat/completions`.
pub(super) async fn chat(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, ApiError> {
    respond(gateway, openai::chat(&json_body(request).await?)?, Shape::Chat).await
}

/// `POST /v1/completions`.
pub(super) async fn completion(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, ApiError> {
    respond(gateway, openai::completion(&json_body(request).await?)?, Shape::Text).await
}

/// The body, which has to say that it is JSON: another site's page can have a browser send anything but that.
async fn json_body(request: Request) -> Result<Bytes, ApiError> {
    let headers = request.headers();
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        let message = format!("a body in `content-encoding: {encoding}` is not read: send it as it is");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", message));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let message = "the header `content-type: application/json` is needed";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", message));
    }
    let read = timeout(BODY_TIME, Bytes::from_request(request, &())).await;
    let late = || {
        let message = format!("the body took longer than {} s to come", BODY_TIME.as_secs());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    };
    read.map_err(|_| late())?.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("a body of more than {BODY_LIMIT} bytes is not read");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
        }
        status => ApiError::new(status, "invalid_request", rejection.body_text()),
    })
}

async fn respond(gateway: Arc<Gateway>, asked: Asked, shape: Shape) -> Result<Response, ApiError> {
    let Asked { request, stop, stream: streamed, include_usage } = asked;
    let form = Form {
        shape,
        id: format!("{}-{}", shape.prefix(), RequestId::new()),
        created: Timestamp::now().as_millis() / 1000,
        model: request.model_id.clone(),
        include_usage,
    };
    let mut asking = Box::pin(async move { gateway.ask(request, stop).await });
    if !streamed {
        let answer = asking.await?;
        let worker = worker_of(&answer);
        let whole = whole(answer).await?;
        return Ok((worker, axum::Json(form.whole(&whole.0, whole.1))).into_response());
    }
    // What fails quickly has a status. What takes its time shows that it is alive, and fails by an event.
    if let Ok(answer) = timeout(SILENCE, &mut asking).await {
        let answer = answer?;
        return Ok((worker_of(&answer), as_events(answer_events(form, answer))).into_response());
    }
    let alive = stream::once(std::future::ready(vec![Event::default().comment("")]));
    let answer = stream::once(asking).flat_map(move |answer| match answer {
        Ok(answer) => answer_events(form.clone(), answer).left_stream(),
        Err(refusal) => stream::once(std::future::ready(vec![event(&refusal.body())])).right_stream(),
    });
    Ok(as_events(alive.chain(answer)))
}

/// The header that says which worker answers.
fn worker_of(answer: &Answer) -> HeaderMap {
    answer.worker().and_then(|id| Some((WORKER, id.to_string().parse().ok()?))).into_iter().collect()
}

fn answer_events(form: Form, answer: Answer) -> impl Stream<Item = Vec<Event>> + Send {
    stream::once(std::future::ready(form.opening())).chain(events(form, answer))
}

/// A stream of events that nothing on the way holds back or takes for dead.
fn as_events(events: impl Stream<Item = Vec<Event>> + Send + 'static) -> Response {
    let events = events.flat_map(stream::iter).map(Ok::<_, Infallible>);
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no"), (header::CACHE_CONTROL, "no-cache")];
    (unbuffered, Sse::new(events).keep_alive(KeepAlive::new().interval(SILENCE))).into_response()
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
fn events(form: Form, answer: Answer) -> impl Stream<Item = Vec<Event>> {
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
#[derive(Clone)]
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

/// As the engine counts; where it does not, the pieces of the answer, and 0 for the prompt, which claims less than a guess would.
fn usage(end: Ending) -> Value {
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

fn event(data: &Value) -> Event {
    // JSON as serde writes it has no line break, which is all that an event cannot hold.
    Event::default().data(data.to_string())
}
