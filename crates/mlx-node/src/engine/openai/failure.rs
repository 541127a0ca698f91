//! What goes wrong at a model server, as requesters are told of it.
//!
//! | code | when | again elsewhere? |
//! |---|---|---|
//! | `OVERLOADED` | it answers 429 or 503 | yes |
//! | `WORKER_UNAVAILABLE` | it cannot be reached, refuses the key, answers 404, 408, 502 or 504, or breaks off before the first token, saying so | yes |
//! | `ENGINE_BROKEN` | its connection ends before the first token | yes, once: two engines that broke are enough |
//! | `REQUEST_REJECTED` | it answers any other 4xx | no |
//! | `MODEL_SERVER_ERROR` | it fails in any other way | no |
//! | `STREAM_FIRST_TOKEN_TIMEOUT`, `STREAM_INTER_TOKEN_TIMEOUT` | it is silent | as everywhere |

use std::error::Error as StdError;
use std::time::Duration;

use mlx_errors::{Error, ErrorCode, ErrorKind, RemoteError};
use mlx_nats::ENGINE_BROKEN;
use mlx_types::Secret;
use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;
use tokio::time::timeout;

use super::KEY_VARIABLE;
use crate::engine::{REJECTED, UNAVAILABLE};

/// The server is at fault.
const FAILED: &str = "MODEL_SERVER_ERROR";

/// How much of an error's body is read, in bytes, and for how long.
const BODY_LIMIT: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(5);
/// How much of the server's own words is passed on, in characters.
const WORDS: usize = 500;

/// Makes errors. It knows the key so as to keep it out of them: some servers repeat what they were sent.
#[derive(Clone, Debug)]
pub(super) struct Failures {
    /// Without a query, in which some servers take their key.
    base: Url,
    key: Option<Secret<String>>,
}

impl Failures {
    pub(super) fn new(mut base: Url, key: Option<Secret<String>>) -> Self {
        base.set_query(None);
        Self { base, key }
    }

    /// No answer came. Where from is for the log alone.
    pub(super) fn unreachable(&self, error: reqwest::Error) -> Error {
        if error.is_builder() {
            return self.caused(REJECTED, "the request cannot be written for the model server", error.without_url());
        }
        // One that took the request, and is gone before it answered, may have broken by it.
        let code = if error.is_connect() { UNAVAILABLE } else { ENGINE_BROKEN };
        let what = if error.is_connect() { "cannot be reached" } else { "broke the connection off" };
        self.caused(code, &format!("the model server {what}"), error.with_url(self.base.clone()))
    }

    /// An answer with a status that tells of an error.
    pub(super) async fn refused(&self, mut response: Response) -> Error {
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let what = if self.key.is_some() { "refuses the key in" } else { "wants a key in" };
            return self.told(UNAVAILABLE, &format!("the model server {what} {KEY_VARIABLE} ({status})"));
        }
        let later = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()).map(str::to_owned);
        let words = self.words_of(&mut response).await;
        let later =
            later.map(|after| format!(" (to be asked again after: {})", self.clean(&after))).unwrap_or_default();
        let code = match status.as_u16() {
            429 | 503 => ErrorCode::Overloaded.as_str(),
            // The model is one that it lists, so that it is not the request which is at fault.
            404 | 408 | 502 | 504 => UNAVAILABLE,
            400..=499 => REJECTED,
            _ => FAILED,
        };
        self.told(code, &format!("the model server answers {status}{words}{later}"))
    }

    /// The server says that it is not well.
    pub(super) async fn unwell(&self, mut response: Response) -> Error {
        let status = response.status();
        let words = self.words_of(&mut response).await;
        self.told(UNAVAILABLE, &format!("the model server says that it is not well: {status}{words}"))
    }

    /// An error in place of a piece of the answer.
    pub(super) fn reported(&self, error: &Value) -> Error {
        self.told(FAILED, &format!("the model server reports an error{}", self.words(error)))
    }

    /// An answer that is no stream, although its status is that of success: an error, or something else altogether.
    pub(super) async fn refused_by_success(&self, mut response: Response) -> Error {
        match self.error_of(&mut response).await {
            Some(words) => {
                self.told(FAILED, &format!("the model server answers with an error in place of a stream{words}"))
            }
            None => self.garbled("its answer is no stream of events"),
        }
    }

    /// A reason to stop that is a failure.
    pub(super) fn gave_up(&self, reason: &str) -> Error {
        self.told(FAILED, &format!("the model server gave the answer up: it says `{}`", self.clean(reason)))
    }

    /// The connection ends in the middle of the answer, without a word.
    pub(super) fn cut_off(&self, taken: u64) -> Error {
        self.told(cut_off(taken), "the model server's answer ends in the middle")
    }

    /// The answer ends without saying why: it was broken off for another one.
    pub(super) fn broken(&self, tokens: u64) -> Error {
        self.told(broken_off(tokens), "the model server's answer ends in the middle")
    }

    /// The answer cannot be read any further.
    pub(super) fn interrupted(&self, tokens: u64, cause: impl StdError + Send + Sync + 'static) -> Error {
        self.caused(cut_off(tokens), "the model server's answer broke off", cause)
    }

    /// What came is not what the protocol has there.
    pub(super) fn garbled(&self, what: &str) -> Error {
        self.told(FAILED, &format!("the model server does not speak OpenAI's protocol: {what}"))
    }

    /// An event that cannot be read. What it says stays out of logs and errors: it is part of somebody's answer.
    pub(super) fn unread(&self, error: &serde_json::Error) -> Error {
        self.garbled(&format!(
            "an event is no piece of an answer ({:?} error at column {})",
            error.classify(),
            error.column()
        ))
    }

    pub(super) fn unlisted(&self, cause: impl StdError + Send + Sync + 'static) -> Error {
        self.caused(FAILED, "the model server sent no list of models", cause)
    }

    fn told(&self, code: &str, message: &str) -> Error {
        Error::new(self.kind(code, message))
    }

    fn caused(&self, code: &str, message: &str, cause: impl StdError + Send + Sync + 'static) -> Error {
        Error::with_source(self.kind(code, message), cause)
    }

    fn kind(&self, code: &str, message: &str) -> ErrorKind {
        // Codes that are not in the table say nothing of that by themselves.
        let retryable = (code == ENGINE_BROKEN).then_some(true);
        RemoteError::from_parts(self.clean(message), Some(code.to_owned())).with_retryable(retryable).into()
    }

    /// What a body says of an error, for a message.
    async fn words_of(&self, response: &mut Response) -> String {
        self.error_of(response).await.unwrap_or_default()
    }

    async fn error_of(&self, response: &mut Response) -> Option<String> {
        let mut body = Vec::new();
        let reading = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                body.extend_from_slice(&chunk);
                if body.len() >= BODY_LIMIT {
                    break;
                }
            }
        };
        // What has come by then will do.
        let _ = timeout(BODY_TIME, reading).await;
        let words = match serde_json::from_slice::<Value>(&body) {
            // `{"error": ...}` of the protocol, or `{"detail": ...}` of FastAPI.
            Ok(Value::Object(mut members)) => {
                // Whatever else is in it may be part of somebody's answer.
                let told = ["error", "detail", "message", "reason", "status"]
                    .into_iter()
                    .find_map(|name| members.remove(name));
                self.words(&told?)
            }
            Ok(Value::String(text)) => self.words(&Value::String(text)),
            Ok(_) => return None,
            Err(_) => self.words(&Value::String(plain(&body)?)),
        };
        Some(words).filter(|words| !words.is_empty())
    }

    /// The server's own words: `{"message": "..."}`, or, as `mlx_lm.server` has it, the text alone.
    fn words(&self, error: &Value) -> String {
        let text = match error.get("message").unwrap_or(error) {
            Value::Null => return String::new(),
            Value::String(text) => text.clone(),
            // A list of what is wrong with a request, as FastAPI has it.
            other => other.to_string(),
        };
        if text.is_empty() || text == "{}" {
            return String::new();
        }
        let text = self.clean(&text);
        let cut = if text.chars().nth(WORDS).is_some() { "..." } else { "" };
        format!(": {}{cut}", text.chars().take(WORDS).collect::<String>())
    }

    fn clean(&self, text: &str) -> String {
        match &self.key {
            Some(key) => text.replace(key.expose().as_str(), "[redacted]"),
            None => text.to_owned(),
        }
    }
}

/// A plain text of one line. A page for people is not for a message.
fn plain(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let is_page = text.starts_with('<');
    (!is_page && !text.is_empty()).then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// Whether the connection ended before the answer had begun.
pub(super) fn is_cut_off(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Remote(remote) if remote.code() == ENGINE_BROKEN)
}

/// As [`broken_off`], by a server that may have broken.
fn cut_off(taken: u64) -> &'static str {
    if taken == 0 { ENGINE_BROKEN } else { FAILED }
}

/// Who has had tokens cannot have them from another worker.
fn broken_off(tokens: u64) -> &'static str {
    if tokens == 0 { UNAVAILABLE } else { FAILED }
}
