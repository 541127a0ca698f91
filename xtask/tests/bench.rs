//! `xtask bench` as a process, with a cargo of our own that says what a test wants it to say.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so and stop")]

mod support;

use support::{Bench, artifact, text};

#[test]
fn the_measuring_program_is_built_as_users_build_theirs_and_becomes_the_command() {
    let bench = Bench::new(&[("build---package", r#"cat "$BENCH/artifact""#)]);
    let program = bench.write("mlx-bench", r#"echo $$ > "$BENCH/pid"; echo "$@"; exit 3"#);
    // The gateway's rows run the program that people install.
    let artifacts = [artifact("mlx-node", &program), artifact("mlx-bench", &program)];
    bench.write_plain("artifact", &artifacts.join("\n"));
    let child = bench.xtask(&["bench", "--quick", "--only", "requests", "--plot", "p"]).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "--quick --only requests --plot p\n");
    assert_eq!(bench.number_in("pid"), pid);
    assert!(bench.calls().iter().any(|call| call.contains("--release")), "{:?}", bench.calls());
}

#[test]
fn the_small_benchmarks_go_on_only_while_they_succeed() {
    let run = |bench: &Bench| {
        let output = bench.xtask(&["bench", "--micro"]).output().unwrap();
        (output.status.code(), bench.calls().iter().filter(|call| call.starts_with("bench ")).count())
    };
    assert_eq!(run(&Bench::new(&[])), (Some(0), 3));
    assert_eq!(run(&Bench::new(&[("bench---package", "exit 101")])), (Some(1), 1));
}
