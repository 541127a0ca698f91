//! The table of codes, and what every kind of error says of itself.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use crate::samples::samples;
use mlx_errors::{Error, ErrorCode, ErrorKind, RemoteError, report};
use serde_json::{Value, json};

/// The codes released so far. A line of it is never changed; a new code is a new line.
const GOLDEN: &str = include_str!("golden/codes.txt");

#[test]
fn e1_the_table_of_codes_is_the_golden_one() {
    let mut table = String::new();
    for code in ErrorCode::ALL {
        writeln!(table, "{code:<28} {}", if code.is_retryable() { "retryable" } else { "final" }).unwrap();
    }
    assert_eq!(table, GOLDEN, "codes are stable: a new one is a new line in tests/golden/codes.txt, nothing else");
}

#[test]
fn e1_every_code_has_the_http_status_of_an_error() {
    for code in ErrorCode::ALL {
        assert!((400..=504).contains(&code.http_status()), "{code}");
        // What may succeed when it is made again is not the fault of who made it.
        assert!(!code.is_retryable() || matches!(code.http_status(), 429 | 503 | 504), "{code}");
    }
}

#[test]
fn e1_the_six_codes_of_existing_users_stay() {
    for text in [
        "NATS_CONNECTION_ERROR",
        "NATS_TIMEOUT_ERROR",
        "NATS_PUBLISH_ERROR",
        "NATS_SUBSCRIPTION_ERROR",
        "CONFIG_VALIDATION_ERROR",
        "EMBEDDED_SERVER_ERROR",
    ] {
        assert_eq!(text.parse::<ErrorCode>().unwrap().as_str(), text);
    }
}

#[test]
fn e1_the_docs_are_rendered_from_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let expected = docs();
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found != expected {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, expected).unwrap();
        panic!("docs/errors.md was stale and has been written anew: look at the change and commit it");
    }
}

#[test]
fn e1_every_code_has_a_kind_and_every_kind_a_code() {
    let codes: Vec<ErrorCode> = samples().iter().map(ErrorKind::code).collect();
    assert_eq!(codes, ErrorCode::ALL, "each code has one sample, in the order of the table");
    let names: BTreeSet<&str> = samples().iter().map(ErrorKind::name).collect();
    assert_eq!(names.len(), ErrorCode::ALL.len());
}

#[test]
fn e1_codes_read_back_as_text_and_as_json() {
    for &code in ErrorCode::ALL {
        let json = serde_json::to_string(&code).unwrap();
        assert_eq!(json, format!("\"{code}\""));
        assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
        assert_eq!(serde_json::from_value::<ErrorCode>(json!(code.as_str())).unwrap(), code);
        assert_eq!(ErrorCode::try_from(<&str>::from(code)).unwrap(), code);
        assert!(code.as_str().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{code}");
    }
    let unknown = "GPU_\u{1b}HOT".parse::<ErrorCode>().unwrap_err();
    assert_eq!(unknown.to_string(), "unknown error code `GPU_\\u{1b}HOT`");
    assert!(serde_json::from_str::<ErrorCode>("\"NOPE\"").is_err());
}

#[test]
fn e1_every_kind_says_its_fields_and_keeps_its_cause() {
    for kind in samples() {
        let code = kind.code();
        let error = Error::with_source(kind.clone(), io::Error::other("the cause below"));

        let message = error.to_string();
        assert!(!message.is_empty() && !message.ends_with('.'), "{code}: {message}");
        assert_eq!(message, kind.to_string());
        assert!(!message.contains("the cause below"), "E2: {code} repeats its source: {message}");
        assert_eq!(error.source().unwrap().to_string(), "the cause below");
        assert_eq!((error.code(), error.kind(), error.is_retryable()), (code, &kind, kind.is_retryable()));
        assert!(format!("{error:?}").contains(code.as_str()));

        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json["code"], code.as_str());
        assert_eq!(json["name"], kind.name());
        assert_eq!(json["message"], message.as_str());
        assert_eq!(json["retryable"], kind.is_retryable());
        assert_eq!(json["sources"], json!(["the cause below"]));
        for (name, value) in json["fields"].as_object().unwrap() {
            assert!(!name.contains('_'), "{code}: {name}");
            assert!(!value.is_null() || name == "exit", "{code}: {name}");
        }
        assert_eq!(error.into_kind(), kind);
        assert!(Error::from(kind).source().is_none());
    }
}

#[test]
fn e1_fields_are_structured() {
    let fields = |name: &str| {
        let kind = samples().into_iter().find(|kind| kind.name() == name).unwrap();
        serde_json::to_value(Error::from(kind)).unwrap()["fields"].take()
    };
    assert_eq!(fields("Connection")["step"], "connect");
    assert_eq!(fields("Timeout"), json!({ "subject": "model.load", "timeoutMs": 5000 }));
    assert_eq!(fields("PayloadTooLarge"), json!({ "subject": "model.load", "size": 9_000_000, "limit": 8_388_608 }));
    assert_eq!(fields("Remote"), json!({ "error": "no such model", "code": "MODEL_NOT_FOUND" }));
    assert_eq!(
        fields("ConfigValidation")["violations"],
        json!([{
            "path": "nats.embedded.port", "rule": "range", "message": "is not a port", "found": "99",
            "expected": "1024 to 65535", "suggestion": "0 picks a free port",
            "location": { "file": "cluster.yaml", "line": 3, "column": 11 },
        }])
    );
    assert_eq!(
        fields("ServerNotFound")["tried"],
        json!([{ "path": "target/tools/nats-server", "problem": "not found" }])
    );
    assert_eq!(fields("ServerStart")["lastLines"].as_array().unwrap().len(), 1);
}

#[test]
fn e1_every_kind_goes_over_the_wire_and_back_without_its_internals() {
    for kind in samples() {
        let error = Error::with_source(kind.clone(), io::Error::other("the cause below"));
        let wire = serde_json::to_string(&error.to_remote()).unwrap();
        for internal in
            ["the cause below", "nats://", "/usr/bin", "target/tools", "mlx.log", "cluster.yaml", "[FTL]", "panicked"]
        {
            assert!(!wire.contains(internal), "{wire}");
        }
        let members: BTreeSet<String> =
            serde_json::from_str::<Value>(&wire).unwrap().as_object().unwrap().keys().cloned().collect();
        // Only an application says for itself whether asking again may help.
        let is_own = matches!(kind, ErrorKind::Application(_));
        let expected: &[&str] = if is_own { &["code", "error", "retryable"] } else { &["code", "error"] };
        assert_eq!(members.into_iter().collect::<Vec<_>>(), expected);

        let back = Error::from(serde_json::from_str::<RemoteError>(&wire).unwrap());
        assert_eq!(back.code(), if is_own { ErrorCode::Remote } else { kind.code() }, "the peer sees the same code");
        assert_eq!(RemoteError::from(&back), error.to_remote(), "an error passed on keeps its words");
        if !matches!(kind, ErrorKind::WorkerLost { .. }) {
            assert_eq!(back.is_retryable(), kind.is_retryable(), "{wire}");
        }
    }
}

#[test]
fn e2_no_chain_says_a_cause_twice() {
    for kind in samples() {
        // As other crates do it: each layer repeats the one below.
        let io = io::Error::other("connection refused");
        let middle = Repeats { message: format!("dialling failed: {io}"), source: Some(Box::new(io)) };
        let outer = Repeats { message: middle.to_string(), source: Some(Box::new(middle)) };
        let error = Error::with_source(kind, outer);
        for text in [report(&error).to_string(), format!("{:#}", report(&error)), format!("{:?}", report(&error))] {
            assert_eq!(text.matches("connection refused").count(), 1, "{text}");
            assert_eq!(text.matches("dialling failed").count(), 1, "{text}");
        }
    }
}

#[test]
fn e3_retrying_follows_the_fields_where_they_know_better() {
    let lost = |tokens| ErrorKind::WorkerLost { worker: "w".into(), tokens };
    assert!(lost(0).is_retryable() && !lost(1).is_retryable());
    assert!(lost(0).to_string().contains("may be retried") && lost(1).to_string().contains("not retried"));
    let sent = |code: &str| RemoteError::from_parts("m", Some(code.into())).is_retryable();
    for code in ["WORKER_TIMEOUT", "WORKER_UNAVAILABLE", "WORKER_OVERLOADED", "OVERLOADED"] {
        assert!(sent(code), "{code}");
    }
    for code in ["REMOTE_ERROR", "MODEL_NOT_FOUND", "", "DEADLINE_EXCEEDED"] {
        assert!(!sent(code), "{code}");
    }
}

/// An error that repeats its source, as many do.
#[derive(Debug)]
struct Repeats {
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl std::fmt::Display for Repeats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Repeats {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

fn docs() -> String {
    let mut text = String::from(
        "# Errors\n\n\
        <!-- Rendered from the table in mlx-errors by its tests; they rewrite this file when it is stale. -->\n\n\
        Every error has a stable code. Programs match on it, log lines carry it in `error.code`, and a peer \
        is sent it together with a public message. A code's text never changes; new codes may be added.\n\n\
        **Retry** says whether making the same call again, unchanged, may succeed. Three errors know better than \
        their code: `WORKER_LOST` and `STREAM_DISCONNECTED` are not retried once a token has come, and an error that a peer \
        sent under a code of its own is retried for `WORKER_TIMEOUT`, `WORKER_UNAVAILABLE` and `WORKER_OVERLOADED`.\n\n\
        **Status** is the HTTP status that says the same: what a gateway answers with, and what `nats micro` shows of a service.\n\n\
        | code | retry | status | meaning |\n|---|---|---|---|\n",
    );
    for code in ErrorCode::ALL {
        let anchor = code.as_str().to_lowercase();
        let retry = if code.is_retryable() { "yes" } else { "no" };
        writeln!(text, "| [`{code}`](#{anchor}) | {retry} | {} | {} |", code.http_status(), code.description())
            .unwrap();
    }
    for kind in samples() {
        let code = kind.code();
        let fields = serde_json::to_value(&kind).unwrap();
        // Sorted: whether serde_json keeps their order is up to whoever else is built.
        let fields: BTreeSet<String> = fields.as_object().unwrap().keys().map(|name| format!("`{name}`")).collect();
        let fields: Vec<String> = fields.into_iter().collect();
        write!(
            text,
            "\n## {code}\n\n{}\n\n- What to do: {}\n- Fields: {}\n- For example:\n\n  ```text\n  {}\n  ```\n",
            code.description(),
            code.remedy(),
            fields.join(", "),
            kind.to_string().replace('\n', "\n  "),
        )
        .unwrap();
    }
    text
}
