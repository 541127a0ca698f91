//! One service as it is listed: what it is, and what it has done. A request costs a few atomic additions here, and takes
//! no lock unless it fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mlx_errors::{Error, ErrorKind, Violations};
use parking_lot::Mutex;

use crate::client::is_name_char;

/// The text of a last error is cut here: a handler's message has no bounds.
const MESSAGE_LIMIT: usize = 200;

/// A service, and its counters since it was started.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) queue_group: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    /// Requests handled at once at the most.
    pub(super) limit: usize,
    running: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    last_error: Mutex<String>,
}

/// The counters at one moment.
#[derive(Debug)]
pub(super) struct Counters {
    /// Requests under way.
    pub(super) running: u64,
    /// Requests that are over, however they ended.
    pub(super) requests: u64,
    /// Those of them that were answered with an error.
    pub(super) errors: u64,
    /// Nanoseconds that they took together.
    pub(super) nanos: u64,
    /// Empty where there was none.
    pub(super) last_error: String,
}

impl Endpoint {
    /// One that has done nothing yet.
    pub(crate) fn new(
        name: &str,
        subject: &str,
        queue_group: Option<String>,
        limit: usize,
        metadata: BTreeMap<String, String>,
    ) -> Self {
        Self {
            name: name.chars().map(|char| if is_name_char(char) { char } else { '-' }).collect(),
            subject: subject.to_owned(),
            queue_group,
            metadata,
            limit,
            running: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    /// A request is being handled, until what is returned is dropped: a handler that panics or is aborted counts too.
    pub(crate) fn handling(self: &Arc<Self>) -> Handling {
        self.running.fetch_add(1, Ordering::Relaxed);
        Handling { endpoint: Arc::clone(self), started: Instant::now() }
    }

    fn failed(&self, error: &Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let text = public_text(error);
        *self.last_error.lock() = text;
    }

    pub(super) fn stats(&self) -> Counters {
        Counters {
            running: self.running.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            nanos: self.nanos.load(Ordering::Relaxed),
            last_error: self.last_error.lock().clone(),
        }
    }
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct Handling {
    endpoint: Arc<Endpoint>,
    started: Instant,
}

impl Handling {
    /// It was answered with an error.
    pub(crate) fn failed(&self, error: &Error) {
        self.endpoint.failed(error);
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.endpoint.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.endpoint.requests.fetch_add(1, Ordering::Relaxed);
        self.endpoint.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `429:OVERLOADED overloaded: 4 requests are already under way`: what the requester was told, in one short line.
///
/// Unlike the requester, the reader of these statistics has not sent the request: of a malformed one only the places that are wrong are
/// named, since the decoder's words quote from it.
fn public_text(error: &Error) -> String {
    let remote = error.to_remote();
    let message = match error.kind() {
        ErrorKind::Decode { violations, .. } | ErrorKind::Validation { violations, .. } => places(violations),
        _ => remote.message().split(['\r', '\n']).next().unwrap_or_default().chars().take(MESSAGE_LIMIT).collect(),
    };
    format!("{}:{} {message}", remote.known_code().http_status(), remote.code())
}

fn places(violations: &Violations) -> String {
    let place = violations.iter().next().map(|violation| (violation.path.as_str(), violation.rule.as_str()));
    match place {
        Some(("", rule)) => format!("the request as a whole ({rule})"),
        // A path is made of names that the type knows, and of indices; the keys of a map may be long.
        Some((path, rule)) => format!("`{}` ({rule})", path.chars().take(MESSAGE_LIMIT).collect::<String>()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use mlx_errors::{ErrorCode, RemoteError, Violation};

    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint::new("health.check", "health.check", None, 4, BTreeMap::new()))
    }

    #[test]
    fn a_name_is_made_one_that_tools_take() {
        assert_eq!(endpoint().name, "health-check");
        assert_eq!(Endpoint::new("lab.*.é.>", "lab.*.é.>", None, 1, BTreeMap::new()).name, "lab------");
    }

    #[test]
    fn what_is_under_way_is_told_apart_from_what_is_over() {
        let endpoint = endpoint();
        let (first, second) = (endpoint.handling(), endpoint.handling());
        second.failed(&ErrorKind::Overloaded { limit: 4 }.into());
        drop(second);
        let figures = endpoint.stats();
        assert_eq!((figures.running, figures.requests, figures.errors), (1, 1, 1));
        assert!(figures.last_error.starts_with("429:OVERLOADED overloaded"), "{}", figures.last_error);
        drop(first);
        let figures = endpoint.stats();
        assert_eq!((figures.running, figures.requests, figures.errors), (0, 2, 1));
        assert!(figures.nanos > 0);
    }

    #[test]
    fn x1_a_last_error_tells_neither_sources_nor_what_a_request_held() {
        let inside = std::io::Error::other("the inside");
        let message = format!("no model\nsecond line {}", "x".repeat(1000));
        let text =
            public_text(&Error::with_source(ErrorKind::Remote(RemoteError::new(message, ErrorCode::Internal)), inside));
        assert_eq!(text, "500:INTERNAL_ERROR no model");
        let long = RemoteError::new("y".repeat(1000), ErrorCode::Overloaded);
        assert_eq!(public_text(&ErrorKind::Remote(long).into()).len(), "429:OVERLOADED ".len() + MESSAGE_LIMIT);

        let quoting = Violation::new("prompt", "decode", "invalid type: string \"a private prompt\"");
        let decode = ErrorKind::Decode { subject: "s".to_owned(), violations: vec![quoting].into() };
        assert_eq!(public_text(&decode.into()), "400:MESSAGE_DECODE_ERROR `prompt` (decode)");
        let whole = Violation::new("", "decode", "expected value at line 1 column 1");
        let decode = ErrorKind::Decode { subject: "s".to_owned(), violations: vec![whole].into() };
        assert_eq!(public_text(&decode.into()), "400:MESSAGE_DECODE_ERROR the request as a whole (decode)");
        let reason = "a lock of ours".to_owned();
        assert!(!public_text(&ErrorKind::Internal { reason }.into()).contains("lock"));
    }
}
