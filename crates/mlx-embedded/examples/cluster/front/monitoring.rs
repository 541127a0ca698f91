//! For machines that watch: `/healthz` and `/metrics`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use mlx_types::messages::WorkerStatus;
use serde_json::json;

use super::Gateway;
use super::exposition::Exposition;
use super::meter::Meter;
use super::registry::name_of;
use super::stats::FIRST_TOKEN_BOUNDS;

/// `GET /healthz`: 200 while a request can be answered, which takes the bus and a worker; 503 otherwise, with the same body.
pub async fn healthz(State(front): State<Arc<Gateway>>) -> impl IntoResponse {
    let bus = front.client.state();
    let workers = front.registry.list();
    let count = |status| workers.iter().filter(|worker| worker.status == status).count();
    let (online, degraded) = (count(WorkerStatus::Online), count(WorkerStatus::Degraded));
    let serves = bus.is_connected() && online + degraded > 0;
    let status = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": if serves { "ok" } else { "unavailable" },
        "bus": bus.to_string(),
        "workers": { "online": online, "degraded": degraded },
        "models": front.models().into_keys().collect::<Vec<_>>(),
    });
    (status, Json(body))
}

/// `GET /metrics`: the text format of Prometheus.
pub async fn metrics(State(front): State<Arc<Gateway>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exposition(&front))
}

fn exposition(front: &Gateway) -> String {
    let (figures, workers, now) = (front.stats.figures(), front.registry.list(), Instant::now());
    let mut page = Exposition::default();
    let bus = u8::from(front.client.state().is_connected());
    page.family("mlx_bus_connected", "gauge", "Whether the controller is connected to NATS.").value("", bus);

    let mut family = page.family("mlx_workers", "gauge", "Workers by what they say of themselves.");
    for (label, status) in [("online", WorkerStatus::Online), ("degraded", WorkerStatus::Degraded)] {
        let count = workers.iter().filter(|worker| worker.status == status).count();
        family.sample("", &[("status", label)], count);
    }
    let named: Vec<_> = workers.iter().map(|worker| (worker, worker.worker_id.to_string(), name_of(worker))).collect();
    let mut family = page.family("mlx_worker_active_requests", "gauge", "Requests that a worker has.");
    for (worker, id, host) in &named {
        family.sample("", &[("worker", id), ("host", host)], front.placement.all(worker.worker_id));
    }
    let mut family = page.family("mlx_worker_tokens_total", "counter", "Tokens that came here from a worker.");
    for (worker, id, host) in &named {
        let tokens = figures.by_worker.get(&worker.worker_id).map_or(0, Meter::total);
        family.sample("", &[("worker", id), ("host", host)], tokens);
    }

    let ours: u64 = workers.iter().map(|worker| front.placement.ours(worker.worker_id)).sum();
    page.family("mlx_front_active_requests", "gauge", "Requests under way here.").value("", ours);
    let mut family = page.family("mlx_front_requests_total", "counter", "Requests by how they ended.");
    for (outcome, count) in &figures.requests {
        family.sample("", &[("outcome", outcome)], count);
    }
    page.family("mlx_front_retries_total", "counter", "Attempts made again elsewhere.").value("", figures.retries);
    page.family("mlx_front_tokens_total", "counter", "Tokens sent.").value("", figures.tokens.total());
    let rate = figures.tokens.per_second(now);
    page.family("mlx_front_tokens_per_second", "gauge", "Tokens a second, over the last 5 s.").value("", rate);

    let mut family = page.family("mlx_front_first_token_seconds", "histogram", "From the request to its first token.");
    let mut below = 0;
    for (bound, count) in FIRST_TOKEN_BOUNDS.iter().zip(figures.first_tokens) {
        below += count;
        family.sample("_bucket", &[("le", &bound.to_string())], below);
    }
    family.sample("_bucket", &[("le", "+Inf")], figures.first_token_count);
    family.value("_sum", figures.first_token_sum.as_secs_f64());
    family.value("_count", figures.first_token_count);
    page.into_text()
}
