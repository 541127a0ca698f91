//! A worker's life in one call: it serves, registers, beats, registers again when somebody may have missed it, drains, and
//! says farewell last.

mod keeper;
mod load;
mod profile;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mlx_errors::Result;
use mlx_types::messages::{FinishReason, InferenceRequest, WorkerDeregistration, WorkerMetrics, WorkerStatus};
use mlx_types::{Epoch, WorkerId, subjects};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use self::keeper::{Announcer, State, keep_known};
use self::load::Load;
pub use self::profile::WorkerProfile;
use crate::client::Client;
use crate::rpc::Service;
use crate::stream::{InferenceOptions, InferenceService, TokenSink};

/// More than a millisecond, in which messages are dated.
const LATER: Duration = Duration::from_millis(2);

/// Why a worker leaves, in its farewell.
const SHUT_DOWN: &str = "shut down";

impl Client {
    /// Begins a worker of the cluster, with what it is. [`serve`](WorkerBuilder::serve) starts it.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use mlx_nats::WorkerProfile;
    /// use mlx_types::{WorkerId, messages::FinishReason};
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let profile = WorkerProfile::new(WorkerId::new()).models(["echo"]).max_concurrent(4);
    /// let worker = client
    ///     .worker(profile)
    ///     .serve(|request, mut tokens| async move {
    ///         for word in request.prompt.split_inclusive(' ') {
    ///             tokens.send(word).await?; // an error when nobody wants the answer any more: then stop
    ///         }
    ///         Ok(FinishReason::Stop)
    ///     })
    ///     .await?;
    /// // Until Ctrl-C; then what is under way has 30 s to finish.
    /// worker.run_until(tokio::signal::ctrl_c(), Duration::from_secs(30)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn worker(&self, profile: WorkerProfile) -> WorkerBuilder {
        WorkerBuilder { client: self.clone(), profile, figures: Box::new(WorkerMetrics::default) }
    }
}

/// A worker that is not started yet; from [`Client::worker`].
#[must_use = "a worker starts with `serve`"]
pub struct WorkerBuilder {
    client: Client,
    profile: WorkerProfile,
    figures: Figures,
}

/// Where the figures of the machine come from.
type Figures = Box<dyn Fn() -> WorkerMetrics + Send + Sync>;

impl WorkerBuilder {
    /// Sets where the figures of the machine come from: use of processor, memory and GPU. Asked before each heartbeat, so it
    /// must not block.
    ///
    /// What the worker knows itself (requests, their time, models in memory) it fills in by itself. Zeros by default.
    ///
    /// ```no_run
    /// use mlx_nats::WorkerProfile;
    /// use mlx_types::messages::WorkerMetrics;
    ///
    /// # fn cpu() -> f64 { 0.0 }
    /// # fn example(client: mlx_nats::Client, profile: WorkerProfile) {
    /// let builder = client.worker(profile).figures(|| WorkerMetrics::default().cpu_usage_percent(cpu()));
    /// # drop(builder);
    /// # }
    /// ```
    pub fn figures(mut self, figures: impl Fn() -> WorkerMetrics + Send + Sync + 'static) -> Self {
        self.figures = Box::new(figures);
        self
    }

    /// Starts the worker: requests are answered with `handler`, as [`serve_inference`](Client::serve_inference) does it.
    ///
    /// Returns when the cluster has been told of it. It registers again after a reconnection, when a controller starts, when its
    /// models or its status change, and every minute; it sends a heartbeat, and its tokens per second in `metrics.report`, every
    /// [`heartbeat_interval`](crate::ClientOptions). A request that comes before the registration is out waits for it.
    ///
    /// # Errors
    /// Those of [`serve_inference`](Client::serve_inference) and [`publish`](Client::publish), and
    /// [`ErrorKind::Validation`](crate::ErrorKind) for a profile that breaks the bounds of a registration.
    ///
    /// # Cancel safety
    /// A dropped future leaves no worker behind.
    pub async fn serve<H, F>(self, handler: H) -> Result<Worker>
    where
        H: Fn(InferenceRequest, TokenSink) -> F + Send + Sync + 'static,
        F: Future<Output = Result<FinishReason>> + Send + 'static,
    {
        let Self { client, profile, figures } = self;
        let load = Arc::new(Load::new());
        let (open, opened) = watch::channel(false);
        let (counting, handler) = (Arc::clone(&load), Arc::new(handler));
        let turns = (profile.max_queued > 0)
            .then(|| Arc::new(Semaphore::new(profile.max_concurrent.clamp(1, Semaphore::MAX_PERMITS))));
        let measured = move |request, mut tokens: TokenSink| {
            let (handler, mut opened, turns) = (Arc::clone(&handler), opened.clone(), turns.clone());
            let running = counting.begin(tokens.meter());
            async move {
                // An error means that the worker is gone, and this handler goes with it.
                let _ = opened.wait_for(|open| *open).await;
                let turn = match turns {
                    None => None,
                    Some(turns) => tokio::select! {
                        turn = turns.acquire_owned() => turn.ok(), // it is never closed
                        cancelled = tokens.cancelled() => return Err(cancelled),
                    },
                };
                let ended = handler(request, tokens).await;
                drop((running, turn));
                ended
            }
        };
        let options =
            InferenceOptions::default().max_concurrent(profile.max_concurrent.saturating_add(profile.max_queued));
        let service = client.serve_inference(profile.id, options, measured).await?;
        let (id, epoch) = (profile.id.in_lower_case(), service.epoch());
        let state = watch::Sender::new(State::of(&profile));
        let announcer = Announcer {
            client: client.clone(),
            epoch,
            profile: WorkerProfile { id, ..profile },
            load,
            figures,
            state: state.subscribe(),
        };
        let announcements = client.subscribe(&subjects::CLUSTER_ANNOUNCE).await?;
        announcer.register().await?;
        open.send_replace(true);
        let keeper = client.runtime().spawn(keep_known(announcer, announcements));
        let control = WorkerControl { state: Arc::new(state) };
        Ok(Worker { client, id, epoch, control, service, beside: Vec::new(), keeper: Keeper(keeper), _open: open })
    }
}

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// A running worker. Dropping it is a death without a word: [`drain`](Self::drain) and [`run_until`](Self::run_until) end it
/// in good order.
#[must_use = "dropping a worker ends it at once, without a farewell"]
#[derive(Debug)]
pub struct Worker {
    client: Client,
    id: WorkerId,
    epoch: Epoch,
    control: WorkerControl,
    service: InferenceService,
    /// Served with it, and drained with it.
    beside: Vec<Beside>,
    keeper: Keeper,
    /// Requests wait while it says no, and end when it is gone.
    _open: watch::Sender<bool>,
}

impl Worker {
    /// Its id.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// Its incarnation: when it began, which tells it from former workers of the same id.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A handle to say what changes: models, and how it feels. Cheap to clone; it does not keep the worker going.
    pub fn control(&self) -> WorkerControl {
        self.control.clone()
    }

    /// Drains another service of this worker together with it: that of queued requests (`serve_durable`), of embeddings
    /// ([`serve`](Client::serve) on [`worker_embeddings`](subjects::worker_embeddings)), or of your own.
    pub fn also_serve(&mut self, service: impl Into<Beside>) {
        self.beside.push(service.into());
    }

    /// Resolves when the worker can answer no more by itself: with `Ok` when its client is closed.
    ///
    /// # Errors
    /// [`ErrorKind::DuplicateWorker`](crate::ErrorKind) when another worker with its id has begun later, and
    /// [`ErrorKind::Subscription`](crate::ErrorKind) when the server took its subscription away.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn ended(&mut self) -> Result<()> {
        self.service.ended().await
    }

    /// Ends the worker in good order: says that it is degraded, takes no more requests, lets those under way finish for up to
    /// `timeout`, and says farewell last.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`](crate::ErrorKind) when some did not finish in time: they are dropped. The farewell is said even then.
    ///
    /// # Cancel safety
    /// Dropping the future drops the worker.
    pub async fn drain(mut self, timeout: Duration) -> Result<()> {
        self.control.degrade("it is shutting down");
        let services = self.beside.drain(..).chain([Beside::Inference(self.service)]);
        let stopping = services.map(|service| service.stop(timeout));
        let stopped: Result<()> = join_all(stopping).await.into_iter().collect();
        // Until then a heartbeat may still be on its way, behind which the farewell has to be.
        self.keeper.end().await;
        // Time is the point: farewells come by a subscription of their own, and may overtake a registration. One of the same
        // millisecond would count as a return, so the farewell is said in a later one.
        tokio::time::sleep(LATER).await;
        let farewell = WorkerDeregistration::new(self.id).epoch(self.epoch).reason(SHUT_DOWN);
        stopped.and(self.client.publish(&subjects::WORKER_DEREGISTER, &farewell).await)
    }

    /// Runs until `signal` (Ctrl-C, SIGTERM, whatever ends the process) or until it [ends](Self::ended) by itself, and then
    /// [drains](Self::drain) it.
    ///
    /// # Errors
    /// Those of [`ended`](Self::ended) and [`drain`](Self::drain).
    ///
    /// # Cancel safety
    /// Dropping the future drops the worker.
    pub async fn run_until<T>(mut self, signal: impl Future<Output = T>, timeout: Duration) -> Result<()> {
        let ended = tokio::select! {
            ended = self.service.ended() => Some(ended),
            _ = signal => None,
        };
        match ended {
            None => self.drain(timeout).await,
            // Another one has its id now, or nothing can be said any more: a farewell would be that one's, or of no use.
            Some(ended) => ended,
        }
    }
}

/// A service that a worker has beside its inference; from [`InferenceService`] and from [`Service`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Beside {
    /// Token streams.
    Inference(InferenceService),
    /// Requests and replies.
    Requests(Service),
}

impl Beside {
    async fn stop(self, timeout: Duration) -> Result<()> {
        match self {
            Self::Inference(service) => service.stop(timeout).await,
            Self::Requests(service) => service.stop(timeout).await,
        }
    }
}

impl From<InferenceService> for Beside {
    fn from(service: InferenceService) -> Self {
        Self::Inference(service)
    }
}

impl From<Service> for Beside {
    fn from(service: Service) -> Self {
        Self::Requests(service)
    }
}

/// Says what changes about a running worker; from [`Worker::control`].
///
/// ```no_run
/// # fn example(worker: mlx_nats::Worker) {
/// let control = worker.control();
/// control.set_models(["llama-3", "qwen-3"]); // registers again
/// control.set_loaded_models(["llama-3"]); // in the next heartbeat
/// # drop(worker);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WorkerControl {
    state: Arc<watch::Sender<State>>,
}

impl WorkerControl {
    /// Sets the models that it can serve. A change of them registers it again.
    pub fn set_models(&self, models: impl IntoIterator<Item = impl Into<String>>) {
        self.change(|state| &mut state.models, models.into_iter().map(Into::into).collect());
    }

    /// Sets the models that are known to be in memory; what is not known is better left out. They are in every heartbeat.
    pub fn set_loaded_models(&self, models: impl IntoIterator<Item = impl Into<String>>) {
        self.change(|state| &mut state.loaded, models.into_iter().map(Into::into).collect());
    }

    /// Sets how it feels, without a reason; [`degrade`](Self::degrade) has one.
    pub fn set_status(&self, status: WorkerStatus) {
        self.feels(status, None);
    }

    /// Says that it serves worse than it should, and why: people read it where they see the status.
    pub fn degrade(&self, reason: impl Into<String>) {
        self.feels(WorkerStatus::Degraded, Some(reason.into()));
    }

    fn feels(&self, status: WorkerStatus, reason: Option<String>) {
        self.state.send_if_modified(|state| {
            let changes = (state.status, &state.reason) != (status, &reason);
            (state.status, state.reason) = (status, reason);
            changes
        });
    }

    fn change<T: PartialEq>(&self, part: impl Fn(&mut State) -> &mut T, value: T) {
        self.state.send_if_modified(|state| {
            let part = part(state);
            let changes = *part != value;
            *part = value;
            changes
        });
    }
}

/// The task that keeps a worker known; it ends with the worker.
#[derive(Debug)]
struct Keeper(JoinHandle<()>);

impl Keeper {
    async fn end(&mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}
