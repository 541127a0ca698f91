//! The gateway, for those who speak HTTP: OpenAI's protocol, monitoring, and a page to look at.

mod access;
mod answer;
mod body;
mod completions;
mod curves;
mod embeddings;
mod error;
mod events;
mod form;
mod history;
mod hosts;
mod merge;
mod meter;
mod monitoring;
mod openai;
mod page;
mod registry;
mod server;
mod stats;
mod stop;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use mlx_nats::{Client, Dispatcher, Workers};
use serde_json::{Value, json};
use tokio::sync::watch;

use self::access::Keys;
use self::error::ApiError;
use self::events::EventLog;
use self::hosts::Hosts;
pub(crate) use self::monitoring::install as install_metrics;
pub(crate) use self::server::{Listeners, Server};
use self::stats::Stats;
use crate::plan::{GatewayPlan, KnownWorkers};

/// What every request works with.
pub(crate) struct Gateway {
    client: Client,
    registry: Workers,
    dispatcher: Dispatcher,
    known: KnownWorkers,
    stats: Stats,
    events: EventLog,
    hosts: Hosts,
    keys: Keys,
    bodies: body::Room,
    /// Where the page is, if it has a port of its own.
    page_port: Option<u16>,
    /// Set once no answer may go on.
    over: watch::Receiver<bool>,
}

impl Gateway {
    /// Resolves once no answer may go on.
    async fn ended(&self) {
        let mut over = self.over.clone();
        // The sender outlives the server, so that its end is no reason either.
        if over.wait_for(|over| *over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What is served at the address of the API, and at that of the page where it is another one.
fn routers(gateway: &Arc<Gateway>, plan: &GatewayPlan) -> (Router, Option<Router>) {
    let api = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(completions::chat))
        .route("/v1/completions", post(completions::completion))
        .route("/v1/embeddings", post(embeddings::embed))
        .layer(middleware::from_fn_with_state(Arc::clone(gateway), access::check));
    let watched = Router::new().route("/healthz", get(monitoring::healthz)).route("/metrics", get(monitoring::metrics));
    let page = Router::new()
        .route("/", get(page::page))
        .route("/live", get(page::live))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script));
    if gateway.page_port.is_none() {
        return (finished(gateway, plan, api.merge(watched).merge(page)), None);
    }
    let first = api.merge(watched.clone()).route("/", get(to_the_page));
    (finished(gateway, plan, first), Some(finished(gateway, plan, watched.merge(page))))
}

/// With what holds for every address.
fn finished(gateway: &Arc<Gateway>, plan: &GatewayPlan, router: Router<Arc<Gateway>>) -> Router {
    let router = router.fallback(nowhere).method_not_allowed_fallback(async || {
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "this address takes another method")
    });
    let router = match access::cross_origin(&plan.allow_origins) {
        Some(cross_origin) => router.layer(cross_origin),
        None => router,
    };
    router
        .layer(middleware::from_fn_with_state(Arc::clone(gateway), hosts::check)) // before all else
        .with_state(Arc::clone(gateway))
}

/// `GET /` where the page has a port of its own.
async fn to_the_page(State(gateway): State<Arc<Gateway>>, request: axum::extract::Request) -> Response {
    let host = request.headers().get(axum::http::header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<axum::http::uri::Authority>().ok());
    match (host, gateway.page_port) {
        (Some(host), Some(port)) => Redirect::temporary(&format!("http://{}:{port}/", host.host())).into_response(),
        _ => ApiError::new(StatusCode::NOT_FOUND, "unknown_url", "the page is at another port").into_response(),
    }
}

/// Any other address: mostly a base URL with a `/v1` too many, or too few.
async fn nowhere(uri: axum::http::Uri) -> ApiError {
    const KNOWN: [&str; 4] = ["/chat/completions", "/completions", "/embeddings", "/models"];
    let path = uri.path();
    let message = if path.starts_with("/v1/v1/") {
        "there is nothing at this address: the base URL has `/v1` twice; it ends in one".to_owned()
    } else if KNOWN.iter().any(|known| path.starts_with(known)) {
        format!("there is nothing at this address, but at `/v1{path}`: the base URL ends in `/v1`")
    } else {
        "there is nothing at this address; OpenAI's protocol is below `/v1`".to_owned()
    };
    ApiError::new(StatusCode::NOT_FOUND, "unknown_url", message)
}

/// `GET /v1/models`.
async fn models(State(gateway): State<Arc<Gateway>>) -> Json<Value> {
    let models: Vec<Value> = gateway.models().iter().map(|(id, seen)| description(id, *seen)).collect();
    Json(json!({ "object": "list", "data": models }))
}

/// `GET /v1/models/{id}`.
async fn model(
    State(gateway): State<Arc<Gateway>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) =
        id.map_err(|rejection| ApiError::new(rejection.status(), "invalid_request", rejection.body_text()))?;
    match gateway.models().get(&id) {
        Some(seen) => Ok(Json(description(&id, *seen))),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", format!("no worker has a model `{id}`"))),
    }
}

fn description(id: &str, seen: u64) -> Value {
    json!({ "id": id, "object": "model", "created": seen, "owned_by": "mlx-serving" })
}

/// Whether anybody on the network may ask, and needs no key for it.
pub(crate) fn is_open(address: SocketAddr, plan: &GatewayPlan) -> bool {
    !address.ip().to_canonical().is_loopback() && plan.api_keys.is_empty()
}
