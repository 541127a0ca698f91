//! A front door for those who speak HTTP: OpenAI's protocol, monitoring, and a page to look at.
//!
//! `cargo run -p mlx-embedded --example cluster -- --listen 127.0.0.1:8080`

mod answer;
mod completions;
mod exposition;
mod hosts;
mod meter;
mod monitoring;
mod news;
mod openai;
mod page;
mod placement;
mod refusal;
mod registry;
mod stats;
mod stop;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::{Client, Workers};
use mlx_types::config::ClusterConfig;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cli::{Arguments, EXIT_ANSWERED};
use crate::cluster::Cluster;
use crate::printer::note;
use crate::processes::interrupted;
use hosts::Hosts;
use news::EventLog;
use placement::Placement;
use refusal::ApiError;
use stats::Stats;

/// Bytes of a request's body at the most. NATS is the narrower gate: its limit is 8 MiB unless configured, and a chat is in
/// a request twice.
const BODY_LIMIT: usize = 8 << 20;
/// How long answers under way may take to their end once the controller is told to end.
const GRACE: Duration = Duration::from_secs(5);
/// How long the connections may take to close after that.
const CLOSING: Duration = Duration::from_secs(1);

/// What every request works with.
pub struct Gateway {
    client: Client,
    registry: Workers,
    placement: Arc<Placement>,
    stats: Stats,
    news: EventLog,
    hosts: Hosts,
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

/// Serves until interrupted, or until the bus is given up.
///
/// # Errors
/// An address that cannot be listened on; those of [`Cluster::start`]; a bus that is given up.
pub async fn run(config: &ClusterConfig, arguments: &Arguments, listen: SocketAddr) -> Result<ExitCode> {
    // Before anything is started, since this is what is most likely to fail.
    let cannot_listen = |error| {
        let reason = format!("cannot listen on {listen}; `--listen` says where");
        Error::with_source(ErrorKind::Internal { reason }, error)
    };
    let listener = TcpListener::bind(listen).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    let cluster = Cluster::start(config, arguments).await?;
    for (number, worker) in cluster.processes.iter().enumerate() {
        note(&format!("worker {} is process {}, id {}", number + 1, worker.pid, worker.id));
    }
    let served = serve(listener, address, arguments, &cluster).await;
    note("stopping the workers and the server");
    let stopped = cluster.stop().await;
    served.and(stopped)?;
    Ok(ExitCode::from(EXIT_ANSWERED))
}

async fn serve(listener: TcpListener, address: SocketAddr, arguments: &Arguments, cluster: &Cluster) -> Result<()> {
    let (end, over) = watch::channel(false);
    let front = Arc::new(Gateway {
        client: cluster.node.client().clone(),
        registry: cluster.registry.clone(),
        placement: Arc::default(),
        stats: Stats::default(),
        news: EventLog::default(),
        hosts: Hosts::at(address, &arguments.allow_host),
        over,
    });
    let (close, closed) = watch::channel(false);
    let told = async move {
        let mut closed = closed;
        let _ = closed.wait_for(|closed| *closed).await; // an error means the same
    };
    let router = router(Arc::clone(&front));
    let mut server = tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(told).await });
    note(&format!("listening on http://{address}"));
    if !address.ip().is_loopback() {
        note("whoever reaches this address may use the cluster: there is no authentication here");
    }

    let result = tokio::select! {
        () = interrupted() => Ok(()),
        given_up = news::follow(front) => given_up.and_then(|reason| Err(ErrorKind::Closed { reason }.into())),
    };
    // No new connections; those that are open may finish, until time is up or someone is impatient.
    close.send_replace(true);
    note("finishing the answers under way; interrupt again to end them");
    let finished = tokio::select! {
        finished = timeout(GRACE, &mut server) => finished.is_ok(),
        () = interrupted() => false,
    };
    end.send_replace(true);
    if !finished && timeout(CLOSING, server).await.is_err() {
        tracing::warn!("connections are still open, and are closed by the end of this process");
    }
    result
}

fn router(front: Arc<Gateway>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/live", get(page::live))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(completions::chat))
        .route("/v1/completions", post(completions::completion))
        .route("/healthz", get(monitoring::healthz))
        .route("/metrics", get(monitoring::metrics))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "unknown_url", "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "this address takes another method")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(Arc::clone(&front), hosts::check)) // before all else
        .with_state(front)
}

/// `GET /v1/models`.
async fn models(State(front): State<Arc<Gateway>>) -> Json<Value> {
    let models: Vec<Value> = front.models().iter().map(|(id, seen)| description(id, *seen)).collect();
    Json(json!({ "object": "list", "data": models }))
}

/// `GET /v1/models/{id}`.
async fn model(State(front): State<Arc<Gateway>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    match front.models().get(&id) {
        Some(seen) => Ok(Json(description(&id, *seen))),
        None => Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", format!("no worker has a model `{id}`"))),
    }
}

fn description(id: &str, seen: u64) -> Value {
    json!({ "id": id, "object": "model", "created": seen, "owned_by": "mlx-serving" })
}
