//! A model server that speaks OpenAI's protocol: `mlx_lm.server`, llama.cpp, Ollama, vLLM and others.

mod answer;
mod bounded;
mod choice;
mod failure;
mod request;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use mlx_errors::{Error, ErrorKind, Result, Violation};
use mlx_types::Secret;
use mlx_types::config::{EngineApi, StreamingConfig};
use mlx_types::messages::{EmbeddingRequest, Feature, InferenceRequest, RawObject};
use reqwest::{Client, RequestBuilder, StatusCode, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use self::answer::Limits;
use self::failure::Failures;
use self::request::{Body, How};
use super::{Engine, Piece};

/// Where the key is found, if the configuration has none.
pub(crate) const KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// The member by which usage is asked for, in the words of a server that refuses it.
const USAGE_MEMBER: &str = "stream_options";

/// Bytes of embeddings at the most: of what is larger the bus would take no more.
const EMBEDDINGS_LIMIT: usize = 64 << 20;
/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the server may take to say why it has cut an answer off.
const WORDS_LIMIT: Duration = Duration::from_secs(10);
/// How long the server may take to list its models.
const LISTING_LIMIT: Duration = Duration::from_secs(5);

/// A model server.
pub(super) struct OpenAi {
    http: Client,
    base: Url,
    key: Option<Secret<String>>,
    api: EngineApi,
    limits: Limits,
    failures: Failures,
    /// Until the server refuses to be asked.
    asks_for_usage: Arc<AtomicBool>,
    /// Whether the server may tell how it is; not once it has said that there is no such address, until it may be another server.
    tells_health: AtomicBool,
}

impl OpenAi {
    /// The server whose API begins at `base`. Nothing is sent yet. Silence is borne for as long as `streaming` says.
    ///
    /// # Errors
    /// An address or a key that cannot be used.
    pub(super) fn new(
        base: &str,
        api: EngineApi,
        key: Option<Secret<String>>,
        streaming: &StreamingConfig,
    ) -> Result<Self> {
        let base = Url::parse(base)
            .map_err(|error| invalid("worker.engine.url", "url", &format!("is no address: {error}")))?;
        if !key.as_ref().is_none_or(|key| key.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
            let path = format!("worker.engine.apiKey ({KEY_VARIABLE})");
            return Err(invalid(&path, "ascii", "a key has no spaces, and ASCII characters only"));
        }
        // An error means that there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A redirection would take the prompt, and maybe the key, to where nobody has sent it.
        let mut http = Client::builder().connect_timeout(CONNECT_LIMIT).redirect(redirect::Policy::none());
        if is_loopback(&base) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| {
            Error::with_source(ErrorKind::Internal { reason: "cannot make an HTTP client".to_owned() }, error)
        })?;
        let failures = Failures::new(base.clone(), key.clone());
        Ok(Self {
            http,
            base,
            key,
            api,
            limits: Limits::from(streaming),
            failures,
            asks_for_usage: Arc::new(AtomicBool::new(true)),
            tells_health: AtomicBool::new(true),
        })
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    /// Asks the server how it is, where it tells: some list their models although they can answer nothing any more.
    async fn check_health(&self) -> Result<()> {
        if !self.tells_health.load(Ordering::Relaxed) {
            return Ok(());
        }
        let request = self.authorized(self.http.get(beside(&self.base, "health"))).timeout(LISTING_LIMIT);
        // One that cannot be reached says so when it is asked for its models.
        let Ok(response) = request.send().await else { return Ok(()) };
        match response.status() {
            status if status.is_server_error() => Err(self.failures.unwell(response).await),
            StatusCode::NOT_FOUND => {
                self.tells_health.store(false, Ordering::Relaxed);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.check_health().await?;
        let request = self.authorized(self.http.get(below(&self.base, &["models"]))).timeout(LISTING_LIMIT);
        let response = request.send().await.map_err(|error| {
            self.tells_health.store(true, Ordering::Relaxed);
            self.failures.unreachable(error)
        })?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(self.failures.garbled("it has no `/models`; does its address lack a `/v1` at the end?"));
        }
        if !response.status().is_success() {
            return Err(self.failures.refused(response).await);
        }
        let body = bounded::body(response, bounded::LIMIT).await.map_err(|error| self.failures.unlisted(error))?;
        let listing: Listing = serde_json::from_slice(&body).map_err(|error| self.failures.unlisted(error))?;
        Ok(listing.data.into_iter().map(|model| model.id).collect())
    }
}

impl Engine for OpenAi {
    fn models(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        self.list().boxed()
    }

    fn accepts(&self) -> Vec<Feature> {
        match self.api {
            EngineApi::Chat => vec![Feature::Params, Feature::Messages, Feature::Embeddings],
            EngineApi::Completions => vec![Feature::Params, Feature::Embeddings],
        }
    }

    fn embed(&self, request: EmbeddingRequest) -> BoxFuture<'_, Result<RawObject>> {
        async move {
            let body = request::Embedding(&request);
            let post = self.authorized(self.http.post(below(&self.base, &["embeddings"])).json(&body));
            let response = post.send().await.map_err(|error| self.failures.unreachable(error))?;
            if !response.status().is_success() {
                return Err(self.failures.refused(response).await);
            }
            let body = bounded::body(response, EMBEDDINGS_LIMIT).await;
            let body = body.map_err(|error| self.failures.interrupted(0, error))?;
            let text = String::from_utf8(body).map_err(|_| self.failures.garbled("its embeddings are no text"))?;
            let result = RawObject::from_json(text).map_err(|error| self.failures.unread(&error))?;
            // Some servers tell of an error by a 200.
            match result.read::<Told<'_>>().map_err(|error| self.failures.unread(&error))? {
                Told { error: Some(error), .. } => Err(self.failures.reported(&error)),
                Told { data: None, .. } => Err(self.failures.garbled("its answer has no embeddings")),
                Told { .. } => Ok(result),
            }
        }
        .boxed()
    }

    fn generate(&self, request: InferenceRequest) -> BoxStream<'static, Result<Piece>> {
        let is_raw = request.raw == Some(true) && request.messages.is_none();
        let api = if is_raw { EngineApi::Completions } else { self.api };
        let path: &[&str] = match api {
            EngineApi::Chat => &["chat", "completions"],
            EngineApi::Completions => &["completions"],
        };
        let post = |how| {
            let body = Body { request: &request, api, how };
            self.authorized(self.http.post(below(&self.base, path)).json(&body))
        };
        let asks_for_usage = self.asks_for_usage.load(Ordering::Relaxed);
        let first = post(if asks_for_usage { How::WithUsage } else { How::Plain });
        let plain = asks_for_usage.then(|| post(How::Plain));
        let (one_token, choices) = (post(How::OneToken), choices_of(&request));
        let (flag, limits, failures) = (Arc::clone(&self.asks_for_usage), self.limits, self.failures.clone());
        let answer = async move {
            let mut pieces = match (answer::begin(first, choices, limits, failures.clone()).await, plain) {
                // Some servers refuse what they do not know.
                (Err(error), Some(plain)) if error.to_string().contains(USAGE_MEMBER) => {
                    flag.store(false, Ordering::Relaxed);
                    answer::begin(plain, choices, limits, failures.clone()).await?
                }
                (begun, _) => begun?,
            }
            .boxed();
            let first = match pieces.next().await {
                Some(Err(error)) if failure::is_cut_off(&error) => {
                    Some(Err(words_for(error, one_token, &failures).await))
                }
                first => first,
            };
            Ok::<_, Error>(stream::iter(first).chain(pieces))
        };
        stream::once(answer).try_flatten().boxed()
    }
}

/// The server's own words for an answer that was cut off before it began: some have them only for whoever wants no stream, as
/// llama-cpp-python's has for a prompt that is too long. Otherwise the error stays as it is.
async fn words_for(error: Error, one_token: RequestBuilder, failures: &Failures) -> Error {
    match one_token.timeout(WORDS_LIMIT).send().await {
        Ok(response) if is_about_the_request(response.status()) => failures.refused(response).await,
        _ => error,
    }
}

/// Whether a status is the server's answer to this very request, and not to the moment.
fn is_about_the_request(status: StatusCode) -> bool {
    let of_the_moment = [401, 403, 404, 408, 429, 502, 503, 504];
    (status.is_client_error() || status.is_server_error()) && !of_the_moment.contains(&status.as_u16())
}

/// How many answers are wanted in one.
fn choices_of(request: &InferenceRequest) -> u64 {
    #[derive(Deserialize)]
    struct Wanted {
        n: Option<u64>,
    }
    let wanted = request.params.as_ref().and_then(|params| params.read::<Wanted>().ok());
    wanted.and_then(|wanted| wanted.n).unwrap_or(1)
}

/// What `POST /embeddings` answers, as far as it matters.
#[derive(Deserialize)]
struct Told<'a> {
    error: Option<Value>,
    #[serde(borrow)]
    data: Option<Vec<&'a RawValue>>,
}

/// What `GET /models` answers, as far as it matters.
#[derive(Deserialize)]
struct Listing {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

fn invalid(path: &str, rule: &str, message: &str) -> Error {
    let violations = vec![Violation::new(path, rule, message)].into();
    Error::new(ErrorKind::ConfigValidation { violations })
}

fn below(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    // An error means an address that cannot have a path; one of HTTP always can.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

/// An address beside the API, whose own ends in `/v1`.
fn beside(base: &Url, name: &str) -> Url {
    let mut url = base.clone();
    let is_versioned = base.path().trim_end_matches('/').ends_with("/v1");
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty();
        if is_versioned {
            segments.pop();
        }
        segments.push(name);
    }
    url
}

/// Whether the server is on this machine, where no proxy can be in between.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}
