//! `/v1/chat/completions` and `/v1/completions`: the same answers in two shapes, whole or as a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde_json::Value;
use tokio::time::timeout;

use super::Gateway;
use super::answer::{Answer, Ending, Piece};
use super::body::Read;
use super::error::ApiError;
use super::form::{Form, Shape};
use super::merge::Choices;
use super::openai::{self, Asked};

/// Names the worker in a response, for whoever wants to find it in the logs.
pub(super) const WORKER: HeaderName = HeaderName::from_static("x-mlx-worker");
/// How long a stream is silent at the most: then it shows that it is alive, so that nothing on the way takes it for dead.
const SILENCE: Duration = Duration::from_secs(10);

/// `POST /v1/chat/completions`.
pub(super) async fn chat(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, ApiError> {
    let body = gateway.bodies.json(request).await?;
    let asked = openai::chat(&body.bytes)?;
    respond(gateway, body, asked, Shape::Chat).await
}

/// `POST /v1/completions`.
pub(super) async fn completion(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, ApiError> {
    let body = gateway.bodies.json(request).await?;
    let asked = openai::completion(&body.bytes)?;
    respond(gateway, body, asked, Shape::Text).await
}

async fn respond(gateway: Arc<Gateway>, body: Read, asked: Asked, shape: Shape) -> Result<Response, ApiError> {
    let streamed = asked.stream;
    let form = Form::new(shape, &asked);
    let mut asking = Box::pin(async move {
        let _room = body; // what was read of it is in memory until somebody has begun to answer
        gateway.ask(asked).await
    });
    if !streamed {
        let answer = asking.await?;
        let worker = worker_of(&answer);
        let (choices, end) = whole(answer).await?;
        return Ok((worker, axum::Json(form.whole(choices, &end))).into_response());
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

async fn whole(mut answer: Answer) -> Result<(Choices, Ending), ApiError> {
    let mut choices = Choices::default();
    loop {
        let piece = answer.next().await?;
        choices.push(&piece.text);
        if let Some(delta) = piece.delta {
            let wrong = |error| {
                let message = format!("the worker's answer cannot be put together: {error}");
                ApiError::new(StatusCode::BAD_GATEWAY, "MESSAGE_DECODE_ERROR", message)
            };
            choices.add(&delta).map_err(wrong)?;
        }
        if let Some(end) = piece.end {
            return Ok((choices, end));
        }
    }
}

/// The events of an answer, as they come. The answer is dropped with its end, or with the connection.
fn events(form: Form, answer: Answer) -> impl Stream<Item = Vec<Event>> {
    stream::unfold((form, Some(answer)), |(form, answer)| async move {
        let mut answer = answer?;
        Some(match answer.next().await {
            Ok(Piece { text, delta, end }) => {
                let said = form.text(&text).into_iter().chain(delta.map(|delta| form.delta(&delta)));
                let ending = end.iter().flat_map(|end| form.ending(end));
                let events = said.chain(ending).collect();
                (events, (form, end.is_none().then_some(answer)))
            }
            // Too late for a status: clients know an event with an error, and that no `[DONE]` follows.
            Err(refusal) => (vec![event(&refusal.body())], (form, None)),
        })
    })
}

fn event(data: &Value) -> Event {
    // JSON as serde writes it has no line break, which is all that an event cannot hold.
    Event::default().data(data.to_string())
}
