//! `xtask lint` on a copy of the workspace's manifests, as a person would meet it.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so and stop")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use support::{Bench, text, wait_until};

#[test]
fn the_workspace_keeps_its_layers_and_inherits_what_it_should() {
    let (code, output) = lint(&workspace(), &["layers", "manifests", "package", "length"]);
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("lint: clean"), "{output}");
}

#[test]
fn types_on_nats_is_refused_by_name() {
    for (section, said) in [
        ("dependencies", "`mlx-types` (layer 3) must not depend on `mlx-nats` (layer 5)\n"),
        ("dev-dependencies", "`mlx-types` (layer 3) must not depend on `mlx-nats` (layer 5), in [dev-dependencies]\n"),
    ] {
        let copy = manifests();
        add(&copy, "crates/mlx-types", section, "mlx-nats.workspace = true");
        let (code, output) = lint(copy.path(), &["layers"]);
        assert_eq!(code, 1, "{section}: {output}");
        assert!(output.contains(said), "{section}: {output}");
        assert!(output.contains("lint: 1 of 1 steps failed"), "{section}: {output}");
    }
}

#[test]
fn a_dependency_that_is_not_the_workspaces_is_refused_by_name() {
    let copy = manifests();
    add(&copy, "crates/mlx-log", "dev-dependencies", "serde_json = \"1\"");
    let (code, output) = lint(copy.path(), &["manifests"]);
    assert_eq!(code, 1, "{output}");
    let said = "crates/mlx-log/Cargo.toml: `serde_json` in [dev-dependencies] is not inherited";
    assert!(output.contains(said), "{output}");
}

#[test]
fn a_file_over_the_limit_is_refused_until_it_says_why() {
    let copy = manifests();
    let file = copy.path().join("crates/mlx-log/src/lib.rs");
    let body = "//! x\n".repeat(601);
    fs::write(&file, &body).unwrap();
    let (code, output) = lint(copy.path(), &["length"]);
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("crates/mlx-log/src/lib.rs has 601 lines"), "{output}");

    fs::write(&file, format!("// long file: one table that reads best in one piece\n{body}")).unwrap();
    let (code, output) = lint(copy.path(), &["length"]);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn a_package_without_a_file_that_its_source_includes_is_refused_by_name() {
    let copy = manifests();
    let crates = fs::read_dir(copy.path().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    for member in crates {
        for file in ["LICENSE", "README.md"] {
            fs::write(member.join(file), "").unwrap();
        }
        fs::create_dir_all(member.join("schemas")).unwrap();
    }
    let (log, schema) = (copy.path().join("crates/mlx-log"), "schemas/log-line.schema.json");
    fs::write(log.join("src/lib.rs"), format!("const SCHEMA: &str = include_str!(\"../{schema}\");")).unwrap();
    fs::write(log.join(schema), "{}").unwrap();
    let (code, output) = lint(copy.path(), &["package"]);
    assert_eq!(code, 0, "{output}");

    let manifest = fs::read_to_string(log.join("Cargo.toml")).unwrap();
    fs::write(log.join("Cargo.toml"), manifest.replace(r#""/schemas", "#, "")).unwrap();
    let (code, output) = lint(copy.path(), &["package"]);
    assert_eq!(code, 1, "{output}");
    let said = format!("mlx-log: src/lib.rs includes `{schema}`, which is not in the package");
    assert!(output.contains(&said), "{output}");

    fs::remove_file(log.join("README.md")).unwrap();
    let (code, output) = lint(copy.path(), &["package"]);
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("README.md"), "{output}");
}

#[test]
fn an_unknown_step_is_a_usage_error_that_names_the_steps() {
    let (code, output) = lint(&workspace(), &["layer"]);
    assert_eq!(code, 2, "{output}");
    let steps = "layers, floors, manifests, package, length, links, spelling, schema, fmt, clippy, features, doc, site, api, deny, \
                 advisories";
    assert!(output.contains(steps), "{output}");
}

#[test]
fn an_interruption_ends_the_step_under_way_and_begins_no_other() {
    let sleeper = r#"sleep 600 & echo $! > "$BENCH/sleeper"; wait"#;
    let steps = [("fmt", "fmt---all"), ("clippy", "clippy---workspace"), ("package", "package---no-verify")];
    for (signal, (step, words)) in [Signal::INT, Signal::TERM, Signal::INT].into_iter().zip(steps) {
        let bench = Bench::new(&[(words, sleeper)]);
        let child = bench.xtask(&["lint", "--only", step, "--only", "doc"]).spawn().unwrap();
        let sleeper = bench.number_in("sleeper");
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{step}: {}", text(&output));
        wait_until("the sleeper to end", || test_kill_process(Pid::from_raw(sleeper).unwrap()).is_err());
        assert!(!bench.calls().iter().any(|call| call.starts_with("doc")), "{step}: {:?}", bench.calls());
    }
}

/// Runs steps on a folder: the exit code, and what was printed.
fn lint(root: &Path, steps: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("lint").arg("--root").arg(root);
    for step in steps {
        command.args(["--only", step]);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// A folder with the manifests of the workspace, and a source file for each so that cargo reads them.
fn manifests() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let root = workspace();
    fs::copy(root.join("Cargo.toml"), copy.path().join("Cargo.toml")).unwrap();
    let crates = fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path());
    for member in crates.chain(["bench", "tests", "xtask"].map(|member| root.join(member))) {
        let target = copy.path().join(member.strip_prefix(&root).unwrap());
        fs::create_dir_all(target.join("src")).unwrap();
        fs::copy(member.join("Cargo.toml"), target.join("Cargo.toml")).unwrap();
        fs::write(target.join("src/lib.rs"), "").unwrap();
    }
    copy
}

fn add(copy: &TempDir, member: &str, section: &str, line: &str) {
    let path = copy.path().join(member).join("Cargo.toml");
    let manifest = fs::read_to_string(&path).unwrap();
    let header = format!("\n[{section}]\n");
    let changed = if manifest.contains(&header) {
        manifest.replace(&header, &format!("{header}{line}\n"))
    } else {
        format!("{manifest}{header}{line}\n")
    };
    fs::write(path, changed).unwrap();
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap()
}
