//! `/v1/embeddings`: the engine's own, through a worker.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use mlx_errors::ErrorKind;
use mlx_types::messages::{EmbeddingRequest, Feature, Message};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Gateway;
use super::error::ApiError;
use super::openai;
use super::stats::Outcome;
use crate::members::{Members, object};

#[derive(Deserialize)]
struct Asked<'a> {
    model: String,
    /// A text, a list of them, or of their tokens: the engine knows which it takes.
    #[serde(borrow, rename = "input")]
    _input: &'a RawValue,
}

/// `POST /v1/embeddings`.
pub(super) async fn embed(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, ApiError> {
    let body = gateway.bodies.json(request).await?;
    let asked: Asked<'_> = openai::parse(&body.bytes)?;
    let members: Members<'_> = openai::parse(&body.bytes)?;
    let rest = members.0.iter().filter(|(name, _)| name != "model");
    let params = object(rest.map(|(name, value)| (name.as_str(), *value)))
        .map_err(|error| ApiError::invalid(None, format!("the body cannot be passed on: {error}")))?;
    let request = EmbeddingRequest::new(asked.model, params);
    if let Err(violations) = request.check() {
        let why = violations.iter().next().map_or_else(String::new, |first| first.message.clone());
        return Err(ApiError::invalid(None, format!("what is passed on to the engine {why}")));
    }
    let answered = tokio::select! {
        answered = gateway.dispatcher.embed(&request) => answered,
        () = gateway.ended() => return Err(ApiError::shutting_down()),
    };
    match answered {
        Ok(response) => {
            gateway.stats.ended(Outcome::Answered);
            Ok(([(header::CONTENT_TYPE, "application/json")], response.result.as_json().to_owned()).into_response())
        }
        Err(error) => {
            let refusal = match error.kind() {
                ErrorKind::Unsupported { model, .. } => ApiError::invalid(
                    "model".to_owned(),
                    format!("no worker of the model `{model}` answers {}", Feature::Embeddings),
                ),
                _ => gateway.refusal(&error, &[]),
            };
            gateway.stats.ended(Outcome::Failed(refusal.code.clone()));
            Err(refusal)
        }
    }
}
