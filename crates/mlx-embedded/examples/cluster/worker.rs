//! A worker: an engine made known to the cluster.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{ApplicationError, Result};
use mlx_nats::{Client, ClientOptions, ConnectionState, TokenSink, WorkerControl, WorkerProfile};
use mlx_types::WorkerId;
use mlx_types::config::ClusterConfig;
use mlx_types::messages::{FinishReason, InferenceRequest};
use tokio::sync::watch;

use crate::cli::{Arguments, EXIT_ANSWERED};
use crate::engine::{self, Engine, Piece};
use crate::machine::Machine;
use crate::models::{Models, Scanner};
use crate::processes::{interrupted, stdin_ended};

/// How long a worker that is told to end may take over its streams, and again over its connection.
const FAREWELL: Duration = Duration::from_millis(500);

/// Works until interrupted.
pub async fn run(config: &ClusterConfig, arguments: &Arguments) -> Result<ExitCode> {
    let id = config.worker.worker_id.unwrap_or_else(WorkerId::new);
    let engine = engine::open(config, arguments)?;
    let options = ClientOptions::from(config).name(format!("worker-{id}"));
    let client = Client::connect_with(&config.nats, options).await?;
    let (mut scanner, models) = Scanner::new(id, Arc::clone(&engine));
    scanner.scan().await; // so that the first registration has the models of an engine that is there

    let found = models.borrow().clone();
    let profile = WorkerProfile::new(id)
        .hostname(sysinfo::System::host_name().unwrap_or_else(|_| "unknown".to_owned()))
        .port(config.worker.port)
        .models(found.available)
        .status(found.status);
    let (machine, known) = (Machine::default(), models.clone());
    let worker = client
        .worker(profile)
        .figures(move || machine.figures())
        .serve(move |request, tokens| answer(Arc::clone(&engine), known.clone(), request, tokens))
        .await?;

    let control = worker.control();
    let over = async {
        tokio::select! {
            () = tell(control, models) => {}
            () = scanner.follow() => {}
            () = interrupted() => {}
            () = stdin_ended(), if arguments.exit_with_stdin => {}
        }
    };
    let outcome = worker.run_until(over, FAREWELL).await;
    let closed = client.shutdown(FAREWELL).await;
    // The server may have gone before, which is no reason to end with an error.
    for error in [&outcome, &closed].into_iter().filter_map(|ended| ended.as_ref().err()) {
        tracing::info!(error = error as &dyn std::error::Error, "while ending");
    }
    match outcome {
        Err(error) if error.code() == mlx_errors::ErrorCode::WorkerDuplicate => Err(error),
        _ => Ok(ExitCode::from(EXIT_ANSWERED)),
    }
}

/// Passes on what is found.
async fn tell(control: WorkerControl, mut models: watch::Receiver<Models>) {
    while models.changed().await.is_ok() {
        let found = models.borrow_and_update().clone();
        control.set_models(found.available);
        control.set_status(found.status);
    }
}

/// Answers one request. What ends it early drops the engine's work with it.
async fn answer(
    engine: Arc<dyn Engine>,
    models: watch::Receiver<Models>,
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
            Some(Piece::Token(token)) => tokens.send(token).await?,
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
    Err(ApplicationError::new(engine::REJECTED, message).into())
}

/// Why a client is closed, in words that follow "closed:".
pub(crate) fn reason_of(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Closed { reason } => reason.to_string(),
        state => state.to_string(),
    }
}
