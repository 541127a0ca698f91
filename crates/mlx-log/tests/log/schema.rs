//! Every line holds to the shipped schema, whatever is logged.

use std::cell::Cell;
use std::error::Error as StdError;
use std::io;
use std::path::Path;

use crate::support::{Strict, TestLog};
use jsonschema::Validator;
use mlx_errors::{Error, ErrorKind, RemoteError};
use mlx_log::{LINE_SCHEMA, LogConfig, Setup};
use proptest::prelude::*;

/// Something to log; callsites are static, so what varies is what they are given.
#[derive(Clone, Debug)]
enum Step {
    Plain(u8, String),
    Integers(i64, u64),
    Wide(i128, u128),
    Float(f64),
    Odd(String, String),
    Shadow(String),
    Failure(String, String),
    Text(String),
    Within(String, Vec<Step>),
    Component(String, Vec<Step>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Any string, and ones made of what is likely to be mishandled.
    let text = || {
        prop_oneof![
            any::<String>(),
            "[\"\\\\{}:,\u{0}-\u{1f}\u{7f}-\u{9f}\u{2028}-\u{202e}@/]{0,12}",
            Just("nats://me:canary@host:4222".to_owned()),
            Just(String::new()),
        ]
    };
    let leaf = prop_oneof![
        (any::<u8>(), text()).prop_map(|(level, text)| Step::Plain(level, text)),
        (any::<i64>(), any::<u64>()).prop_map(|(a, b)| Step::Integers(a, b)),
        (any::<i128>(), any::<u128>()).prop_map(|(a, b)| Step::Wide(a, b)),
        any::<f64>().prop_map(Step::Float),
        (text(), text()).prop_map(|(a, b)| Step::Odd(a, b)),
        text().prop_map(Step::Shadow),
        (text(), text()).prop_map(|(a, b)| Step::Failure(a, b)),
        text().prop_map(Step::Text),
    ];
    let step = leaf.prop_recursive(3, 24, 5, move |inner| {
        let inner = proptest::collection::vec(inner, 0..5);
        prop_oneof![
            (text(), inner.clone()).prop_map(|(text, steps)| Step::Within(text, steps)),
            (text(), inner).prop_map(|(text, steps)| Step::Component(text, steps)),
        ]
    });
    proptest::collection::vec(step, 1..20)
}

fn log(step: &Step) -> usize {
    match step {
        Step::Plain(level, text) => match level % 5 {
            0 => tracing::error!("{text}"),
            1 => tracing::warn!(text, "{text} said"),
            2 => tracing::info!(?text, shown = %text),
            3 => tracing::debug!(password = text, api_token = %text, ok = true, "secret"),
            _ => tracing::trace!(target: "odd \"target\"::\u{1b}", none = Option::<u8>::None, text),
        },
        Step::Integers(a, b) => tracing::info!(a, b, bytes = &[1_u8, 2][..]),
        Step::Wide(a, b) => tracing::info!(a, b),
        Step::Float(a) => tracing::info!(a, negative = -a),
        Step::Odd(a, b) => tracing::info!("odd \"name\" \u{1b}" = a, r#type = b, component = b, "x"),
        Step::Shadow(text) => {
            tracing::info!(text, level = text, timestamp = text, context = text, field_level = text, a = 1, a = 2);
        }
        Step::Failure(a, b) => {
            let cause =
                Error::with_source(RemoteError::from_parts(a, Some(b.clone())).into(), io::Error::other(b.clone()));
            let error = Error::with_source(ErrorKind::Internal { reason: a.clone() }, cause);
            tracing::error!(error = &error as &dyn StdError, other = &error as &dyn StdError);
            tracing::warn!(error = %a, "{b}");
            return 2;
        }
        Step::Text(text) => tracing::warn!(error = text, message = 5),
        Step::Within(text, steps) => {
            let span = tracing::info_span!(
                "span", text, "odd \"name\" \u{1b}" = text, level = text, error = %text, message = text,
                late = tracing::field::Empty, secret = text
            );
            let _span = span.enter();
            span.record("late", text).record("late", 7).record("level", text);
            return steps.iter().map(log).sum();
        }
        Step::Component(text, steps) => {
            let _component = mlx_log::component(text).entered();
            return steps.iter().map(log).sum();
        }
    }
    1
}

fn check(validator: &Validator, line: &str) {
    let value: Strict = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    if let Err(error) = validator.validate(&value.0) {
        panic!("{error} at {} in {line}", error.instance_path());
    }
    assert!(!line.chars().any(char::is_control), "{line:?}");
    assert!(!line.contains("canary"), "X1: {line}");
}

#[test]
fn l1_thousands_of_events_hold_to_the_schema_with_unique_keys() {
    let validator = validator();
    let total = Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    runner
        .run(&steps(), |steps| {
            let log_under_test = TestLog::new(Setup::new(&LogConfig::default()).directives("trace"));
            let expected: usize = log_under_test.run(|| steps.iter().map(log).sum());
            let text = log_under_test.flushed().text();
            let mut lines = 0;
            for line in text.split_terminator('\n') {
                check(&validator, line);
                lines += 1;
            }
            assert_eq!(lines, expected, "a line for each event, and an event for each line");
            total.set(total.get() + lines);
            Ok(())
        })
        .unwrap();
    assert!(total.get() > 3_000, "only {} events were generated", total.get());
}

#[test]
fn l1_the_schema_refuses_what_is_not_a_line() {
    let validator = validator();
    let line =
        r#"{"timestamp":"2026-11-23T12:25:26.123456Z","level":"info","component":"c","message":"m","context":{}}"#;
    check(&validator, line);
    for (part, instead) in [
        ("\"level\":\"info\"", "\"level\":\"INFO\""),
        ("12:25:26.123456Z", "12:25:26+01:00"),
        ("\"context\":{}", "\"context\":{\"a\":null}"),
        ("\"context\":{}", "\"context\":{\"level\":1}"),
        ("\"context\":{}", "\"context\":{},\"more\":1"),
        ("\"context\":{}", "\"context\":{},\"error\":{\"name\":\"E\",\"message\":\"m\"}"),
        ("\"component\":\"c\",", ""),
    ] {
        let broken: serde_json::Value = serde_json::from_str(&line.replace(part, instead)).unwrap();
        assert!(!validator.is_valid(&broken), "{broken}");
    }
    assert!(serde_json::from_str::<Strict>(r#"{"a":1,"b":{"c":1,"c":2}}"#).is_err(), "the test sees repeated keys");
}

#[test]
fn the_schema_ships_as_the_constant_and_as_the_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/log-line.schema.json");
    assert_eq!(std::fs::read_to_string(file).unwrap(), LINE_SCHEMA);
    let schema: serde_json::Value = serde_json::from_str(LINE_SCHEMA).unwrap();
    jsonschema::meta::validate(&schema).expect("the schema is one");
}

fn validator() -> Validator {
    jsonschema::validator_for(&serde_json::from_str(LINE_SCHEMA).unwrap()).unwrap()
}
