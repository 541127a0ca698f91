//! A machine for xtask to run on: what it starts are scripts that say what a test wants them to say.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Of 8 tests, 5 that pass.
pub(crate) const SUITE: &str =
    r#"echo '{"type":"suite","event":"ok","passed":5,"failed":0,"ignored":1,"filtered_out":2}'"#;

/// Three examples in the documentation.
pub(crate) const DOCS: &str =
    "echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s'";

/// A Docker with nothing in it but what tests write into `left.RUN`, one line a container.
pub(crate) const DOCKER: &str = r#"
for last; do :; done
case "$1 $2" in
    version*) echo 28.0.0 ;;
    context*) echo unix:///var/run/docker.sock ;;
    ps*) [ ! -e "$BENCH/left.${last##*=}" ] || cat "$BENCH/left.${last##*=}" ;;
    rm*) rm -f "$BENCH"/left.* ;;
esac
"#;

/// A workspace, a nats-server that only knows its version, and a cargo that answers by its first two words.
pub(crate) struct Bench {
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new(answers: &[(&str, &str)]) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        bench.write_plain("Cargo.toml", "[workspace]\n");
        bench.has_test_targets(&["streams", "containers", "cluster_network", "soak"]);
        bench.write("metadata---format-version", "cat \"$BENCH/metadata\"");
        bench.write("test---doc", DOCS);
        bench.write("nextest-list", r#"echo '{"test-count":8}'"#);
        bench.write("nats-server", "echo 'nats-server: v2.15.1'");
        bench.write("cargo", "echo \"$*\" >> \"$BENCH/calls\"\n[ -e \"$BENCH/$1-$2\" ] || exit 0\n. \"$BENCH/$1-$2\"");
        for (words, answer) in answers {
            bench.write(words, answer);
        }
        bench
    }

    pub(crate) fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("--root").arg(self.path()).args(arguments);
        command.env("CARGO", self.path().join("cargo")).env("MLX_NATS_SERVER", self.path().join("nats-server"));
        // The shell's own tools, and no Python.
        let tools = self.path().join("bin");
        fs::create_dir_all(&tools).unwrap();
        for tool in ["sh", "cat", "env", "rm", "sleep"] {
            let place = tools.join(tool);
            if !place.exists() {
                std::os::unix::fs::symlink(Path::new("/bin").join(tool), place).unwrap();
            }
        }
        command
            .env("PATH", tools)
            .env("BENCH", self.path())
            .env("MLX_TEST_OLD_NATS_SERVER", self.path().join("nats-server"));
        for variable in ["CI", "DOCKER_HOST"] {
            command.env_remove(variable);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What `cargo metadata` says that the package with the tests over several crates has.
    pub(crate) fn has_test_targets(&self, names: &[&str]) {
        let target = |name: &&str| {
            serde_json::json!({
                "kind": ["test"], "crate_types": ["bin"], "name": name, "src_path": format!("/{name}.rs"), "edition": "2024",
                "doc": false, "doctest": false, "test": true,
            })
        };
        let id = "path+file:///tests#mlx-tests@0.1.0";
        let package = serde_json::json!({
            "name": "mlx-tests", "version": "0.1.0", "id": id, "dependencies": [], "features": {}, "edition": "2024",
            "targets": names.iter().map(target).collect::<Vec<_>>(), "manifest_path": "/tests/Cargo.toml",
        });
        let metadata = serde_json::json!({
            "packages": [package], "workspace_members": [id], "resolve": null, "target_directory": "/target", "version": 1,
            "workspace_root": "/",
        });
        self.write_plain("metadata", &metadata.to_string());
    }

    /// Puts a `docker` into `PATH` whose containers are the lines of `left.RUN`.
    pub(crate) fn with_docker(self, script: &str) -> Self {
        fs::create_dir_all(self.path().join("bin")).unwrap();
        self.write("bin/docker", script);
        self
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.path().join("calls")).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    /// What the tests of the last run found in this variable.
    pub(crate) fn told(&self, variable: &str) -> Option<String> {
        let told = fs::read_to_string(self.path().join("told")).unwrap();
        let value = told.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
        value.map(ToOwned::to_owned)
    }

    /// How many runs have containers in Docker.
    pub(crate) fn left(&self) -> usize {
        let entries = fs::read_dir(self.path()).unwrap().map(Result::unwrap);
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("left.")).count()
    }

    /// The number that a process writes into a file, once it has.
    pub(crate) fn number_in(&self, name: &str) -> i32 {
        let mut number = None;
        wait_until(name, || {
            let text = fs::read_to_string(self.path().join(name)).unwrap_or_default();
            number = text.strip_suffix('\n').and_then(|text| text.parse().ok());
            number.is_some()
        });
        number.unwrap()
    }

    pub(crate) fn write(&self, name: &str, script: &str) -> PathBuf {
        let path = self.write_plain(name, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn write_plain(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// What cargo says of a program that it built.
pub(crate) fn artifact(name: &str, program: &Path) -> String {
    let message = serde_json::json!({
        "reason": "compiler-artifact",
        "package_id": "path+file:///crates/mlx-embedded#0.1.0",
        "manifest_path": "/crates/mlx-embedded/Cargo.toml",
        "target": {
            "kind": ["example"], "crate_types": ["bin"], "name": name, "src_path": "/cluster.rs", "edition": "2024",
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

pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < deadline, "waited 10 s for {what}");
        thread::sleep(Duration::from_millis(5)); // between two looks at another process
    }
}

pub(crate) fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), output.stderr.as_slice()].concat()).unwrap()
}
