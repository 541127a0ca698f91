//! What makes the text: a trait, a stand-in behind it, and any model server that speaks OpenAI's protocol.

mod openai;
mod stand_in;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::Secret;
use mlx_types::config::{EngineApi, StreamingConfig};
use mlx_types::messages::{EmbeddingRequest, Feature, FinishReason, InferenceRequest, RawObject, Usage};

pub(crate) use openai::KEY_VARIABLE;

/// The code of an error for which the request is at fault: it will be elsewhere, too.
pub(crate) const REJECTED: &str = "REQUEST_REJECTED";

/// The code of an error of this worker, for now: another one may answer.
pub(crate) const UNAVAILABLE: &str = "WORKER_UNAVAILABLE";

/// A source of text. Put a model behind it.
pub(crate) trait Engine: Send + Sync + 'static {
    /// The ids of the models that it can answer with. An error is for now: the worker asks again.
    fn models(&self) -> BoxFuture<'_, Result<Vec<String>>>;

    /// What it takes in a request beyond a prompt and a chat of texts.
    fn accepts(&self) -> Vec<Feature> {
        Vec::new()
    }

    /// The answer to a request for embeddings, as the engine has it.
    fn embed(&self, request: EmbeddingRequest) -> BoxFuture<'_, Result<RawObject>> {
        let lacking = vec![Feature::Embeddings.to_string()];
        let refusal = Error::new(ErrorKind::Unsupported { model: request.model_id, lacking });
        std::future::ready(Err(refusal)).boxed()
    }

    /// The answer to a request, as it is made: tokens, then the end. Dropped when the requester cancels, which has to end
    /// the work.
    fn generate(&self, request: InferenceRequest) -> BoxStream<'static, Result<Piece>>;
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// The next token. A model server may send the text of several at once.
    Token(String),
    /// What a token cannot say.
    Delta {
        /// An entry of `choices`, as the model server sent it.
        delta: RawObject,
        /// The text in it.
        text: Option<String>,
        /// Whether the answer is another one without the rest, as it is not without what the model thought before.
        essential: bool,
    },
    /// What the answer costs, as the engine counts it.
    Usage(Usage),
    /// The end, and why.
    End(FinishReason),
}

/// Which engine, and with what.
#[derive(Clone, Debug)]
pub(crate) enum EngineSettings {
    /// No model at all.
    StandIn {
        /// Tokens that it makes in a second.
        tokens_per_second: f64,
    },
    /// A model server.
    OpenAi {
        /// Where its API begins, for example `http://127.0.0.1:8080/v1`.
        url: String,
        /// Which of its APIs is used.
        api: EngineApi,
        /// The key that it asks for.
        key: Option<Secret<String>>,
        /// How long it may be silent.
        streaming: StreamingConfig,
    },
}

/// Opens an engine. Nothing is sent yet.
///
/// # Errors
/// When its settings cannot be used.
pub(crate) fn open(settings: &EngineSettings) -> Result<Arc<dyn Engine>> {
    Ok(match settings {
        EngineSettings::StandIn { tokens_per_second } => Arc::new(stand_in::StandIn::new(*tokens_per_second)),
        EngineSettings::OpenAi { url, api, key, streaming } => {
            Arc::new(openai::OpenAi::new(url, *api, key.clone(), streaming)?)
        }
    })
}
