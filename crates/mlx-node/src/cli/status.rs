//! `mlx-node status`: who is there, what they have, what they do.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use futures_util::StreamExt;
use mlx_errors::Result;
use mlx_nats::{Client, KnownWorkers, WorkerInfo, Workers};
use mlx_types::messages::{ClusterAnnouncement, ClusterEvent, WorkerMetricsReport, WorkerStatus};
use mlx_types::{WorkerId, subjects};
use serde_json::json;
use std::collections::HashMap;

use super::EXIT_DONE;
use super::arguments::StatusArguments;
use super::ask::connect;
use super::settings::Settings;
use crate::signals::Interrupts;
use crate::terminal::unprintable;

/// Between two pictures.
const REFRESH: Duration = Duration::from_secs(1);
/// How long is listened before the first picture: workers answer the question at once, and beat some time later.
const LISTENING: Duration = Duration::from_millis(1500);
/// Puts the cursor at the top, and clears what is below it.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// Models that are named in a row.
const MODELS: usize = 3;

pub(super) async fn run(settings: &Settings, arguments: &StatusArguments) -> Result<u8> {
    let client = connect(settings, "mlx-node status").await?;
    let mut interrupts = Interrupts::catch();
    let mut view = View::open(&client, KnownWorkers::from(settings.config())).await?;
    let mut ended = false;
    while !ended {
        let wait = if view.pictures == 0 { LISTENING } else { REFRESH };
        tokio::select! {
            () = view.listen(wait) => {}
            () = interrupts.next() => break,
        }
        view.print(arguments)?;
        ended = !arguments.watch;
    }
    let _ = client.shutdown(REFRESH).await; // what cannot be closed is closed by the end of the process
    Ok(EXIT_DONE)
}

struct View {
    client: Client,
    workers: Workers,
    known: KnownWorkers,
    reports: mlx_nats::Subscription<WorkerMetricsReport>,
    rates: HashMap<WorkerId, f64>,
    pictures: u64,
}

impl View {
    async fn open(client: &Client, known: KnownWorkers) -> Result<Self> {
        let workers = client.workers().await?;
        let reports = client.subscribe(&subjects::METRICS_REPORT).await?;
        // What has workers say what they are.
        client.publish(&subjects::CLUSTER_ANNOUNCE, &ClusterAnnouncement::new(ClusterEvent::ControllerStarted)).await?;
        Ok(Self { client: client.clone(), workers, known, reports, rates: HashMap::new(), pictures: 0 })
    }

    /// Takes in what the workers say, for so long.
    async fn listen(&mut self, time: Duration) {
        let heard = async {
            while let Some(report) = self.reports.next().await {
                if let Ok(report) = report
                    && self.workers.get(report.worker_id).is_some()
                {
                    self.rates.insert(report.worker_id, report.tokens_per_second.unwrap_or_default());
                }
            }
        };
        let _ = tokio::time::timeout(time, heard).await; // the time is what is waited for
    }

    fn print(&mut self, arguments: &StatusArguments) -> Result<()> {
        self.pictures += 1;
        let workers = self.workers.list();
        self.rates.retain(|id, _| workers.iter().any(|worker| worker.worker_id == *id));
        let mut out = std::io::stdout();
        let text = if arguments.json { self.json(&workers) } else { self.table(&workers) };
        let before = if arguments.watch && out.is_terminal() { CLEAR } else { "" };
        writeln!(out, "{before}{text}").map_err(unprintable)
    }

    fn json(&self, workers: &[WorkerInfo]) -> String {
        let workers: Vec<_> = workers
            .iter()
            .map(|worker| {
                json!({
                    "workerId": worker.worker_id,
                    "name": self.name_of(worker),
                    "status": worker.status,
                    "models": models_of(worker),
                    "activeRequests": worker.metrics.as_ref().map(|metrics| metrics.active_requests),
                    "maxConcurrent": limit_of(worker),
                    "tokensPerSecond": self.rates.get(&worker.worker_id),
                })
            })
            .collect();
        json!({ "bus": self.bus(), "workers": workers }).to_string()
    }

    fn table(&self, workers: &[WorkerInfo]) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["worker", "id", "status", "models", "requests", "tokens/s", "answered", "cpu"]);
        for worker in workers {
            let metrics = worker.metrics.as_ref();
            let requests = metrics.map_or_else(|| "-".to_owned(), |metrics| metrics.active_requests.to_string());
            let of = limit_of(worker).map(|limit| format!(" of {limit}")).unwrap_or_default();
            table.add_row([
                self.name_of(worker),
                worker.worker_id.to_string().chars().take(8).collect(),
                status(worker.status).to_owned(),
                models(worker),
                format!("{requests}{of}"),
                self.rates.get(&worker.worker_id).map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}")),
                metrics.map_or_else(|| "-".to_owned(), |metrics| metrics.total_requests_handled.to_string()),
                metrics.map_or_else(|| "-".to_owned(), |metrics| format!("{:.0} %", metrics.cpu_usage_percent)),
            ]);
        }
        for column in 4..8 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let total: f64 = self.rates.values().sum();
        let none = if workers.is_empty() { "\nno worker is online: `mlx-node run` starts one" } else { "" };
        format!("bus {}, {} workers, {total:.1} tokens/s\n{table}{none}", self.bus(), workers.len())
    }

    fn bus(&self) -> String {
        let state = self.client.state();
        if state.is_connected() { "connected".to_owned() } else { state.to_string() }
    }

    fn name_of(&self, worker: &WorkerInfo) -> String {
        let told = worker.registration.as_ref().map(|registration| registration.hostname.as_str());
        self.known.name_of(worker).or(told).unwrap_or("-").chars().take(32).collect()
    }
}

fn status(status: WorkerStatus) -> &'static str {
    match status {
        WorkerStatus::Online => "online",
        WorkerStatus::Degraded => "degraded",
        WorkerStatus::Offline => "offline",
    }
}

fn limit_of(worker: &WorkerInfo) -> Option<u64> {
    worker.registration.as_ref()?.capabilities.as_ref().map(|capabilities| capabilities.max_concurrent)
}

fn models_of(worker: &WorkerInfo) -> &[String] {
    worker.registration.as_ref().map_or(&[], |registration| &registration.skills.available_models)
}

fn models(worker: &WorkerInfo) -> String {
    let models = models_of(worker);
    let named: Vec<String> = models.iter().take(MODELS).map(|model| model.chars().take(48).collect()).collect();
    let more = models.len().saturating_sub(MODELS);
    if more > 0 { format!("{} and {more} more", named.join(", ")) } else { named.join(", ") }
}
