//! A worker whose tokens are their own indexes, so that whoever reads them can tell which one is missing.

use std::sync::Arc;
use std::time::Duration;

use mlx_errors::{Error, Result};
use mlx_nats::{Client, InferenceOptions, InferenceService, Request, Service};
use mlx_types::messages::{FinishReason, ModelCommand, ModelState, ModelStatus};
use mlx_types::{WorkerId, subjects};

use crate::Presence;

/// The model that every [`TestWorker`] has.
pub const TEST_MODEL: &str = "indexes";

/// Tokens of an answer to a request that does not say how many.
const TOKENS: u64 = 1000;

/// A worker in this process: registered, beating, and answering `worker.{id}.inference` and `model.load`.
///
/// Dropping it is a death without a word, as far as the bus can tell; [`leave`](Self::leave) says goodbye.
#[derive(Debug)]
pub struct TestWorker {
    presence: Presence,
    inference: InferenceService,
    models: Service,
    handlers: Arc<()>,
}

/// What a [`TestWorker`] is to be.
#[derive(Clone, Copy, Debug)]
pub struct WorkerOptions {
    /// Its id.
    pub id: WorkerId,
    /// The model's own time for a token; none at all where it is zero.
    pub pause: Duration,
    /// Requests answered at once.
    pub max_concurrent: usize,
    /// Between two heartbeats.
    pub heartbeat: Duration,
}

impl WorkerOptions {
    /// A worker that speaks a hundred tokens a second to as many as ask, with a heartbeat as often as `config` says.
    pub fn new(id: WorkerId, config: &mlx_types::ClusterConfig) -> Self {
        let heartbeat = config.discovery.heartbeat_interval_ms.as_duration();
        Self { id, pause: Duration::from_millis(10), max_concurrent: 100_000, heartbeat }
    }
}

impl TestWorker {
    /// Serves, and registers then, so that the first request after the registration finds someone.
    pub async fn start(client: &Client, options: WorkerOptions) -> Result<Self> {
        let WorkerOptions { id, pause, max_concurrent, heartbeat } = options;
        let handlers = Arc::new(());
        let counted = Arc::clone(&handlers);
        let inference = client
            .serve_inference(id, InferenceOptions { max_concurrent }, move |request, mut tokens| {
                let counted = Arc::clone(&counted);
                async move {
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
            })
            .await?;
        let load = move |command: Request<ModelCommand>| async move {
            Ok(ModelStatus::new(id, command.model_id.clone(), ModelState::Loaded))
        };
        let models = client.serve(&subjects::MODEL_LOAD, load).await?;
        let presence = Presence::announce(client, id, heartbeat).await?;
        Ok(Self { presence, inference, models, handlers })
    }

    /// Its id.
    pub fn id(&self) -> WorkerId {
        self.presence.id()
    }

    /// Requests that it is answering.
    pub fn answering(&self) -> usize {
        Arc::strong_count(&self.handlers) - 2 // this one, and that of the service
    }

    /// Resolves with the reason when it can be known to nobody any more, because its client is closed.
    pub async fn ended(&mut self) -> Error {
        self.presence.ended().await
    }

    /// Takes no more requests, finishes those under way within `deadline`, and says goodbye then: whoever still waits
    /// for a worker that has said goodbye takes it for lost.
    pub async fn leave(self, deadline: Duration) -> Result<()> {
        let stopped = self.inference.stop(deadline).await;
        let stopped = stopped.and(self.models.stop(deadline).await);
        let said = self.presence.leave().await;
        stopped.and(said)
    }
}
