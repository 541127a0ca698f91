//! What makes the text: a trait, a stand-in behind it, and any model server that speaks OpenAI's protocol.

mod openai;
mod stand_in;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use mlx_errors::Result;
use mlx_types::config::ClusterConfig;
use mlx_types::messages::{FinishReason, InferenceRequest};
use reqwest::Url;

use crate::cli::Arguments;

pub use openai::{Api, KEY_VARIABLE};

/// The code of an error for which the request is at fault: it will be elsewhere, too.
pub const REJECTED: &str = "REQUEST_REJECTED";

/// A source of text. Put a model behind it.
pub trait Engine: Send + Sync + 'static {
    /// The ids of the models that it can answer with. An error is for now: the worker asks again.
    fn models(&self) -> BoxFuture<'_, Result<Vec<String>>>;

    /// The answer to a request, as it is made: tokens, then the end. Dropped when the requester cancels, which has to end
    /// the work.
    fn generate(&self, request: InferenceRequest) -> BoxStream<'static, Result<Piece>>;
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// The next token. A model server may send the text of several at once.
    Token(String),
    /// The end, and why.
    End(FinishReason),
}

/// The engine that the command line asks for.
///
/// # Errors
/// When its settings cannot be used.
pub fn open(config: &ClusterConfig, arguments: &Arguments) -> Result<Arc<dyn Engine>> {
    Ok(match &arguments.engine {
        Choice::StandIn => Arc::new(stand_in::StandIn::new(arguments.tokens_per_second)),
        Choice::OpenAi(base) => Arc::new(openai::OpenAi::new(base.clone(), arguments.engine_api, &config.streaming)?),
    })
}

/// `stand-in`, or `openai=` and the address of a model server.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// No model at all.
    StandIn,
    /// A model server, by the address that its API begins with, for example `http://127.0.0.1:8080/v1`.
    OpenAi(Url),
}

const STAND_IN: &str = "stand-in";
const OPENAI: &str = "openai=";

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == STAND_IN {
            return Ok(Self::StandIn);
        }
        let Some(address) = text.strip_prefix(OPENAI) else {
            return Err(format!("neither `{STAND_IN}` nor `{OPENAI}http://HOST:PORT/v1`"));
        };
        let url = Url::parse(address).map_err(|error| format!("`{address}` is no address: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("the address of a model server begins with `http://` or `https://`".to_owned());
        }
        Ok(Self::OpenAi(url))
    }
}

impl Choice {
    /// Apart from reading it, because an argument that cannot be read is shown.
    ///
    /// # Errors
    /// What has to be done about it.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::OpenAi(url) if !url.username().is_empty() || url.password().is_some() => Err(format!(
                "everyone on this machine can read a command line: put the key into {KEY_VARIABLE}, not into --engine"
            )),
            Self::OpenAi(_) | Self::StandIn => Ok(()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandIn => f.write_str(STAND_IN),
            Self::OpenAi(url) => write!(f, "{OPENAI}{url}"),
        }
    }
}
