//! The shipped schemas in the hands of others: a strict validator, and what editors make of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where npm's packages are; `cargo xtask test` sees to it.
fn modules() -> PathBuf {
    std::env::var_os("MLX_TEST_NODE_MODULES")
        .expect("MLX_TEST_NODE_MODULES names a folder with ajv, yaml-language-server and openai; `cargo xtask test` sees to it")
        .into()
}

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/schemas").canonicalize().unwrap()
}

/// Runs a script beside the packages, since imports are looked for from where it is.
fn node(script: &str, arguments: &[&Path], places: &[&str]) -> String {
    let folder = modules();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/editors").join(script);
    let copy = folder.parent().unwrap().join(script);
    std::fs::copy(source, &copy).unwrap();
    let output = Command::new("node").arg(copy).args(arguments).args(places).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn f4_strict_node_programs_take_every_shipped_schema() {
    assert_eq!(node("strict.mjs", &[&schemas()], &[]).trim(), "18 schemas");
}

#[test]
fn f4_a_node_editor_shows_the_words_and_the_bounds_of_the_key_under_both_drafts() {
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("cluster.yaml");
    std::fs::write(&document, "nats:\n  pingIntervalMs: 0\n  embedded:\n    port: 99\n  mode: dual\n").unwrap();
    let server = modules().join("yaml-language-server/bin/yaml-language-server");
    for draft in ["cluster.schema.json", "cluster.draft-07.schema.json"] {
        let said = node("editor.mjs", &[&server, &schemas().join(draft), &document], &["2:5", "4:6", "5:4"]);
        for expected in [
            "2: Value is below the minimum of 1.",
            "4: Value is below the minimum of 1024.",
            "2:5: #### ClusterConfig  How often the server must show that it lives, in ms;",
            "4:6: #### ClusterConfig  The port for clients, 1024 to 65535; 0 for a free one.",
            "starts a nats-server of this node's own",
        ] {
            assert!(said.contains(expected), "{draft}: no {expected:?} in\n{said}");
        }
        assert!(
            said.contains("5: Value is not accepted. Valid values: \"embedded\", \"external\"."),
            "{draft}: {said}"
        );
    }
}
