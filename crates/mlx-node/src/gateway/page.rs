//! The page at `/`: written here, kept up to date by a script that fetches `/live`, readable without it.
//!
//! Nothing in it comes from elsewhere, and whatever a worker says of itself is text: maud escapes what it is given.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use maud::{DOCTYPE, Markup, html};
use mlx_nats::WorkerInfo;
use mlx_types::Timestamp;
use mlx_types::messages::{WorkerMetrics, WorkerStatus};

use super::Gateway;
use super::curves::curves;
use super::events::short;
use super::registry::{models_of, shown};
use super::stats::Figures;

/// No script, style or frame of anyone else, whatever got into the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Workers that the page lists at the most, and models of each.
const WORKERS: usize = 500;
const MODELS: usize = 8;

/// `GET /`.
pub(super) async fn page(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "mlx cluster" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
                noscript { meta http-equiv="refresh" content="5"; }
            }
            body {
                header { h1 { "mlx cluster" } p { "OpenAI's protocol is at " code { "/v1" } } }
                p #notice role="alert" hidden {}
                (state(&gateway))
            }
        }
    };
    ([(header::CONTENT_SECURITY_POLICY, POLICY), (header::CACHE_CONTROL, "no-store")], Html(page.into_string()))
}

/// `GET /live`: the part of the page that changes.
pub(super) async fn live(State(gateway): State<Arc<Gateway>>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], Html(state(&gateway).into_string()))
}

/// `GET /page.css`.
pub(super) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("page.css"))
}

/// `GET /page.js`.
pub(super) async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("page.js"))
}

fn state(gateway: &Gateway) -> Markup {
    let (workers, figures, now) = (gateway.registry.list(), gateway.stats.figures(), Instant::now());
    let bus = gateway.client.state();
    let connected = bus.is_connected();
    let news = gateway.events.latest();
    let ours: u64 = workers.iter().map(|worker| gateway.dispatcher.load(worker.worker_id).0).sum();
    let waiting = gateway.dispatcher.waiting();
    // All of them are in `/metrics`.
    let listed = workers.get(..WORKERS).unwrap_or(&workers);
    html! {
        main #live {
            @if !connected {
                p .warning role="alert" {
                    strong { "The message bus is gone" }
                    @if let Some(since) = gateway.events.bus_gone_since() { " since " (clock(since)) }
                    ". The controller tries to get it back; workers are shown as they were last heard."
                }
            }
            dl .figures {
                div { dt { "Message bus" } dd .good[connected] .bad[!connected] { @if connected { "connected" } @else { (bus) } } }
                div { dt { "Workers" } dd { (workers.len()) } }
                div {
                    dt { "Requests under way" }
                    dd { (ours) @if waiting > 0 { ", " (waiting) " wait" } }
                    @if waiting > 0 { dd .beside { "for " (for_what(gateway)) } }
                }
                div { dt { "Tokens a second" } dd { (rate(figures.tokens.per_second(now))) } }
            }
            section aria-labelledby="curves" {
                h2 #curves { "The last ten minutes" }
                (curves(&figures.history, now))
            }
            section aria-labelledby="workers" {
                h2 #workers { "Workers" }
                @if workers.is_empty() {
                    p .empty { "No worker is online." }
                } @else {
                    div .scroll tabindex="0" role="region" aria-labelledby="workers" { (table(gateway, listed, &figures, connected)) }
                    @if workers.len() > listed.len() { p .empty { "and " (workers.len() - listed.len()) " more" } }
                }
            }
            section aria-labelledby="events" {
                h2 #events { "Events" }
                ol .events {
                    @if news.is_empty() { li { "Nothing has happened yet." } }
                    @for event in &news {
                        li .(event.kind) { (clock(event.at)) " " span { (event.text) } }
                    }
                }
            }
            footer { "As of " (clock(Timestamp::now())) ", times in UTC" }
        }
    }
}

fn table(gateway: &Gateway, workers: &[WorkerInfo], figures: &Figures, connected: bool) -> Markup {
    let now = Instant::now();
    html! {
        table .stale[!connected] {
            thead {
                tr {
                    th scope="col" { "Worker" }
                    th scope="col" { "Status" }
                    th scope="col" { "Models" }
                    th scope="col" .number { "Requests" }
                    th scope="col" .number { "Tokens/s" }
                    th scope="col" .number { "Answered" }
                    th scope="col" .number { "Mean time" }
                    th scope="col" { "Processor" }
                }
            }
            tbody {
                @for worker in workers {
                    @let metrics = worker.metrics.as_ref();
                    tr #(format!("worker-{}", worker.worker_id)) {
                        th scope="row" { (gateway.name_of(worker)) " " code title=(worker.worker_id) { (short(worker.worker_id)) } }
                        td { (status(worker.status, connected)) @if let Some(why) = trouble(worker) { " " span .why { (why) } } }
                        td .models { (models(worker)) }
                        td .number { (gateway.dispatcher.load(worker.worker_id).1) @if let Some(limit) = limit(worker) { " of " (limit) } }
                        td .number { (rate(figures.worker_rate(worker.worker_id, now))) }
                        td .number { @if let Some(metrics) = metrics { (metrics.total_requests_handled) } @else { "–" } }
                        td .number { (metrics.map_or_else(|| "–".to_owned(), mean_time)) }
                        td { @if let Some(metrics) = metrics { (gauge(metrics.cpu_usage_percent)) } @else { "–" } }
                    }
                }
            }
        }
    }
}

fn status(status: WorkerStatus, connected: bool) -> Markup {
    let (kind, text) = match status {
        _ if !connected => ("unknown", "not known"),
        WorkerStatus::Online => ("good", "online"),
        WorkerStatus::Degraded => ("fair", "degraded"),
        WorkerStatus::Offline => ("bad", "offline"),
    };
    html! { span .{ "status " (kind) } { (text) } }
}

/// Why a worker is degraded, in its own words.
fn trouble(worker: &WorkerInfo) -> Option<Cow<'_, str>> {
    let why = worker.registration.as_ref()?.reason.as_deref()?;
    (worker.status == WorkerStatus::Degraded).then(|| shown(why))
}

/// Requests that a worker takes at once.
fn limit(worker: &WorkerInfo) -> Option<u64> {
    Some(worker.registration.as_ref()?.capabilities.as_ref()?.max_concurrent)
}

/// The models that requests wait for, and how many for each.
fn for_what(gateway: &Gateway) -> String {
    let waiting = gateway.dispatcher.waiting_by_model();
    let named: Vec<String> =
        waiting.iter().take(MODELS).map(|(model, count)| format!("{} ({count})", shown(model))).collect();
    named.join(", ")
}

fn models(worker: &WorkerInfo) -> Markup {
    let models: std::collections::BTreeSet<&str> = models_of(worker).collect();
    html! {
        @for (index, model) in models.iter().take(MODELS).enumerate() { @if index > 0 { ", " } (shown(model)) }
        @if models.len() > MODELS { " and " (models.len() - MODELS) " more" }
    }
}

fn gauge(percent: f64) -> Markup {
    html! { meter min="0" max="100" value=(format!("{percent:.0}")) aria-label="processor" {} " " (format!("{percent:.0} %")) }
}

fn rate(rate: f64) -> String {
    if rate > 0.0 { format!("{rate:.1}") } else { "0".to_owned() }
}

fn mean_time(metrics: &WorkerMetrics) -> String {
    let millis = metrics.avg_latency_ms;
    if metrics.total_requests_handled == 0 {
        "–".to_owned()
    } else if millis < 1000.0 {
        format!("{millis:.0} ms")
    } else {
        format!("{:.1} s", millis / 1000.0)
    }
}

fn clock(at: Timestamp) -> Markup {
    let seconds = at.as_millis() / 1000;
    html! { time { (format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)) } }
}
