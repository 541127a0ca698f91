//! `.ci/run` on machines that lack something: what it starts are scripts that say what a test wants them to say, and nothing
//! is done as root.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so and stop")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use support::{Bench, text, wait_until};

const ADVICE: &str = "where Docker cannot run, `CI=false .ci/run` leaves out what needs it";

/// Notes what would be done as root, and does only what stays in the folders of the test.
const SUDO: &str = r#"
shift
echo "$*" >> "$BENCH/as-root"
case "$1 $2" in
    "dockerd "*) exec "$@" ;;
    "kill "* | "cat "* | "rm -rf") "$@" ;;
    "tee "*) cat > /dev/null ;;
    "ip "* | "iptables "*) [ ! -e "$BENCH/no-network" ] ;;
    "env "* | "apt-get "*) [ ! -e "$BENCH/no-packages" ] ;;
esac
"#;

/// Answers for the daemon below, and for none that was there before.
const DOCKER: &str = r#"[ -e "$BENCH/dockerd" ] && [ -e "${DOCKER_HOST#unix://}.ready" ]"#;

const DOCKERD: &str = r#"echo $$ > "$BENCH/dockerd"; : > "${2#unix://}.ready"; exec sleep 600"#;

#[test]
fn without_apt_get_it_goes_on_and_says_what_is_missing() {
    let machine = machine(&[]);
    let output = run(&machine, "false");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(machine.calls(), ["xtask lint", "xtask test", "llvm-cov --version", "xtask test --coverage"]);
    for package in ["curl", "chromium"] {
        let said = format!("{package} could not be installed: the tests that need it are skipped");
        assert!(text(&output).contains(&said), "{}", text(&output));
    }
}

#[test]
fn where_everything_is_to_run_a_package_that_is_to_be_had_has_to_come() {
    let refused = machine(&[("apt-get", ""), ("apt-cache", "exit 0")]);
    refused.write_plain("no-packages", "");
    let output = run(&refused, "true");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("curl could not be installed\n") && !called(&refused), "{}", text(&output));
    assert_eq!(run(&refused, "false").status.code(), Some(0));

    let unknown = machine(&[("apt-get", ""), ("apt-cache", "exit 100"), ("docker", "")]);
    unknown.write_plain("no-packages", "");
    let output = run(&unknown, "true");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn where_the_network_is_not_ours_to_change_it_says_how_to_do_without_docker() {
    let machine = machine(&[("docker", DOCKER), ("dockerd", DOCKERD), ("ip", ""), ("iptables", "")]);
    machine.write_plain("no-network", "");
    let output = run(&machine, "true");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains(ADVICE) && !called(&machine), "{}", text(&output));
    assert!(!machine.path().join("dockerd").exists());
}

#[test]
fn a_daemon_that_is_slow_to_answer_keeps_its_socket() {
    let machine = machine(&[("docker", DOCKER), ("dockerd", DOCKERD), ("ip", ""), ("iptables", "")]);
    let socket = machine.write_plain("their.sock", "");
    let mut command = command(&machine, "true");
    let output = command.env("DOCKER_HOST", format!("unix://{}", socket.display())).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(machine.calls(), ["xtask lint", "xtask test", "llvm-cov --version", "xtask test --coverage"]);
    assert!(socket.exists());
    let host = machine.told("DOCKER_HOST").unwrap();
    assert!(host.starts_with("unix:///tmp/mlx-ci-docker-"), "{host}");
    // It is gone with all that it had.
    let daemon = rustix::process::Pid::from_raw(machine.number_in("dockerd")).unwrap();
    wait_until("the daemon to end", || rustix::process::test_kill_process(daemon).is_err());
    assert!(!Path::new(host.strip_prefix("unix://").unwrap()).parent().unwrap().exists());
}

#[test]
fn the_docker_command_is_installed_from_the_package_that_has_it() {
    for (known, installed) in [("exit 0", "docker.io iproute2 docker-cli"), ("exit 100", "docker.io iproute2")] {
        let machine = machine(&[("apt-get", ""), ("apt-cache", known), ("curl", ""), ("chromium", "")]);
        let output = run(&machine, "true");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(ADVICE), "{}", text(&output));
        let done = fs::read_to_string(machine.path().join("as-root")).unwrap();
        assert!(done.lines().any(|line| line.ends_with(&format!("--no-install-recommends {installed}"))), "{done}");
    }
}

/// A machine with a copy of `.ci`, with what the scripts need to run at all, and with these programs.
fn machine(programs: &[(&str, &str)]) -> Bench {
    let bench = Bench::new(&[("xtask-test", r#"env > "$BENCH/told""#)]);
    for folder in ["bin", ".ci"] {
        fs::create_dir_all(bench.path().join(folder)).unwrap();
    }
    let ci = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci");
    for file in ["run", "docker.sh"] {
        fs::copy(ci.join(file), bench.path().join(".ci").join(file)).unwrap();
    }
    for tool in
        ["awk", "bash", "cat", "dirname", "env", "mktemp", "rm", "sed", "sh", "sleep", "sort", "tail", "tee", "timeout"]
    {
        let folders = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(tool));
        if let Some(found) = folders.iter().find(|path| path.exists()) {
            symlink(found, bench.path().join("bin").join(tool)).unwrap();
        }
    }
    let everywhere = [("cc", ""), ("python3", ""), ("uname", "echo Linux"), ("id", "echo 1000"), ("sudo", SUDO)];
    for (name, script) in everywhere.iter().chain(programs) {
        bench.write(&format!("bin/{name}"), script);
    }
    symlink("../cargo", bench.path().join("bin/cargo")).unwrap();
    bench
}

fn run(machine: &Bench, ci: &str) -> Output {
    command(machine, ci).output().unwrap()
}

fn command(machine: &Bench, ci: &str) -> std::process::Command {
    let mut command = std::process::Command::new(machine.path().join(".ci/run"));
    command.env_clear().env("PATH", machine.path().join("bin")).env("BENCH", machine.path()).env("CI", ci);
    command.current_dir(machine.path());
    command
}

/// Whether it came to what it is there for.
fn called(machine: &Bench) -> bool {
    machine.path().join("calls").exists()
}
