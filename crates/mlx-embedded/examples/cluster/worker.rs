//! A worker: registers, sends heartbeats, and answers prompts.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{RemoteError, Result};
use mlx_nats::{Client, ClientOptions, ConnectionState, InferenceOptions, TokenSink};
use mlx_types::config::{ClusterConfig, NatsConfig};
use mlx_types::messages::{
    ClusterEvent, FinishReason, InferenceRequest, ModelSkills, WorkerDeregistration, WorkerHeartbeat,
    WorkerMetricsReport, WorkerRegistration,
};
use mlx_types::{Epoch, Timestamp, WorkerId, subjects};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::cli::{Arguments, EXIT_ANSWERED};
use crate::engine::{self, Engine, Piece};
use crate::load::{Load, Measured};
use crate::models::{Models, Scanner};
use crate::processes::{interrupted, stdin_ended};

/// How long a worker that is told to end may take over its streams, and again over saying goodbye.
const FAREWELL: Duration = Duration::from_millis(500);

/// Works until interrupted.
pub async fn run(config: &ClusterConfig, arguments: &Arguments) -> Result<ExitCode> {
    let id = config.worker.worker_id.unwrap_or_else(WorkerId::new);
    let engine = engine::open(config, arguments)?;
    let options = ClientOptions::from(config).name(format!("worker-{id}"));
    let client = Client::connect_with(&config.nats, options).await?;
    let (mut scanner, models) = Scanner::new(id, Arc::clone(&engine));
    let worker = Worker {
        id,
        epoch: Epoch::now(),
        client: client.clone(),
        load: Arc::new(Load::default()),
        registration: registration(id, config),
        models: models.clone(),
    };

    scanner.scan().await; // so that the first registration has the models of an engine that is there
    // Served before it is announced, so that the first request after the registration finds someone.
    let load = Arc::clone(&worker.load);
    let service = client
        .serve_inference(id, InferenceOptions::default(), move |request, tokens| {
            answer(Arc::clone(&engine), models.clone(), load.begin(), request, tokens)
        })
        .await?;

    tokio::select! {
        ended = worker.keep_known(Duration::from(config.discovery.heartbeat_interval_ms)) => ended?,
        () = scanner.follow() => {}
        () = interrupted() => {}
        () = stdin_ended(), if arguments.exit_with_stdin => {}
    }
    // Each step may find the server gone already, which is no reason to keep the others waiting.
    let stopped = service.stop(FAREWELL).await;
    let said = worker.say_goodbye().await;
    let closed = client.shutdown(FAREWELL).await;
    for error in [stopped, said, closed].into_iter().filter_map(Result::err) {
        tracing::info!(error = &error as &dyn std::error::Error, "while ending");
    }
    Ok(ExitCode::from(EXIT_ANSWERED))
}

/// Answers one request. What ends it early drops the engine's work with it.
async fn answer(
    engine: Arc<dyn Engine>,
    models: watch::Receiver<Models>,
    mut measured: Measured,
    request: InferenceRequest,
    mut tokens: TokenSink,
) -> Result<FinishReason> {
    refuse_unknown(&models, &request.model_id)?;
    let mut pieces = engine.generate(request);
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            cancelled = tokens.cancelled() => return Err(cancelled),
        };
        match piece.transpose()? {
            Some(Piece::Token(token)) => {
                tokens.send(token).await?;
                measured.token();
            }
            Some(Piece::End(reason)) => return Ok(reason),
            None => return Ok(FinishReason::Stop),
        }
    }
}

/// Some model servers fetch any model that they are asked for, however large. What they listed is what they have.
fn refuse_unknown(models: &watch::Receiver<Models>, model: &str) -> Result<()> {
    let models = models.borrow();
    // Without a list the engine is asked all the same: its error says more.
    if models.available.is_empty() || models.available.iter().any(|available| available == model) {
        return Ok(());
    }
    let message = format!("this worker has no model `{model}`; it has: {}", models.available.join(", "));
    Err(mlx_errors::ErrorKind::from(RemoteError::from_parts(message, Some(engine::REJECTED.to_owned()))).into())
}

struct Worker {
    id: WorkerId,
    epoch: Epoch,
    client: Client,
    load: Arc<Load>,
    /// Without what changes: the models, the status and the time.
    registration: WorkerRegistration,
    models: watch::Receiver<Models>,
}

impl Worker {
    /// Registers, and again whenever someone may have missed it; sends heartbeats in between.
    async fn keep_known(&self, interval: Duration) -> Result<()> {
        let mut announcements = self.client.subscribe(&subjects::CLUSTER_ANNOUNCE).await?;
        let mut connection = self.client.watch_state();
        let mut models = self.models.clone();
        models.mark_unchanged(); // what there is already goes into the first registration
        let mut beats = tokio::time::interval(interval);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        self.register().await;
        loop {
            tokio::select! {
                _ = beats.tick() => self.beat().await,
                Ok(()) = models.changed() => self.register().await,
                Some(Ok(announcement)) = announcements.next() => {
                    if announcement.event == ClusterEvent::ControllerStarted {
                        self.register().await;
                    }
                }
                changed = connection.changed() => {
                    let state = connection.borrow_and_update().clone();
                    if changed.is_err() || state.is_closed() {
                        let reason = reason_of(&state);
                        return Err(mlx_errors::ErrorKind::Closed { reason }.into());
                    }
                    if state.is_connected() {
                        self.register().await;
                    }
                }
            }
        }
    }

    async fn register(&self) {
        let models = self.models.borrow().clone();
        let mut registration =
            self.registration.clone().status(models.status).timestamp(Timestamp::now()).epoch(self.epoch);
        registration.skills = ModelSkills::new(models.available).last_scanned(models.scanned);
        self.report("registration", self.client.publish(&subjects::WORKER_REGISTER, &registration).await);
    }

    /// Says that the worker lives, and what it is busy with.
    async fn beat(&self) {
        let models = self.models.borrow().clone();
        let (metrics, tokens_per_second) = self.load.metrics(models.available);
        let beat = WorkerHeartbeat::new(self.id, models.status, metrics.clone()).epoch(self.epoch);
        self.report("heartbeat", self.client.publish(&subjects::WORKER_HEARTBEAT, &beat).await);
        let figures = WorkerMetricsReport::new(self.id, metrics).tokens_per_second(tokens_per_second);
        self.report("figures", self.client.publish(&subjects::METRICS_REPORT, &figures).await);
    }

    /// A message that could not be sent is made good by the next one; the log says that it is missing.
    fn report(&self, what: &str, sent: Result<()>) {
        if let Err(error) = sent {
            tracing::warn!(worker = %self.id, error = &error as &dyn std::error::Error, "no {what} sent");
        }
    }

    async fn say_goodbye(&self) -> Result<()> {
        let farewell = WorkerDeregistration::new(self.id).epoch(self.epoch).reason("shut down");
        self.client.publish(&subjects::WORKER_DEREGISTER, &farewell).await
    }
}

fn registration(id: WorkerId, config: &ClusterConfig) -> WorkerRegistration {
    WorkerRegistration::new(
        id,
        sysinfo::System::host_name().unwrap_or_else(|_| "unknown".to_owned()),
        own_address(&config.nats),
        config.worker.port,
        ModelSkills::new(Vec::<String>::new()),
    )
    .status(Models::none().status)
}

/// The address from which this machine reaches the NATS server: where others are likely to reach it.
fn own_address(config: &NatsConfig) -> IpAddr {
    let towards = |server: &mlx_types::NatsUrl| {
        let server = (server.host(), server.port()).to_socket_addrs().ok()?.next()?;
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
        // Connecting a datagram socket sends nothing; it only picks the route.
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(server).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    config.urls().first().and_then(towards).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// Why a client is closed, in words that follow "closed:".
pub(crate) fn reason_of(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Closed { reason } => reason.to_string(),
        state => state.to_string(),
    }
}
