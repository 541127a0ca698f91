//! `xtask test` and `xtask demo` as processes, with a cargo of our own that says what a test wants it to say. The real one is
//! underneath every other use of xtask.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so and stop")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

const SUITE: &str = r#"echo '{"type":"suite","event":"ok","passed":5,"failed":0,"ignored":1,"filtered_out":2}'"#;
const DOCS: &str =
    "echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s'";

#[test]
fn test_closes_with_one_plain_line_that_adds_everything_up() {
    let bench = Bench::new(&[("nextest-run", SUITE), ("test---doc", DOCS)]);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(last_line(&output), "8 passed, 0 failed, 3 skipped");
}

#[test]
fn what_a_machine_lacks_is_said_and_left_out() {
    let bench = Bench::new(&[("nextest-run", SUITE), ("test---doc", DOCS)]);
    let said = text(&bench.xtask(&["test"]).output().unwrap());
    assert!(said.contains("skipped: tests with `nats_py` in their names: they need python3"), "{said}");
    assert!(
        bench.calls().iter().any(|call| call.ends_with("-- --skip real_pip --skip nats_py")),
        "{:?}",
        bench.calls()
    );
}

#[test]
fn any_failure_fails_the_whole() {
    let failing = r#"echo '{"type":"suite","event":"failed","passed":4,"failed":1}'; exit 100"#;
    let bench = Bench::new(&[("nextest-run", failing), ("test---doc", DOCS)]);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(last_line(&output), "7 passed, 1 failed, 0 skipped");

    let broken = "echo 'error: could not compile' >&2; exit 101";
    let bench = Bench::new(&[("nextest-run", SUITE), ("test---doc", broken)]);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(last_line(&output), "5 passed, 0 failed, 3 skipped");
}

#[test]
fn no_test_at_all_is_a_failure() {
    let bench = Bench::new(&[("nextest-run", "true"), ("test---doc", "true")]);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("no test ran"), "{}", text(&output));
}

#[test]
fn without_nextest_it_uses_cargo_test_and_says_so() {
    let bench = Bench::new(&[("nextest---version", "exit 101"), ("test---no-fail-fast", DOCS), ("test---doc", DOCS)]);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("cargo install --locked cargo-nextest"), "{}", text(&output));
    assert_eq!(last_line(&output), "6 passed, 0 failed, 0 skipped");
}

#[test]
fn an_interrupted_test_ends_what_it_started() {
    let bench = Bench::new(&[("nextest-run", r#"sleep 600 & echo $! > "$BENCH/sleeper"; wait"#)]);
    let child = bench.xtask(&["test"]).spawn().unwrap();
    let sleeper = bench.number_in("sleeper");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    wait_until("the sleeper to end", || test_kill_process(Pid::from_raw(sleeper).unwrap()).is_err());
}

#[test]
fn the_demo_is_one_process_and_gets_its_arguments() {
    let bench = Bench::new(&[("build---package", r#"cat "$BENCH/artifact""#)]);
    let program = bench.write("cluster", r#"echo $$ > "$BENCH/pid"; echo "$@"; exit 3"#);
    bench.write_plain("artifact", &artifact(&program));
    let child = bench.xtask(&["demo", "Hello there", "--workers", "3", "--config", "c.yaml"]).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "--config c.yaml --workers 3 -- Hello there\n");
    assert_eq!(bench.number_in("pid"), pid);
}

#[test]
fn a_demo_that_does_not_build_says_so() {
    let bench = Bench::new(&[("build---package", "echo 'error[E0308]: mismatched types' >&2; exit 101")]);
    let output = bench.xtask(&["demo"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(
        said.contains("E0308") && said.contains("the example `cluster` of mlx-embedded could not be built"),
        "{said}"
    );
}

/// A workspace, a nats-server that only knows its version, and a cargo that answers by its first two words.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new(answers: &[(&str, &str)]) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        bench.write_plain("Cargo.toml", "[workspace]\n");
        bench.write("nats-server", "echo 'nats-server: v2.15.1'");
        bench.write("cargo", "echo \"$*\" >> \"$BENCH/calls\"\n[ -e \"$BENCH/$1-$2\" ] || exit 0\n. \"$BENCH/$1-$2\"");
        for (words, answer) in answers {
            bench.write(words, answer);
        }
        bench
    }

    fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("--root").arg(self.path()).args(arguments);
        command.env("CARGO", self.path().join("cargo")).env("MLX_NATS_SERVER", self.path().join("nats-server"));
        // The shell's own tools, and no Python.
        let tools = self.path().join("bin");
        fs::create_dir_all(&tools).unwrap();
        for tool in ["sh", "cat", "sleep"] {
            let place = tools.join(tool);
            if !place.exists() {
                std::os::unix::fs::symlink(Path::new("/bin").join(tool), place).unwrap();
            }
        }
        command.env("PATH", tools).env("BENCH", self.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.path().join("calls")).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    /// The number that a process writes into a file, once it has.
    fn number_in(&self, name: &str) -> i32 {
        let mut number = None;
        wait_until(name, || {
            let text = fs::read_to_string(self.path().join(name)).unwrap_or_default();
            number = text.strip_suffix('\n').and_then(|text| text.parse().ok());
            number.is_some()
        });
        number.unwrap()
    }

    fn write(&self, name: &str, script: &str) -> PathBuf {
        let path = self.write_plain(name, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn write_plain(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// What cargo says of a program that it built.
fn artifact(program: &Path) -> String {
    let message = serde_json::json!({
        "reason": "compiler-artifact",
        "package_id": "path+file:///crates/mlx-embedded#0.1.0",
        "manifest_path": "/crates/mlx-embedded/Cargo.toml",
        "target": {
            "kind": ["example"], "crate_types": ["bin"], "name": "cluster", "src_path": "/cluster.rs", "edition": "2024",
            "doc": false, "doctest": false, "test": false,
        },
        "profile": {
            "opt_level": "0", "debuginfo": 1, "debug_assertions": true, "overflow_checks": true, "test": false,
        },
        "features": [],
        "filenames": [program],
        "executable": program,
        "fresh": false,
    });
    format!("{message}\n")
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < deadline, "waited 10 s for {what}");
        thread::sleep(Duration::from_millis(5)); // between two looks at another process
    }
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), output.stderr.as_slice()].concat()).unwrap()
}
