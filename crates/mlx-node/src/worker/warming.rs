//! Models that are loaded before the first request, by a request for one token each.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::join_all;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::InferenceRequest;
use tokio::time::timeout;

use super::loaded::Loaded;
use crate::engine::Engine;
use crate::plan::Warming;

/// What is asked: the answer does not matter.
const PROMPT: &str = "Hello";

/// The models to load, and the engine that does it.
pub(super) struct Load {
    warming: Warming,
    engine: Arc<dyn Engine>,
}

impl Load {
    pub(super) fn new(warming: Warming, engine: Arc<dyn Engine>) -> Self {
        Self { warming, engine }
    }

    /// Whether the worker registers only when all are loaded.
    pub(super) fn is_first(&self) -> bool {
        self.warming.before_registration
    }

    /// Loads all of them. One that cannot be loaded is a warning: a request for it says more.
    pub(super) async fn run(self, loaded: &Loaded) {
        for group in &self.warming.groups {
            if self.warming.parallel {
                join_all(group.iter().map(|model| self.load(model, loaded))).await;
            } else {
                for model in group {
                    self.load(model, loaded).await;
                }
            }
        }
    }

    async fn load(&self, model: &str, loaded: &Loaded) {
        let began = Instant::now();
        let limit = self.warming.timeout;
        let asked = timeout(limit, self.one_token(model)).await;
        let late = || Error::new(ErrorKind::Timeout { subject: format!("loading of `{model}`"), timeout: limit });
        match asked.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {
                loaded.loaded(model.to_owned());
                tracing::info!(model, seconds = began.elapsed().as_secs_f64(), "the model is loaded");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(model, error, "the model could not be loaded beforehand");
            }
        }
    }

    async fn one_token(&self, model: &str) -> Result<()> {
        let mut pieces = self.engine.generate(InferenceRequest::new(model, PROMPT).max_tokens(1));
        while let Some(piece) = pieces.next().await {
            piece?;
        }
        Ok(())
    }
}
