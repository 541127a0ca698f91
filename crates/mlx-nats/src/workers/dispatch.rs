//! Whom to ask: a worker for each request, chosen by load, models and what was asked before; another one while nothing has come
//! back; and a waiting room while all are full.

mod able;
mod affinity;
mod breaker;
mod candidates;
mod core;
mod embed;
mod follow;
mod known;
mod options;
mod pending;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::{ClusterAnnouncement, ClusterEvent, InferenceRequest};
use mlx_types::{WorkerId, subjects};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use self::candidates::Candidates;
use self::core::{Core, Decision};
use self::follow::follow;
pub use self::known::KnownWorkers;
pub use self::options::DispatchOptions;
use self::pending::Assignment;
pub use self::pending::{PendingInference, QueuePosition};
pub use self::policy::ENGINE_BROKEN;
use super::infer::InferOptions;
use crate::client::Client;
use crate::connection::AbortOnDrop;
use crate::stream::TokenStream;
use crate::telemetry::measure::dispatched_again;

/// How long after its start a dispatcher waits for workers that have a model, before it says that there is none.
const ARRIVING: Duration = Duration::from_secs(1);

impl Client {
    /// Makes a dispatcher, which chooses a worker for each request. `options` is a whole `&ClusterConfig`, or
    /// [`DispatchOptions`]. The workers are asked what they are (`controllerStarted`), so that it knows them a moment later.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// use mlx_types::messages::InferenceRequest;
    ///
    /// # async fn example(client: mlx_nats::Client, config: mlx_types::ClusterConfig) -> mlx_nats::Result<()> {
    /// let dispatcher = client.dispatcher(&config).await?;
    /// let mut tokens = dispatcher.infer(&InferenceRequest::new("llama-3", "Hello")).await?;
    /// println!("{:?} answers", tokens.worker_id());
    /// while let Some(token) = tokens.next().await {
    ///     print!("{}", token?.text);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`workers`](Client::workers).
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind.
    pub async fn dispatcher(&self, options: impl Into<DispatchOptions>) -> Result<Dispatcher> {
        let options = options.into();
        let workers = self.workers().await?;
        dispatched_again(0);
        let candidates = Candidates::new(options.strategy, options.breaker(), options.known.clone());
        let life = options.session_life.unwrap_or_default();
        let core = Core::new(candidates, life, options.max_waiting, Instant::now() + ARRIVING);
        let state = Mutex::new(State { core, senders: HashMap::new() });
        let shared = Arc::new(Shared { client: self.clone(), options, state, waits: Notify::new() });
        let follower = self.runtime().spawn(follow(Arc::clone(&shared), workers));
        // Behind the table's subscriptions: the workers say again what they are.
        let started = ClusterAnnouncement::new(ClusterEvent::ControllerStarted);
        if let Err(error) = self.publish(&subjects::CLUSTER_ANNOUNCE, &started).await {
            tracing::info!(error = &error as &dyn std::error::Error, "the workers could not be asked what they are");
        }
        Ok(Dispatcher { shared, _follower: Arc::new(AbortOnDrop(follower.abort_handle())) })
    }
}

/// Chooses a worker for each request. Clones share what is known of the workers.
///
/// - The worker is chosen by [`Strategy`](mlx_types::config::Strategy), of those that have the model and room for it. Requests of
///   one session, or whose prompts begin alike, go to the same worker while it has no more than its share to do.
/// - What not every worker accepts goes only to those that [say so](mlx_types::messages::WorkerCapabilities::accepts).
/// - While nothing of the answer has come, a worker that fails is replaced by another, each asked once. A request that broke two
///   of them is asked of no third one.
/// - While all are full, requests wait in order, up to [`max_waiting`](DispatchOptions::max_waiting).
/// - The load of other controllers is known by the workers' heartbeats.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    shared: Arc<Shared>,
    /// Ends with the last clone.
    _follower: Arc<AbortOnDrop>,
}

impl Dispatcher {
    /// Asks the worker that suits best, and returns when its answer has begun.
    ///
    /// # Errors
    /// [`ErrorKind::NoWorker`] when nobody has the model, [`ErrorKind::Unsupported`] when nobody who has it accepts what the
    /// request [needs](InferenceRequest::needs), [`ErrorKind::Overloaded`] when too many wait already, or when no worker had room
    /// in time, [`ErrorKind::Poisonous`] when the request broke two workers; otherwise the error of the last worker that was
    /// asked.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the waiting room, and tells a worker that was asked to stop.
    pub async fn infer(&self, request: &InferenceRequest) -> Result<TokenStream> {
        self.infer_with(request, InferOptions::default()).await
    }

    /// [`infer`](Self::infer) with options.
    ///
    /// # Errors
    /// Those of [`infer`](Self::infer), and [`ErrorKind::DeadlineExceeded`] for a deadline that passes before the answer has
    /// begun, waiting for a place included.
    pub async fn infer_with(&self, request: &InferenceRequest, options: InferOptions) -> Result<TokenStream> {
        self.enqueue(request, options).answer().await
    }

    /// A request that is going to be asked: tells its place while it waits.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use mlx_nats::InferOptions;
    ///
    /// # async fn example(dispatcher: mlx_nats::Dispatcher, request: mlx_types::messages::InferenceRequest) -> mlx_nats::Result<()> {
    /// let request = dispatcher.enqueue(&request, InferOptions::default());
    /// let position = request.position();
    /// tokio::spawn(async move {
    ///     while let Some(place) = position.get() {
    ///         println!("{place} in the line");
    ///         tokio::time::sleep(Duration::from_secs(1)).await; // people read no faster
    ///     }
    /// });
    /// let tokens = request.answer().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn enqueue(&self, request: &InferenceRequest, options: InferOptions) -> PendingInference {
        PendingInference::new(&self.shared, request.clone(), options)
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        self.shared.state.lock().core.waiting()
    }

    /// The same, for each model.
    pub fn waiting_by_model(&self) -> BTreeMap<String, usize> {
        self.shared.state.lock().core.waiting_by_model()
    }

    /// Requests that a worker has: those of this dispatcher, and all, as far as is known.
    pub fn load(&self, worker: WorkerId) -> (u64, u64) {
        self.shared.state.lock().core.candidates.load(worker)
    }

    /// The models that can be asked for.
    pub fn models(&self) -> Vec<String> {
        self.shared.state.lock().core.candidates.models()
    }
}

#[derive(Debug)]
struct Shared {
    client: Client,
    options: DispatchOptions,
    state: Mutex<State>,
    /// Somebody has begun to wait, whom time alone may help.
    waits: Notify,
}

#[derive(Debug)]
struct State {
    core: Core,
    /// Those who wait.
    senders: HashMap<u64, oneshot::Sender<Told>>,
}

/// What one who waits is told.
#[derive(Debug)]
enum Told {
    Assigned(Assignment),
    Over(Decision),
}

type Tell = Vec<(oneshot::Sender<Told>, Decision)>;

impl State {
    fn senders_of(&mut self, told: Vec<(u64, Decision)>) -> Tell {
        told.into_iter().filter_map(|(ticket, decision)| Some((self.senders.remove(&ticket)?, decision))).collect()
    }
}

impl Shared {
    /// Changes what is known, and gives places to those who wait.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Core, Instant)) {
        let told = {
            let now = Instant::now();
            let mut state = self.state.lock();
            change(&mut state.core, now);
            let told = state.core.admit(now);
            state.senders_of(told)
        };
        self.tell(told);
    }

    /// Outside the lock: one who has gone away gives the place back, which takes it again.
    fn tell(self: &Arc<Self>, told: Tell) {
        for (sender, decision) in told {
            let word = match decision {
                Decision::Assigned(worker) => Told::Assigned(Assignment::new(self, worker)),
                decision => Told::Over(decision),
            };
            drop(sender.send(word));
        }
    }

    /// Requests that the workers of a model have, as far as is known.
    fn under_way(&self, model: &str) -> usize {
        let state = self.state.lock();
        let load = state.core.candidates.able(model, &[]).map_or(0, |able| able.total_load());
        usize::try_from(load).unwrap_or(usize::MAX)
    }

    fn no_worker(&self, model: &str) -> Error {
        let known = self.state.lock().core.candidates.models();
        Error::new(ErrorKind::NoWorker { model: model.to_owned(), known })
    }
}
