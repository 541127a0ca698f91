//! For machines that watch: `/healthz` and `/metrics`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use metrics::{Unit, counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use mlx_errors::{Error, Result};
use mlx_types::messages::WorkerStatus;
use parking_lot::RwLock;
use serde_json::json;

use super::Gateway;
use super::registry::models_of;

/// Upper bounds of the histograms, in seconds.
const BOUNDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// How often the histograms are drained into their buckets where nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

pub(super) const REQUESTS: &str = "mlx_gateway_requests_total";
pub(super) const TOKENS: &str = "mlx_gateway_tokens_total";
pub(super) const FIRST_TOKEN: &str = "mlx_gateway_first_token_seconds";

/// What renders the series of this process, once it is installed.
static EXPORTER: RwLock<Option<PrometheusHandle>> = RwLock::new(None);

/// Has this process count, before its client connects: what is counted is known by handles that are made then.
///
/// # Errors
/// When the process counts elsewhere already.
pub(crate) fn install() -> Result<()> {
    let recorder = builder()?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(Error::internal)?;
    *EXPORTER.write() = Some(handle.clone());
    describe();
    tokio::spawn(async move {
        let mut clock = tokio::time::interval(UPKEEP);
        loop {
            clock.tick().await;
            handle.run_upkeep();
        }
    });
    Ok(())
}

fn builder() -> Result<PrometheusBuilder> {
    let builder = PrometheusBuilder::new();
    builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BOUNDS).map_err(Error::internal)
}

/// Tells what each of the gateway's own names means.
fn describe() {
    metrics::describe_counter!(REQUESTS, Unit::Count, "Requests by how they ended.");
    metrics::describe_counter!(TOKENS, Unit::Count, "Tokens sent.");
    metrics::describe_histogram!(FIRST_TOKEN, Unit::Seconds, "From the request to its first token.");
    counter!(TOKENS).increment(0); // there from the start, so that a rate is known from the first one
}

/// `GET /healthz`: 200 while a request can be answered, which takes the bus and a worker; 503 otherwise, with the same body.
pub(super) async fn healthz(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let bus = gateway.client.state();
    let workers = gateway.registry.list();
    let count = |status| workers.iter().filter(|worker| worker.status == status).count();
    let (online, degraded) = (count(WorkerStatus::Online), count(WorkerStatus::Degraded));
    let models = gateway.models();
    // One that is well and lists nothing loads what it is asked for.
    let loads_on_demand =
        workers.iter().any(|worker| worker.status == WorkerStatus::Online && models_of(worker).next().is_none());
    let reason = match () {
        () if !bus.is_connected() => Some("the message bus is gone"),
        () if online + degraded == 0 => Some("no worker is online"),
        () if models.is_empty() && !loads_on_demand => Some("no worker has a model"),
        () => None,
    };
    let serves = reason.is_none();
    let status = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": if serves { "ok" } else { "unavailable" },
        "bus": bus.to_string(),
        "workers": { "online": online, "degraded": degraded },
        "waiting": gateway.dispatcher.waiting(),
        "reason": reason,
        "models": models.into_keys().collect::<Vec<_>>(),
    });
    (status, Json(body))
}

/// `GET /metrics`: the text format of Prometheus. What this process counts, and what is known of the workers now.
pub(super) async fn metrics(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let counted = EXPORTER.read().as_ref().map(PrometheusHandle::render).unwrap_or_default();
    let page = counted + &state(&gateway);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page)
}

/// The state of this moment, by a recorder of this moment: nothing stays behind of a worker that is gone.
fn state(gateway: &Gateway) -> String {
    let Ok(builder) = builder() else { return String::new() };
    let recorder = builder.build_recorder();
    metrics::with_local_recorder(&recorder, || record(gateway));
    recorder.handle().render()
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn record(gateway: &Gateway) {
    for (name, help) in [
        ("mlx_bus_connected", "Whether the controller is connected to NATS."),
        ("mlx_workers", "Workers by what they say of themselves."),
        ("mlx_worker_active_requests", "Requests that a worker has."),
        ("mlx_gateway_active_requests", "Requests of this controller that a worker has."),
        ("mlx_gateway_waiting_requests", "Requests that wait for a worker with room."),
        ("mlx_gateway_tokens_per_second", "Tokens a second, over the last 5 s."),
    ] {
        metrics::describe_gauge!(name, help);
    }
    metrics::describe_counter!("mlx_worker_tokens_total", "Tokens that came here from a worker.");
    let (figures, workers, now) = (gateway.stats.figures(), gateway.registry.list(), Instant::now());
    gauge!("mlx_bus_connected").set(f64::from(u8::from(gateway.client.state().is_connected())));
    for (label, status) in [("online", WorkerStatus::Online), ("degraded", WorkerStatus::Degraded)] {
        gauge!("mlx_workers", "status" => label)
            .set(workers.iter().filter(|worker| worker.status == status).count() as f64);
    }
    let mut under_way = 0;
    for worker in &workers {
        let (ours, all) = gateway.dispatcher.load(worker.worker_id);
        under_way += ours;
        let labels = [("worker", worker.worker_id.to_string()), ("host", gateway.name_of(worker))];
        gauge!("mlx_worker_active_requests", &labels).set(all as f64);
        let tokens = figures.by_worker.get(&worker.worker_id).map_or(0, super::meter::Meter::total);
        counter!("mlx_worker_tokens_total", &labels).absolute(tokens);
    }
    gauge!("mlx_gateway_active_requests").set(under_way as f64);
    gauge!("mlx_gateway_waiting_requests").set(gateway.dispatcher.waiting() as f64);
    gauge!("mlx_gateway_tokens_per_second").set(figures.tokens.per_second(now));
}
