//! X1: a secret never comes out.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use mlx_errors::{Error, ErrorKind};
use mlx_log::{Format, LogConfig, Setup};

use crate::support::TestLog;

/// A type that does not show its value, as the crates above have one.
struct Secret(#[expect(dead_code, reason = "it is not shown")] &'static str);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(mlx_errors::REDACTED)
    }
}

fn log_secrets() {
    let url = "nats://me:canary@127.0.0.1:4222";
    let error = Error::with_source(
        ErrorKind::Publish { subject: "a".into(), reason: format!("lost {url}") },
        io::Error::other(format!("cannot dial {url}: refused")),
    );
    let _component = mlx_log::component(url).entered();
    let _span = tracing::error_span!("connect", url, password = "canary", key = ?Secret("canary")).entered();
    tracing::trace!(server = url, servers = ?[url, url], "connecting to {url}, {url}");
    tracing::debug!(password = "canary", natsToken = %"canary", client_secret = ?"canary", api_key = "canary");
    tracing::info!(secret = ?Secret("canary"), "set");
    tracing::warn!(last = &error as &dyn StdError, "retrying");
    tracing::error!(error = &error as &dyn StdError, "failed");
    tracing::error!(error = %format!("no route to {url}"));
}

#[test]
fn x1_a_canary_never_reaches_the_log_at_the_most_verbose_level() {
    for format in [Format::Json, Format::Text] {
        let config = LogConfig::default().format(format);
        let log = TestLog::new(Setup::new(&config).directives("trace"));
        log.run(log_secrets);
        let text = log.flushed().text();
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("nats://[redacted]@127.0.0.1:4222"), "the place itself stays: {text}");
        assert_eq!(text.matches("connecting to").count(), 1);
    }
}

#[test]
fn x1_counts_and_indexes_are_no_secrets() {
    let log = TestLog::new(Setup::new(&LogConfig::default()));
    log.run(|| {
        tracing::info!(token = 7, tokens = 12, firstTokenTimeoutMs = 60_000, email = "a@b", url = "nats://h:4222");
    });
    let context = &log.flushed().json()[0]["context"];
    assert_eq!(
        *context,
        serde_json::json!({ "token": 7, "tokens": 12, "firstTokenTimeoutMs": 60_000, "email": "a@b", "url": "nats://h:4222" })
    );
}
