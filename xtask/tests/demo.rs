//! `xtask demo` as a process, with a cargo of our own that says what a test wants it to say.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so and stop")]

mod support;

use std::path::Path;

use support::{Bench, text};

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
