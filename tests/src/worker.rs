//! A worker whose tokens are their own indexes, so that whoever reads them can tell which one is missing.

use std::sync::Arc;
use std::time::Duration;

use mlx_errors::{Error, Result};
use mlx_nats::{Client, InferenceOptions, InferenceService, Request, Service, TokenSink};
use mlx_types::messages::{FinishReason, InferenceRequest, ModelCommand, ModelState, ModelStatus};
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
    #[cfg(feature = "durable")]
    queued: Option<InferenceService>,
    models: Service,
    handlers: Arc<()>,
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
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Whether it takes queued requests too.
    pub durable: bool,
}

impl WorkerOptions {
    /// A worker that speaks a hundred tokens a second to as many as ask, with a heartbeat as often as `config` says.
    pub fn new(id: WorkerId, config: &mlx_types::ClusterConfig) -> Self {
        let heartbeat = config.discovery.heartbeat_interval_ms.as_duration();
        let durable = config.request_routing.durable.enabled;
        let pause = Duration::from_millis(10);
        Self { id, preparation: Duration::ZERO, pause, max_concurrent: 100_000, heartbeat, durable }
    }
}

impl TestWorker {
    /// Serves, and registers then, so that the first request after the registration finds someone.
    pub async fn start(client: &Client, options: WorkerOptions) -> Result<Self> {
        let WorkerOptions { id, preparation, pause, max_concurrent, heartbeat, durable } = options;
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
        let options = InferenceOptions::default().max_concurrent(max_concurrent);
        #[cfg(feature = "durable")]
        let queued = if durable {
            Some(client.serve_durable(id, [TEST_MODEL], options.clone(), handler.clone()).await?)
        } else {
            None
        };
        #[cfg(not(feature = "durable"))]
        assert!(!durable, "the tests are built without the feature `durable`");
        let inference = client.serve_inference(id, options, handler).await?;
        let load = move |command: Request<ModelCommand>| async move {
            Ok(ModelStatus::new(id, command.model_id.clone(), ModelState::Loaded))
        };
        let models = client.serve(&subjects::MODEL_LOAD, load).await?;
        let presence = Presence::announce(client, id, heartbeat).await?;
        Ok(Self {
            presence,
            inference,
            #[cfg(feature = "durable")]
            queued,
            models,
            handlers,
        })
    }

    /// Its id.
    pub fn id(&self) -> WorkerId {
        self.presence.id()
    }

    /// Requests that it is answering.
    pub fn answering(&self) -> usize {
        // This one, and those of the services.
        #[cfg(feature = "durable")]
        let idle = 2 + usize::from(self.queued.is_some());
        #[cfg(not(feature = "durable"))]
        let idle = 2;
        Arc::strong_count(&self.handlers) - idle
    }

    /// Resolves with the reason when it can be known to nobody any more, because its client is closed.
    pub async fn ended(&mut self) -> Error {
        self.presence.ended().await
    }

    /// Takes no more requests, finishes those under way within `deadline`, and says goodbye then: whoever still waits
    /// for a worker that has said goodbye takes it for lost.
    pub async fn leave(self, deadline: Duration) -> Result<()> {
        let stopped = self.inference.stop(deadline).await;
        #[cfg(feature = "durable")]
        let stopped = match self.queued {
            Some(queued) => stopped.and(queued.stop(deadline).await),
            None => stopped,
        };
        let stopped = stopped.and(self.models.stop(deadline).await);
        let said = self.presence.leave().await;
        stopped.and(said)
    }
}
