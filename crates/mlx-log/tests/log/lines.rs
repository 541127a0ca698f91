//! What a line says.

use std::error::Error as StdError;
use std::io;

use crate::support::TestLog;
use mlx_errors::{Error, ErrorCode, ErrorKind, RemoteError};
use mlx_log::{Format, Level, LogConfig, Setup};
use serde_json::{Value, json};

fn log() -> TestLog {
    TestLog::new(Setup::new(&LogConfig::default().level(Level::Debug)))
}

fn text() -> TestLog {
    TestLog::new(Setup::new(&LogConfig::default().format(Format::Text)))
}

/// The only line that `work` logs, without its timestamp.
fn line_of(work: impl FnOnce()) -> Value {
    let log = log();
    log.run(work);
    let mut lines = log.flushed().json();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let mut line = lines.remove(0);
    line.as_object_mut().unwrap().remove("timestamp").expect("a timestamp");
    line
}

#[test]
fn l1_fields_keep_their_types() {
    let line = line_of(|| {
        tracing::info!(
            target: "mlx_nats::client",
            text = "a \"b\"",
            yes = true,
            count = 7_u64,
            below = -7_i64,
            ratio = 0.5,
            whole = 3.0,
            nan = f64::NAN,
            small = 9_i128,
            wide = u128::MAX,
            shown = %"c d",
            debugged = ?Some(1),
            none = Option::<u64>::None,
            some = Some(1),
            "connected to {}",
            "a server"
        );
    });
    assert_eq!(
        line,
        json!({
            "level": "info",
            "component": "mlx_nats:client",
            "message": "connected to a server",
            "context": {
                "text": "a \"b\"", "yes": true, "count": 7, "below": -7, "ratio": 0.5, "whole": 3.0, "nan": "NaN",
                "small": 9, "wide": "340282366920938463463374607431768211455", "shown": "c d",
                "debugged": "Some(1)", "some": 1,
            },
        })
    );
}

#[test]
fn l1_structures_are_json_and_not_text_that_looks_like_it() {
    #[derive(Debug)]
    #[expect(dead_code, reason = "read by Debug")]
    struct Worker {
        id: String,
        password: &'static str,
    }
    let workers = [Worker { id: "a\u{1b}[2J\"".to_owned(), password: "hunter2" }];
    let load = std::collections::BTreeMap::from([("queued", 3)]);
    let from_afar = "{\"admin\": true}".to_owned();
    let line = line_of(|| {
        let _span = tracing::info_span!("span", spans = ?vec![1, 2]).entered();
        tracing::info!(?workers, load = ?mlx_log::json(&load), from_afar, shown = %from_afar, "busy");
    });
    assert_eq!(
        line["context"],
        json!({
            "workers": [{"type": "Worker", "id": "a\u{1b}[2J\"", "password": "[redacted]"}],
            "load": {"queued": 3}, "spans": [1, 2], "from_afar": from_afar, "shown": from_afar,
        })
    );
}

#[test]
fn l1_the_nearest_field_wins_and_reserved_names_are_prefixed() {
    let line = line_of(|| {
        let outer = tracing::info_span!("outer", request = 1, worker = "w1", shard = tracing::field::Empty);
        let _outer = outer.enter();
        let _inner = tracing::info_span!("inner", request = 2, level = "deep", error = "span").entered();
        outer.record("shard", 4);
        outer.record("shard", 5);
        tracing::info!(worker = "w2", timestamp = 9, context = "c", r#type = "token", "done");
    });
    assert_eq!(
        line["context"],
        json!({
            "worker": "w2", "field_timestamp": 9, "field_context": "c", "type": "token", "request": 2,
            "field_level": "deep", "field_error": "span", "shard": 5,
        })
    );
    assert_eq!(line["message"], "done");
}

#[test]
fn l1_an_error_is_told_with_name_code_message_and_sources() {
    let cause = Error::with_source(
        ErrorKind::NoResponders { subject: "model.load".into() },
        io::Error::new(io::ErrorKind::BrokenPipe, "pipe gone"),
    );
    let error = Error::with_source(ErrorKind::Internal { reason: "handler".into() }, cause);
    let line = line_of(|| tracing::error!(error = &error as &dyn StdError, "request failed"));
    assert_eq!(
        line["error"],
        json!({
            "name": "Internal", "message": "internal error: handler", "code": "INTERNAL_ERROR",
            "sources": ["nobody listens on `model.load`", "pipe gone"],
        })
    );

    let io = io::Error::other(Error::new(ErrorKind::Closed { reason: "shut down".into() }));
    let line = line_of(|| tracing::error!(error = &io as &dyn StdError));
    assert_eq!(line["message"], "the NATS client is closed: shut down", "an error without a message speaks for itself");
    assert_eq!(line["error"]["name"], "IoError");

    let line = line_of(|| tracing::error!(error = %"text only", "failed"));
    assert_eq!(line["error"], json!({ "name": "Error", "message": "text only", "sources": [] }));

    let remote: Error = ErrorKind::Remote(RemoteError::from_parts("too hot", Some("GPU_TOO_HOT".into()))).into();
    let line = line_of(|| tracing::error!(error = &remote as &dyn StdError, "failed"));
    assert_eq!(line["error"]["code"], "GPU_TOO_HOT");
    assert_eq!(remote.code(), ErrorCode::Remote);
}

#[test]
fn l1_an_error_under_another_name_is_told_with_its_causes() {
    let error = Error::with_source(ErrorKind::Log { reason: "a".into() }, io::Error::other("b"));
    let line = line_of(|| {
        let _span = tracing::info_span!("s", last = &error as &dyn StdError).entered();
        tracing::warn!(cause = &error as &dyn StdError, "retrying");
    });
    assert_eq!(
        line["context"],
        json!({ "cause": "cannot set up logging: a: b", "last": "cannot set up logging: a: b" })
    );
}

#[test]
fn l2_components_nest_and_stay_when_less_is_logged() {
    let log = TestLog::new(Setup::new(&LogConfig::default().level(Level::Warn)));
    log.run(|| {
        let _nats = mlx_log::component("nats").entered();
        tracing::warn!("1");
        let stream = tracing::error_span!("stream", component = "stream", request = 7);
        let _stream = stream.enter();
        tracing::warn!("2");
        tracing::warn!(component = "assembly", "3");
        stream.record("component", "flow");
        tracing::warn!("4");
    });
    let components: Vec<_> = log.flushed().json().iter().map(|line| line["component"].clone()).collect();
    assert_eq!(components, ["nats", "nats:stream", "nats:stream:assembly", "nats:flow"]);
    assert!(!log.flushed().text().contains("field_component"));
}

#[test]
fn l2_a_component_stays_where_only_one_target_is_logged() {
    let log = TestLog::new(Setup::new(&LogConfig::default()).directives("off,chosen=info"));
    log.run(|| {
        let _nats = mlx_log::component("nats").entered();
        tracing::error!("silent");
        tracing::info!(target: "chosen", "heard");
    });
    let lines = log.flushed().json();
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["component"], &lines[0]["message"]), (&json!("nats"), &json!("heard")));
}

#[test]
fn a_display_that_fails_leaves_a_whole_line() {
    struct Broken;
    impl std::fmt::Display for Broken {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("half")?;
            Err(std::fmt::Error)
        }
    }
    assert_eq!(line_of(|| tracing::info!(value = %Broken, "shown"))["context"], json!({ "value": "half" }));
    assert_eq!(line_of(|| tracing::error!(error = %Broken, "shown"))["error"]["message"], "half");
    let log = text();
    log.run(|| tracing::info!(value = %Broken, "shown"));
    assert!(log.flushed().text().ends_with("shown value=half\n"), "{}", log.flushed().text());
}

#[test]
fn text_lines_are_for_people() {
    let log = text();
    let error = Error::with_source(ErrorKind::NoResponders { subject: "a".into() }, io::Error::other("b"));
    log.run(|| {
        let _nats = mlx_log::component("nats").entered();
        tracing::info!(
            server = "nats://127.0.0.1:4222",
            note = "two words",
            ratio = 0.5,
            on = true,
            n = 1,
            m = -1,
            "up"
        );
        tracing::error!(error = &error as &dyn StdError, "failed");
        tracing::warn!(empty = "", quote = "a\"b\\c\nd", wide = u128::MAX);
    });
    let text = log.flushed().text();
    let lines: Vec<&str> = text.lines().map(|line| line.split_once("Z ").map_or(line, |(_, rest)| rest)).collect();
    assert_eq!(
        lines,
        [
            "INFO  nats: up server=nats://127.0.0.1:4222 note=\"two words\" ratio=0.5 on=true n=1 m=-1",
            "ERROR nats: failed code=NATS_NO_RESPONDERS error=\"nobody listens on `a`\"",
            "    caused by: b",
            "WARN  nats empty=\"\" quote=\"a\\\"b\\\\c\\nd\" wide=340282366920938463463374607431768211455",
        ]
    );
}

#[test]
fn text_can_neither_steer_a_terminal_nor_forge_a_line() {
    let log = text();
    log.run(|| tracing::info!(key = "\u{1b}[2J\u{9b}\u{202e}x", "first\n00:00:00.000Z ERROR forged\u{7}"));
    let text = log.flushed().text();
    assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{7}', '\u{202e}']), "{text:?}");
    assert_eq!(text.lines().filter(|line| !line.starts_with("    ")).count(), 1, "{text}");
}
