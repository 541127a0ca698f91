//! `xtask demo` as a process, with a cargo of our own that says what a test wants it to say.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so and stop")]

mod support;

use support::{Bench, artifact, text};

#[test]
fn the_demo_is_one_process_and_gets_its_arguments() {
    let bench = Bench::new(&[("build---package", r#"cat "$BENCH/artifact""#)]);
    let program = bench.write("mlx-node", r#"echo $$ > "$BENCH/pid"; echo "$@"; exit 3"#);
    bench.write_plain("artifact", &artifact("mlx-node", &program));
    let child = bench.xtask(&["demo", "Hello there", "--workers", "3", "--config", "c.yaml"]).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "demo --config c.yaml --workers 3 -- Hello there\n");
    assert_eq!(bench.number_in("pid"), pid);
}

#[test]
fn a_demo_that_does_not_build_says_so() {
    let bench = Bench::new(&[("build---package", "echo 'error[E0308]: mismatched types' >&2; exit 101")]);
    let output = bench.xtask(&["demo"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("E0308") && said.contains("`mlx-node` of mlx-node could not be built"), "{said}");
}
