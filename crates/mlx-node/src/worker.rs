//! A worker: an engine made known to the cluster.

mod health;
pub(crate) mod identity;
mod loaded;
mod machine;
mod models;
mod warming;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{ApplicationError, Error, ErrorCode, ErrorKind, Result};
use mlx_nats::{Client, Request, ServeOptions, Service, TokenSink, Worker, WorkerControl, WorkerProfile};
use mlx_types::messages::{
    EmbeddingRequest, EmbeddingResponse, Feature, FinishReason, InferenceRequest, WorkerDeregistration,
};
use mlx_types::{WorkerId, subjects};
use tokio::task::JoinHandle;

use self::health::{Health, Memory};
use self::identity::OwnId;
use self::loaded::Loaded;
use self::machine::Machine;
use self::models::{Running, Scanner};
use crate::engine::{self, Engine, Piece};
use crate::plan::WorkerPlan;

/// A worker that runs. What it does beside ends with it.
pub(crate) struct RunningWorker {
    worker: Worker,
    beside: JoinHandle<()>,
    /// Held for as long as the worker runs, so that no other one takes the same id.
    _id: OwnId,
}

/// Starts a worker: its engine is asked for its models, and models are loaded first where the configuration wants that.
///
/// # Errors
/// Settings of the engine that cannot be used, and those of [`WorkerBuilder::serve`](mlx_nats::WorkerBuilder::serve).
pub(crate) async fn start(client: &Client, plan: &WorkerPlan) -> Result<RunningWorker> {
    let engine = engine::open(&plan.engine)?;
    let id = OwnId::of(&plan.id);
    let machine = Arc::new(Machine::default());
    let running = Running::default();
    let (mut scanner, models) = Scanner::new(id.get(), Arc::clone(&engine), running.clone());
    scanner.scan().await; // so that the first registration has the models of an engine that is there
    let memory = plan.memory.map(|limits| Memory::new(limits, Arc::clone(&machine)));
    let warming = plan.warming.clone().map(|warming| warming::Load::new(warming, Arc::clone(&engine)));
    let loaded = Arc::new(Loaded::default());
    let warming = match warming {
        Some(load) if load.is_first() => {
            load.run(&loaded).await;
            None
        }
        warming => warming,
    };
    let health =
        Arc::new(Health::new(models, memory.as_ref().map(Memory::watch), warming.is_some(), Arc::clone(&loaded)));

    let profile = WorkerProfile::new(id.get())
        .hostname(sysinfo::System::host_name().unwrap_or_else(|_| "unknown".to_owned()))
        .port(plan.port)
        .max_concurrent(plan.max_concurrent)
        .max_queued(plan.max_queued)
        .models(health.models());
    let profile = match health.trouble() {
        Some(why) => profile.degraded(why),
        None => profile,
    };
    // Before the worker is made known, so that the first question finds it.
    let mut accepts = engine.accepts();
    let mut embeddings = None;
    if accepts.contains(&Feature::Embeddings) {
        embeddings = serve_embeddings(client, id.get(), plan, &engine, &health, &running).await?;
        accepts.retain(|feature| *feature != Feature::Embeddings || embeddings.is_some());
    }
    let profile = profile.accepts(accepts);
    let answering = Arc::clone(&health);
    let mut worker = client
        .worker(profile)
        .figures(move || machine.figures())
        .serve(move |request, tokens| {
            let running = running.begin();
            let answer = answer(Arc::clone(&engine), Arc::clone(&answering), request, tokens);
            async move {
                let _running = running;
                answer.await
            }
        })
        .await?;
    if let Some(embeddings) = embeddings {
        worker.also_serve(embeddings);
    }
    let beside = Beside { health, scanner, memory, warming, loaded };
    let beside = tokio::spawn(beside.run(worker.control()));
    Ok(RunningWorker { worker, beside, _id: id })
}

/// Answers for embeddings; nothing where the server does not let this worker.
async fn serve_embeddings(
    client: &Client,
    id: WorkerId,
    plan: &WorkerPlan,
    engine: &Arc<dyn Engine>,
    health: &Arc<Health>,
    running: &Running,
) -> Result<Option<Service>> {
    let (engine, health, running) = (Arc::clone(engine), Arc::clone(health), running.clone());
    let options = ServeOptions::default().max_concurrent(plan.max_concurrent);
    let answer = move |request: Request<EmbeddingRequest>| {
        let (engine, health, running) = (Arc::clone(&engine), Arc::clone(&health), running.begin());
        async move {
            let _running = running;
            let request = request.payload;
            refuse_unknown(&health, &request.model_id)?;
            let loaded = health.loaded().use_of(request.model_id.clone());
            let id = request.request_id;
            let result = engine.embed(request).await?;
            loaded.answers();
            Ok(EmbeddingResponse::new(id, result))
        }
    };
    match client.serve_with(&subjects::worker_embeddings(id), options, answer).await {
        // Permissions that are older than this subject are no reason to answer nothing at all.
        Err(error) if matches!(error.kind(), ErrorKind::Subscription { .. }) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "this worker embeds nothing");
            Ok(None)
        }
        served => served.map(Some),
    }
}

impl RunningWorker {
    /// Its id.
    pub(crate) fn id(&self) -> WorkerId {
        self.worker.id()
    }

    /// What is said when it is gone.
    pub(crate) fn farewell(&self) -> WorkerDeregistration {
        WorkerDeregistration::new(self.worker.id()).epoch(self.worker.epoch()).reason("shut down")
    }

    /// Resolves when the worker can answer no more by itself.
    ///
    /// # Errors
    /// Those of [`Worker::ended`].
    pub(crate) async fn ended(&mut self) -> Result<()> {
        self.worker.ended().await
    }

    /// Takes no more requests, lets those under way finish, and says farewell.
    ///
    /// # Errors
    /// Those of [`Worker::drain`].
    pub(crate) async fn drain(self, timeout: Duration) -> Result<()> {
        self.beside.abort(); // what it would say of itself now is said by the drain
        self.worker.drain(timeout).await
    }
}

/// What a worker does beside answering: it looks after its models and its memory, and tells the cluster.
struct Beside {
    health: Arc<Health>,
    scanner: Scanner,
    memory: Option<Memory>,
    warming: Option<warming::Load>,
    loaded: Arc<Loaded>,
}

impl Beside {
    async fn run(self, control: WorkerControl) {
        let Self { health, scanner, memory, warming, loaded } = self;
        let warm = async {
            if let Some(load) = warming {
                load.run(&loaded).await;
                health.warmed();
            }
        };
        let measure = async {
            if let Some(memory) = memory {
                memory.follow().await;
            }
        };
        tokio::join!(health.tell(control), scanner.follow(), measure, warm);
    }
}

/// Answers one request. What ends it early drops the engine's work with it.
async fn answer(
    engine: Arc<dyn Engine>,
    health: Arc<Health>,
    request: InferenceRequest,
    mut tokens: TokenSink,
) -> Result<FinishReason> {
    refuse_unknown(&health, &request.model_id)?;
    refuse_unread(engine.as_ref(), &request)?;
    if let Some((used, limit)) = health.memory_over() {
        let message =
            format!("the machine of this worker has {used:.1} GB of memory in use; its limit is {limit:.1} GB");
        return Err(ApplicationError::new(ErrorCode::Overloaded.as_str(), message).retryable(true).into());
    }
    let loaded = health.loaded().use_of(request.model_id.clone());
    let mut pieces = engine.generate(request);
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            cancelled = tokens.cancelled() => return Err(cancelled),
        };
        match piece.transpose()? {
            Some(Piece::Token(token)) => {
                loaded.answers();
                tokens.send(token).await?;
            }
            Some(Piece::Delta { delta, text, essential }) => {
                loaded.answers();
                if essential || tokens.accepts_deltas() {
                    tokens.send_delta(delta).await?;
                } else if let Some(text) = text {
                    tokens.send(text).await?;
                }
            }
            Some(Piece::Usage(usage)) => tokens.set_usage(usage),
            Some(Piece::End(reason)) => return Ok(reason),
            None => return Ok(FinishReason::Stop),
        }
    }
}

/// Refuses messages of which the engine would see only a part. `params` may be for whoever asks to make up for.
fn refuse_unread(engine: &dyn Engine, request: &InferenceRequest) -> Result<()> {
    // A prompt beside them is the chat as a text, for engines that read no more.
    if request.prompt.is_empty()
        && request.needs().contains(&Feature::Messages)
        && !engine.accepts().contains(&Feature::Messages)
    {
        let lacking = vec![Feature::Messages.to_string()];
        return Err(Error::new(ErrorKind::Unsupported { model: request.model_id.clone(), lacking }));
    }
    Ok(())
}

/// Some model servers fetch any model that they are asked for, however large. What they listed is what they have.
fn refuse_unknown(health: &Health, model: &str) -> Result<()> {
    let models = health.models();
    // Without a list the engine is asked anyway: its error says more.
    if models.is_empty() || models.iter().any(|available| available == model) {
        return Ok(());
    }
    let message = format!("this worker has no model `{model}`; it has: {}", models.join(", "));
    Err(ApplicationError::new(engine::REJECTED, message).into())
}
