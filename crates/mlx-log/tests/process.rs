//! The log of a whole process: what `init` installs, and the last line before the end.
//!
//! Each test runs this program again as a child that logs, and reads what it left behind. Hence no libtest: a child
//! must be free to panic, exit and abort from its own `main`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Duration;
use std::{env, fmt, fs, mem, process, thread};

use jsonschema::Validator;
use libtest_mimic::{Arguments, Failed, Trial};
use mlx_log::{LINE_SCHEMA, Level, LogConfig};
use serde_json::Value;

const ROLE: &str = "MLX_LOG_TEST_ROLE";
const FILE: &str = "MLX_LOG_TEST_FILE";

fn main() -> ExitCode {
    if let Ok(role) = env::var(ROLE) {
        return child(&role, env::var_os(FILE).map(PathBuf::from));
    }
    let tests: [(&str, fn()); 10] = [
        ("l4_the_last_line_before_a_panic_is_in_the_file", panics),
        ("l4_the_last_line_before_an_abort_is_in_the_file", aborts),
        ("l4_the_last_line_before_the_end_of_main_is_in_the_file", returns),
        ("l4_the_last_line_before_an_exit_is_in_the_file", exits),
        ("l4_no_directive_silences_a_panic", panics_when_silenced),
        ("l1_standard_error_holds_strict_lines_only_even_in_a_panic", panics_on_standard_error),
        ("a_panic_carries_its_backtrace_when_asked_for", panics_with_a_backtrace),
        ("a_value_that_logs_while_it_is_shown_gets_a_line_of_its_own", logs_within_a_log),
        ("a_second_log_in_one_process_is_an_error", starts_twice),
        ("mlx_log_in_the_environment_wins_over_the_level", reads_the_environment),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

/// What the children do.
fn child(role: &str, file: Option<PathBuf>) -> ExitCode {
    let config = LogConfig::default().file(file);
    let guard = mlx_log::init(&config).expect("a log");
    let _component = mlx_log::component("child").entered();
    tracing::info!("first");
    match role {
        "panic" => {
            // Nothing but the panic hook is left to write the line.
            mem::forget(guard);
            let _span = tracing::info_span!("request", request = 7).entered();
            panic!("out of {}", "tokens");
        }
        "abort" => {
            struct PanicsAgain;
            impl Drop for PanicsAgain {
                fn drop(&mut self) {
                    panic!("the second panic");
                }
            }
            mem::forget(guard);
            let _again = PanicsAgain;
            panic!("the first panic");
        }
        "odd-panic" => {
            let panicked = thread::Builder::new().name("odd".into()).spawn(|| std::panic::panic_any(7)).unwrap().join();
            assert!(panicked.is_err());
        }
        "return" => {
            for index in 0..10_000 {
                tracing::info!(index, "a line");
            }
        }
        "exit" => {
            tracing::info!("last");
            guard.handle().flush(Duration::from_secs(10)).expect("a flush");
            process::exit(3);
        }
        "nested" => {
            struct Chatty;
            impl fmt::Display for Chatty {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    tracing::info!(inner = true, "inner");
                    f.write_str("shown")
                }
            }
            let span = tracing::info_span!("span", around = %Chatty, late = tracing::field::Empty);
            span.record("late", tracing::field::display(Chatty));
            let _span = span.entered();
            tracing::info!(outer = %Chatty, "outer {Chatty}");
        }
        "twice" => {
            let error = mlx_log::init(&LogConfig::default()).expect_err("the second log");
            tracing::info!("{}", mlx_errors::report(&error));
        }
        "levels" => {
            tracing::debug!("shown by MLX_LOG");
            guard.handle().set_level(Level::Error);
            tracing::warn!("not shown");
        }
        other => panic!("no such role: {other}"),
    }
    ExitCode::SUCCESS
}

fn panics() {
    let (lines, output) = run("panic", &[]);
    assert_eq!(output.status.code(), Some(101));
    let last = lines.last().unwrap();
    assert_eq!((last["level"].as_str(), last["component"].as_str()), (Some("error"), Some("child")));
    assert_eq!(last["message"], "a thread panicked: out of tokens");
    assert_eq!(last["error"]["name"], "Panic");
    assert_eq!(last["context"]["thread"], "main");
    assert_eq!(last["context"]["request"], 7);
    assert!(last["context"]["location"].as_str().unwrap().contains("process.rs:"), "{last}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("out of tokens"),
        "with the log in a file, the person at the terminal is told too: {stderr}"
    );
}

fn aborts() {
    let (lines, output) = run("abort", &[]);
    assert!(output.status.code().is_none(), "killed by a signal: {:?}", output.status);
    let messages: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages[..3], ["first", "a thread panicked: the first panic", "a thread panicked: the second panic"]);
}

fn returns() {
    let (lines, output) = run("return", &[]);
    assert!(output.status.success());
    assert_eq!(lines.len(), 10_001);
    assert_eq!(lines.last().unwrap()["context"]["index"], 9_999);
}

fn exits() {
    let (lines, output) = run("exit", &[]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(lines.last().unwrap()["message"], "last");
}

fn panics_on_standard_error() {
    for role in ["panic", "odd-panic"] {
        let output = spawn(role, None, &[]);
        let lines = strict(&String::from_utf8(output.stderr).unwrap());
        assert_eq!(lines.last().unwrap()["error"]["name"], "Panic", "{lines:#?}");
        assert!(lines.last().unwrap()["context"].get("backtrace").is_none(), "{lines:#?}");
    }
}

fn panics_when_silenced() {
    for directives in ["off", "off,mlx_nats=debug", "panic=off"] {
        let output = spawn("panic", None, &[("MLX_LOG", directives)]);
        let lines = strict(&String::from_utf8(output.stderr).unwrap());
        let last = lines.last().unwrap_or_else(|| panic!("MLX_LOG={directives} loses the panic"));
        assert_eq!(last["message"], "a thread panicked: out of tokens", "MLX_LOG={directives}");
        assert_eq!(last["component"], "child", "MLX_LOG={directives}");
    }
}

fn panics_with_a_backtrace() {
    let (lines, _) = run("panic", &[("RUST_BACKTRACE", "1")]);
    let backtrace = lines.last().unwrap()["context"]["backtrace"].as_str().unwrap().to_owned();
    assert!(backtrace.contains("process"), "{backtrace}");
}

fn logs_within_a_log() {
    let (lines, _) = run("nested", &[]);
    let outer: Vec<&Value> = lines.iter().filter(|line| line["message"] == "outer shown").collect();
    assert_eq!(outer.len(), 1, "{lines:#?}");
    assert_eq!(outer[0]["context"], serde_json::json!({ "outer": "shown", "around": "shown", "late": "shown" }));
    assert_eq!(lines.iter().filter(|line| line["message"] == "inner").count(), 4, "{lines:#?}");
}

fn starts_twice() {
    let (lines, _) = run("twice", &[]);
    let message = lines.last().unwrap()["message"].as_str().unwrap();
    assert!(message.contains("call `mlx_log::init` once"), "{message}");
}

fn reads_the_environment() {
    let (lines, _) = run("levels", &[("MLX_LOG", "warn,process=debug")]);
    let messages: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["first", "shown by MLX_LOG", "not shown"], "a directive for a target outlives a new level");

    let output = spawn("levels", None, &[("MLX_LOG", "loudly")]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("`loudly` is not a log directive"), "{stderr}");
}

/// Runs a child that logs to a file: its lines, and what else came of it.
fn run(role: &str, variables: &[(&str, &str)]) -> (Vec<Value>, Output) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mlx.log");
    let output = spawn(role, Some(&file), variables);
    let lines = strict(&fs::read_to_string(&file).unwrap());
    assert_eq!(lines.first().unwrap()["message"], "first");
    (lines, output)
}

fn spawn(role: &str, file: Option<&Path>, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(ROLE, role).env_remove("MLX_LOG").env_remove("RUST_BACKTRACE").env_remove(FILE);
    if let Some(file) = file {
        command.env(FILE, file);
    }
    command.envs(variables.iter().copied()).output().unwrap()
}

fn strict(text: &str) -> Vec<Value> {
    let schema: Validator = jsonschema::validator_for(&serde_json::from_str(LINE_SCHEMA).unwrap()).unwrap();
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    for line in &lines {
        assert!(schema.is_valid(line), "{line}");
    }
    lines
}
