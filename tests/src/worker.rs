//! A worker whose tokens are their own indexes, so that whoever reads them can tell which one is missing.

use std::sync::Arc;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::{Client, Request, Service, TokenSink, Worker, WorkerProfile};
use mlx_types::messages::{FinishReason, InferenceRequest, ModelCommand, ModelState, ModelStatus};
use mlx_types::{WorkerId, subjects};

/// The model that every [`TestWorker`] has.
pub const TEST_MODEL: &str = "indexes";

/// Tokens of an answer to a request that does not say how many.
const TOKENS: u64 = 1000;

/// A worker in this process: registered, beating, and answering `worker.{id}.inference` and `model.load`.
///
/// Dropping it is a death without a word, as far as the bus can tell; [`leave`](Self::leave) says goodbye.
#[derive(Debug)]
pub struct TestWorker {
    worker: Worker,
    models: Service,
    handlers: Arc<()>,
    /// Of `handlers`, those that no request holds.
    idle: usize,
}

/// What a [`TestWorker`] is to be.
#[derive(Clone, Copy, Debug)]
pub struct WorkerOptions {
    /// Its id.
    pub id: WorkerId,
    /// The model's own time before the first token.
    pub preparation: Duration,
    /// The model's own time for a token; none at all where it is zero.
    pub pause: Duration,
    /// Requests answered at once.
    pub max_concurrent: usize,
    /// Whether it takes queued requests too.
    pub durable: bool,
}

impl WorkerOptions {
    /// A worker that speaks a hundred tokens a second to as many as ask.
    pub fn new(id: WorkerId, config: &mlx_types::ClusterConfig) -> Self {
        let durable = config.request_routing.durable.enabled;
        let pause = Duration::from_millis(10);
        Self { id, preparation: Duration::ZERO, pause, max_concurrent: 100_000, durable }
    }
}

impl TestWorker {
    /// Starts it; it beats as often as its client says.
    pub async fn start(client: &Client, options: WorkerOptions) -> Result<Self> {
        let WorkerOptions { id, preparation, pause, max_concurrent, durable } = options;
        let handlers = Arc::new(());
        let counted = Arc::clone(&handlers);
        let handler = move |request: InferenceRequest, mut tokens: TokenSink| {
            let counted = Arc::clone(&counted);
            async move {
                if !preparation.is_zero() {
                    tokio::time::sleep(preparation).await; // the model's own time
                }
                for index in 0..request.max_tokens.unwrap_or(TOKENS) {
                    tokens.send(index.to_string()).await?;
                    if pause.is_zero() {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(pause).await; // the model's own time
                    }
                }
                drop(counted); // or with the future, when the stream is killed
                Ok(FinishReason::Length)
            }
        };
        #[cfg(feature = "durable")]
        let queued = if durable {
            let options = mlx_nats::InferenceOptions::default().max_concurrent(max_concurrent);
            Some(client.serve_durable(id, [TEST_MODEL], options, handler.clone()).await?)
        } else {
            None
        };
        #[cfg(not(feature = "durable"))]
        assert!(!durable, "the tests are built without the feature `durable`");
        let profile = WorkerProfile::new(id).hostname("localhost").models([TEST_MODEL]).max_concurrent(max_concurrent);
        let load = move |command: Request<ModelCommand>| async move {
            Ok(ModelStatus::new(id, command.model_id.clone(), ModelState::Loaded))
        };
        let models = client.serve(&subjects::MODEL_LOAD, load).await?;
        let worker = client.worker(profile).serve(handler).await?;
        #[cfg(feature = "durable")]
        let worker = queued.into_iter().fold(worker, |mut worker, queued| {
            worker.also_serve(queued);
            worker
        });
        Ok(Self { worker, models, handlers, idle: 2 + usize::from(durable) })
    }

    /// Its id.
    pub fn id(&self) -> WorkerId {
        self.worker.id()
    }

    /// Requests that it is answering.
    pub fn answering(&self) -> usize {
        Arc::strong_count(&self.handlers) - self.idle
    }

    /// Resolves with the reason when it can be known to nobody any more, because its client is closed.
    pub async fn ended(&mut self) -> Error {
        match self.worker.ended().await {
            Ok(()) => Error::new(ErrorKind::Closed { reason: "closed".to_owned() }),
            Err(error) => error,
        }
    }

    /// Takes no more requests, finishes those under way within `deadline`, and says goodbye then: whoever still waits
    /// for a worker that has said goodbye takes it for lost.
    pub async fn leave(self, deadline: Duration) -> Result<()> {
        let stopped = self.models.stop(deadline).await;
        self.worker.drain(deadline).await.and(stopped)
    }
}
