//! The server's side of HTTP.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Json, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{RequestExt, Router};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::answer::{DONE, Form, chat_chunk, event, text_chunk};
use super::{Answer, SeenRequest, State, Step};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

pub(super) fn router(state: Arc<State>, stopped: watch::Receiver<bool>) -> Router {
    let listing = Arc::clone(&state);
    let health = Arc::clone(&state);
    let embedding = Arc::clone(&state);
    let complete = move |request: Request| complete(Arc::clone(&state), stopped.clone(), request);
    Router::new()
        .route("/v1/models", get(move |request: Request| async move { models(&listing, &request) }))
        .route("/v1/embeddings", post(move |request: Request| embed(Arc::clone(&embedding), request)))
        .route("/health", get(move || async move { well(&health) }))
        .route(CHAT, post(complete.clone()))
        .route(TEXT, post(complete))
}

/// Resolves when the server is to stop, or is gone.
pub(super) async fn told(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn models(state: &State, request: &Request) -> Response {
    state.lock().listings += 1;
    if let Some(refusal) = without_key(state, request) {
        return refusal;
    }
    let models: Vec<Value> =
        state.lock().models.iter().map(|id| json!({ "id": id, "object": "model", "created": 0 })).collect();
    Json(json!({ "object": "list", "data": models })).into_response()
}

/// Two numbers for whatever it is asked.
async fn embed(state: Arc<State>, request: Request) -> Result<Response, Infallible> {
    if let Some(refusal) = without_key(&state, &request) {
        return Ok(refusal);
    }
    let (path, authorization) = (request.uri().path().to_owned(), authorization(&request));
    let body = match request.extract::<Json<Value>, _>().await {
        Ok(Json(body)) => body,
        Err(rejection) => return Ok(rejection.into_response()),
    };
    let answer = {
        let mut inner = state.lock();
        inner.seen.push(SeenRequest { path, authorization, body: body.clone() });
        inner.answers.pop_front()
    };
    if let Some(Answer(Form::Refusal { status, headers, body })) = answer {
        return Ok(refusal(status, &headers, &body));
    }
    // Written by hand: numbers have to come through as they are.
    let model = &body["model"];
    let said = format!(
        r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":[0.10, -1E-3]}}],"model":{model},"usage":{{"prompt_tokens":2,"total_tokens":2}}}}"#
    );
    Ok(refusal(200, &[], &said))
}

fn well(state: &State) -> Response {
    let status = state.lock().health.unwrap_or(404);
    refusal(status, &[], r#"{"status": "unavailable"}"#)
}

async fn complete(state: Arc<State>, stopped: watch::Receiver<bool>, request: Request) -> Result<Response, Infallible> {
    if let Some(refusal) = without_key(&state, &request) {
        return Ok(refusal);
    }
    let path = request.uri().path().to_owned();
    let authorization = authorization(&request);
    let body = match request.extract::<Json<Value>, _>().await {
        Ok(Json(body)) => body,
        Err(rejection) => return Ok(rejection.into_response()),
    };
    let (answer, pace) = {
        let mut inner = state.lock();
        inner.seen.push(SeenRequest { path: path.clone(), authorization, body: body.clone() });
        (inner.answers.pop_front(), inner.pace)
    };
    let model = body["model"].as_str().unwrap_or_default();
    if !state.lock().models.iter().any(|known| known == model) {
        return Ok(refusal(404, &[], &error_body(&format!("The model `{model}` does not exist"))));
    }
    let chat = path == CHAT;
    if body["stream"] != true {
        // Scripts are for streams, but for a refusal.
        let said =
            json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": "You" }, "text": "You" }] });
        return Ok(match answer.map(|Answer(form)| form) {
            Some(Form::Refusal { status, headers, body }) => refusal(status, &headers, &body),
            _ => Json(said).into_response(),
        });
    }
    Ok(match answer.map(|Answer(form)| form) {
        Some(Form::Refusal { status, headers, body }) => refusal(status, &headers, &body),
        Some(Form::Steps(steps)) => events(Generation::new(state, steps, None), stopped),
        Some(Form::Endless) => events(Generation::new(state, beginning(chat), Some(chat)), stopped),
        None => events(Generation::new(state, echo(&body, chat, pace), None), stopped),
    })
}

fn without_key(state: &State, request: &Request) -> Option<Response> {
    let key = state.lock().key.clone()?;
    let brought = authorization(request).is_some_and(|brought| brought == format!("Bearer {key}"));
    (!brought).then(|| refusal(401, &[], &error_body("Incorrect API key provided")))
}

fn authorization(request: &Request) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn error_body(message: &str) -> String {
    json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null } }).to_string()
}

fn refusal(status: u16, headers: &[(String, String)], body: &str) -> Response {
    let mut response = Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body.to_owned())).unwrap()
}

/// The words of the prompt, each a token, as many as were asked for.
fn echo(body: &Value, chat: bool, pace: Duration) -> Vec<Step> {
    let last_message = || body["messages"].as_array()?.last()?["content"].as_str();
    let prompt = body["prompt"].as_str().or_else(last_message).unwrap_or_default();
    let text = format!("You said: {prompt}");
    let limit = body["max_tokens"].as_u64().map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
    let tokens: Vec<&str> = text.split_inclusive(' ').collect();
    let reason = if tokens.len() > limit { "length" } else { "stop" };

    let mut steps = beginning(chat);
    for token in tokens.into_iter().take(limit) {
        if !pace.is_zero() {
            steps.push(Step::Pause(pace));
        }
        steps.push(Step::Bytes(event(&one_token(chat, token))));
    }
    let last = if chat { chat_chunk(&json!({}), Some(reason)) } else { text_chunk("", Some(reason)) };
    steps.push(Step::Bytes(event(&last)));
    steps.push(Step::Bytes(DONE.into()));
    steps
}

/// A chat begins with its role.
fn beginning(chat: bool) -> Vec<Step> {
    let role = || Step::Bytes(event(&chat_chunk(&json!({ "role": "assistant", "content": "" }), None)));
    if chat { vec![role()] } else { Vec::new() }
}

fn one_token(chat: bool, text: &str) -> Value {
    if chat { chat_chunk(&json!({ "content": text }), None) } else { text_chunk(text, None) }
}

/// An answer under way. Dropped before its end, it was abandoned by the client.
struct Generation {
    state: Arc<State>,
    steps: VecDeque<Step>,
    /// Whether it goes on for ever after its steps, and then whether as a chat.
    endless: Option<bool>,
    /// Tokens made after the steps.
    made: u64,
    over: bool,
}

impl Generation {
    fn new(state: Arc<State>, steps: Vec<Step>, endless: Option<bool>) -> Self {
        state.lock().generating += 1;
        Self { state, steps: steps.into(), endless, made: 0, over: false }
    }

    async fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        loop {
            match self.steps.pop_front() {
                Some(Step::Bytes(bytes)) => return Some(Ok(bytes)),
                Some(Step::Pause(pause)) => tokio::time::sleep(pause).await, // the model's own time
                Some(Step::Silence) => std::future::pending().await,
                Some(Step::Cut) => {
                    tokio::task::yield_now().await; // for the server to send what it was given before
                    return Some(Err(io::Error::other("the test breaks the connection")));
                }
                None => {
                    let chat = self.endless?;
                    let pace = self.state.lock().pace;
                    self.steps.push_back(Step::Pause(pace));
                    self.steps.push_back(Step::Bytes(event(&one_token(chat, &format!("{} ", self.made)))));
                    self.made += 1;
                }
            }
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        inner.generating -= 1;
        inner.abandoned += usize::from(!self.over);
    }
}

fn events(generation: Generation, stopped: watch::Receiver<bool>) -> Response {
    let body = stream::unfold((generation, stopped), |(mut generation, stopped)| async move {
        if generation.over {
            return None;
        }
        let next = tokio::select! {
            next = generation.next() => next,
            () = told(stopped.clone()) => Some(Err(io::Error::other("the server stops"))),
        };
        // Ours to end, whatever the client does from here on.
        generation.over = !matches!(next, Some(Ok(_)));
        next.map(|bytes| (bytes, (generation, stopped)))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
}
