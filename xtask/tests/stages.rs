//! `xtask test` as a process, with a cargo and a docker of our own that say what a test wants them to say. The real ones are
//! underneath every other use of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should say so and stop")]

mod support;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use support::{Bench, DOCKER, DOCS, SUITE, last_line, text, wait_until};

#[test]
fn it_closes_with_a_table_and_one_plain_line_that_adds_everything_up() {
    let bench = Bench::new(&[("nextest-run", SUITE)]).with_docker(DOCKER);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    // Of each of the four stages that are not the documentation, 5 of 8.
    assert_eq!(last_line(&output), "23 passed, 0 failed, 12 skipped");
    for row in ["unit 5 0 3", "doc 3 0 0", "integration 5 0 3", "containers 5 0 3", "cluster 5 0 3"] {
        assert!(rows(&output).iter().any(|line| line.starts_with(row)), "no {row}: {}", text(&output));
    }
}

#[test]
fn each_stage_is_its_own_targets_and_no_other() {
    let bench = Bench::new(&[("nextest-run", SUITE)]).with_docker(DOCKER);
    bench.xtask(&["test"]).output().unwrap();
    let runs = bench.calls().into_iter().filter_map(|call| {
        let words = call.strip_prefix("nextest run --message-format libtest-json ").or(call.strip_prefix("test "))?;
        Some(words.split(" -- ").next().unwrap().to_owned())
    });
    assert_eq!(
        runs.collect::<Vec<_>>(),
        [
            "--workspace --lib --bins",
            "--doc --workspace --no-fail-fast",
            "--workspace --test soak --test streams",
            "--workspace --test containers",
            "--workspace --test cluster_network",
        ]
    );
}

#[test]
fn only_the_stages_asked_for_run() {
    let bench = Bench::new(&[("nextest-run", SUITE)]).with_docker(DOCKER);
    let output = bench.xtask(&["test", "--stage", "containers", "--stage", "unit"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(last_line(&output), "10 passed, 0 failed, 6 skipped");
    assert!(
        !bench.calls().iter().any(|call| call.contains("streams") || call.contains("--doc")),
        "{:?}",
        bench.calls()
    );
}

#[test]
fn the_list_names_every_stage_and_runs_none() {
    let bench = Bench::new(&[]);
    let output = bench.xtask(&["test", "--list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["unit", "doc", "integration", "containers", "cluster"]);
    assert!(said.lines().filter(|line| line.contains("needs Docker")).count() == 2, "{said}");
    assert!(!bench.path().join("calls").exists());
}

#[test]
fn help_teaches_the_options() {
    let said = text(&Bench::new(&[]).xtask(&["test", "--help"]).output().unwrap());
    for word in [
        "--stage",
        "--list",
        "--require-docker",
        "--server-version",
        "--image",
        "--keep",
        "--seed",
        "--soak",
        "CI=true",
        "2.15.1, 2.12.8, 2.10.26",
        "mlx-serving.test-run",
        "docker rmi",
        "N passed, N failed, N skipped",
    ] {
        assert!(said.contains(word), "no {word}: {said}");
    }
}

#[test]
fn without_docker_its_stages_are_skipped_with_the_reason_and_their_tests_counted() {
    let bench = Bench::new(&[("nextest-run", SUITE)]);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(last_line(&output), "13 passed, 0 failed, 22 skipped");
    let reason = "skipped: Docker does not answer: there is no `docker` command here";
    for row in ["containers 0 0 8", "cluster 0 0 8"] {
        assert!(rows(&output).iter().any(|line| line.starts_with(row) && line.ends_with(reason)), "{}", text(&output));
    }
    assert!(!bench.calls().iter().any(|call| call.starts_with("nextest run") && call.contains("containers")));
}

#[test]
fn where_docker_is_required_its_absence_fails_and_says_so() {
    let dead = r#"echo "Cannot connect to the Docker daemon at $DOCKER_HOST" >&2; exit 1"#;
    let said =
        "failed: Docker does not answer: `docker version` failed: Cannot connect to the Docker daemon at unix:///dead";
    for (arguments, ci, by) in
        [(&["test", "--require-docker"][..], "", "--require-docker"), (&["test"], "true", "CI=true")]
    {
        let bench = Bench::new(&[("nextest-run", SUITE)]).with_docker(dead);
        let output = bench.xtask(arguments).env("CI", ci).env("DOCKER_HOST", "unix:///dead").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let row = format!("{said} ({by})");
        assert!(rows(&output).iter().any(|line| line.ends_with(&row)), "{}", text(&output));
        assert_eq!(last_line(&output), "13 passed, 0 failed, 22 skipped");
    }
}

#[test]
fn a_docker_that_hangs_does_not_hang_us() {
    let bench = Bench::new(&[("nextest-run", SUITE)]).with_docker(r#"sleep 600 & echo $! > "$BENCH/sleeper"; wait"#);
    let started = Instant::now();
    let output = bench.xtask(&["test", "--stage", "unit", "--stage", "cluster"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("skipped: Docker does not answer: `docker version` has not ended after 10 s"));
    assert!(started.elapsed() < Duration::from_secs(20));
    let sleeper = Pid::from_raw(bench.number_in("sleeper")).unwrap();
    wait_until("what it started to end", || test_kill_process(sleeper).is_err());
}

#[test]
fn a_stage_without_its_tests_is_a_failure_with_or_without_docker() {
    for docker in [DOCKER, "exit 1"] {
        let bench = Bench::new(&[("nextest-run", SUITE)]).with_docker(docker);
        bench.has_test_targets(&["streams", "containers", "soak"]);
        let output = bench.xtask(&["test"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("failed: the package mlx-tests has no test target `cluster_network`"));
    }
}

#[test]
fn what_a_test_leaves_in_docker_fails_the_run_is_named_and_removed() {
    let bench = Bench::new(&[("nextest-run", &leaving(SUITE))]).with_docker(DOCKER);
    let output = bench.xtask(&["test", "--stage", "containers"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("left behind: container stray (img), now removed"), "{}", text(&output));
    assert_eq!(last_line(&output), "5 passed, 0 failed, 3 skipped");
    assert_eq!(bench.left(), 0);
}

#[test]
fn what_cannot_be_removed_fails_the_run_too() {
    let stuck = DOCKER.replace(r#"rm -f "$BENCH"/left.*"#, "echo 'device is busy' >&2; exit 1");
    let bench = Bench::new(&[("nextest-run", &leaving(SUITE))]).with_docker(&stuck);
    let output = bench.xtask(&["test", "--stage", "containers"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("cannot be removed: `docker rm` failed: device is busy"), "{}", text(&output));
}

#[test]
fn what_is_to_be_kept_is_kept_and_named() {
    let bench = Bench::new(&[("nextest-run", &leaving(SUITE))]).with_docker(DOCKER);
    let output = bench.xtask(&["test", "--stage", "containers", "--keep"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("kept: container stray (img)") && said.contains("to remove them: docker ps -aq"), "{said}");
    assert_eq!(bench.left(), 1);
    let folder = bench.told("TMPDIR").unwrap();
    assert!(said.contains(&format!("kept: {folder}")), "{said}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_interrupted_test_leaves_no_process_no_container_and_no_file() {
    let sleeper = leaving(r#"echo > "$TMPDIR/file"; sleep 600 & echo $! > "$BENCH/sleeper"; wait"#);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let bench = Bench::new(&[("nextest-run", &sleeper)]).with_docker(DOCKER);
        let child = bench.xtask(&["test"]).spawn().unwrap();
        let sleeper = bench.number_in("sleeper");
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output));
        assert!(text(&output).contains("interrupted: what was started is gone"), "{}", text(&output));
        wait_until("the sleeper to end", || test_kill_process(Pid::from_raw(sleeper).unwrap()).is_err());
        assert_eq!(bench.left(), 0);
        assert!(!fs::exists(bench.told("TMPDIR").unwrap()).unwrap());
    }
}

#[test]
fn tests_end_with_their_terminal_but_not_below_nohup() {
    let sleeper = r#"echo $$ > "$BENCH/runner"; while [ ! -e "$BENCH/enough" ]; do echo a line; sleep 0.05; done"#;
    for (before, code) in [("", 130), ("trap '' HUP; ", 0)] {
        let bench = Bench::new(&[("nextest-run", &[sleeper, SUITE].join("\n"))]);
        let xtask = bench.xtask(&["test", "--stage", "unit"]);
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("{before}exec \"$0\" \"$@\"")]).arg(xtask.get_program()).args(xtask.get_args());
        shell.envs(xtask.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = shell.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let runner = bench.number_in("runner");
        if before.is_empty() {
            // Nobody reads any more.
            drop(child.stdout.take());
        }
        kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
        kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
        if !before.is_empty() {
            bench.write_plain("enough", "");
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        wait_until("the runner to end", || test_kill_process(Pid::from_raw(runner).unwrap()).is_err());
    }
}

#[test]
fn an_interruption_while_the_needs_are_fetched_runs_no_test() {
    let bench = Bench::new(&[("nextest-run", SUITE)]);
    let mut xtask = bench.xtask(&["test"]);
    bench.write("bin/python3", r#"case "$*" in *install*) echo $$ > "$BENCH/pip"; exec sleep 600 ;; esac"#);
    for variable in ["MLX_TEST_MODEL_SERVER_PYTHONPATH", "MLX_TEST_OPENAI_PYTHONPATH"] {
        xtask.env_remove(variable);
    }
    let child = xtask.spawn().unwrap();
    let pip = bench.number_in("pip");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    wait_until("pip to end", || test_kill_process(Pid::from_raw(pip).unwrap()).is_err());
    assert!(!bench.path().join("calls").exists());
}

#[test]
fn the_tests_are_told_what_the_command_line_says() {
    let bench = Bench::new(&[("nextest-run", &leaving(SUITE))]).with_docker("exit 1");
    let words = ["test", "--stage", "integration", "--seed", "7", "--image", "nats:2.15"];
    bench.xtask(&words).env_remove("MLX_TEST_KEEP").output().unwrap();
    assert_eq!(bench.told("MLX_TEST_SEED").as_deref(), Some("7"));
    assert_eq!(bench.told("MLX_TEST_IMAGE").as_deref(), Some("nats:2.15"));
    assert_eq!(bench.told("MLX_TEST_KEEP"), None);
    let first = bench.told("MLX_TEST_RUN_ID").unwrap();
    bench.xtask(&words).output().unwrap();
    assert_ne!(bench.told("MLX_TEST_RUN_ID").unwrap(), first);
}

#[test]
fn docker_is_where_its_own_settings_say() {
    let elsewhere = DOCKER.replace("unix:///var/run/docker.sock", "unix:///home/me/.colima/docker.sock");
    let bench = Bench::new(&[("nextest-run", &leaving(SUITE))]).with_docker(&elsewhere);
    bench.xtask(&["test", "--stage", "containers"]).output().unwrap();
    assert_eq!(bench.told("DOCKER_HOST").as_deref(), Some("unix:///home/me/.colima/docker.sock"));
    // Somebody who names one has the last word.
    bench.xtask(&["test", "--stage", "containers"]).env("DOCKER_HOST", "tcp://there:2375").output().unwrap();
    assert_eq!(bench.told("DOCKER_HOST").as_deref(), Some("tcp://there:2375"));
}

#[test]
fn the_soak_is_all_that_runs_and_is_told_its_minutes() {
    let bench = Bench::new(&[("nextest-run", &leaving(SUITE))]);
    let output = bench.xtask(&["test", "--soak", "3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(bench.told("MLX_TEST_SOAK_MINUTES").as_deref(), Some("3"));
    let runs: Vec<_> = bench.calls().into_iter().filter(|call| call.starts_with("nextest run")).collect();
    assert_eq!(runs, ["nextest run --message-format libtest-json --workspace --test soak --no-capture"]);
    let refused = bench.xtask(&["test", "--soak", "3", "--stage", "unit"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
}

#[test]
fn a_server_version_without_hashes_is_refused_with_those_that_have_some() {
    let output = Bench::new(&[]).xtask(&["test", "--server-version", "2.9.0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("2.15.1, 2.12.8, 2.10.26") && said.contains("MLX_NATS_SERVER"), "{said}");
}

#[test]
fn what_a_person_hands_over_runs_without_what_cannot_run_here() {
    let left_out = |arguments: &[&str]| {
        let bench = Bench::new(&[("nextest-run", SUITE)]);
        let output = bench.xtask(&[&["test", "--"], arguments].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert_eq!(last_line(&output), "5 passed, 0 failed, 3 skipped");
        let run = bench.calls().into_iter().find(|call| call.starts_with("nextest run")).unwrap();
        // What is left out by name grows with what the tests need.
        let (run, left_out) = run.split_once(" -- --skip ").unwrap();
        assert!(left_out.split(" --skip ").any(|word| word == "nats_py"), "{left_out}");
        run.strip_prefix("nextest run --message-format libtest-json ").unwrap().to_owned()
    };
    let filter = "not (package(=mlx-tests) & (binary(=containers) + binary(=cluster_network)))";
    assert_eq!(left_out(&["c1"]), format!("c1 -E {filter}"));
    assert_eq!(left_out(&["-E", "test(c1_)"]), format!("-E ({filter}) & (test(c1_))"));
    let others = "not (package(=mlx-tests) & (binary(=cluster_network)))";
    assert_eq!(left_out(&["--test", "containers"]), format!("--test containers -E {others}"));
}

#[test]
fn an_example_that_a_chosen_test_runs_is_built_before_it() {
    let building = "build --workspace --bins --examples";
    for (arguments, is_built) in [(["--test", "engine"], true), (["-p", "mlx-tests"], true), (["-p", "mlx-log"], false)]
    {
        let bench = Bench::new(&[("nextest-run", SUITE)]);
        bench.xtask(&[&["test", "--"][..], &arguments].concat()).output().unwrap();
        let calls = bench.calls();
        let position = |words: &str| calls.iter().position(|call| call.starts_with(words));
        let run = position("nextest run").unwrap();
        assert_eq!(position(building).is_some_and(|built| built < run), is_built, "{calls:?}");
    }

    let bench = Bench::new(&[("nextest-run", SUITE), ("build---workspace", "exit 101")]);
    let output = bench.xtask(&["test", "--", "--test", "engine"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("the programs and examples could not be built"), "{}", text(&output));
    assert!(!bench.calls().iter().any(|call| call.starts_with("nextest run")), "{:?}", bench.calls());
}

#[test]
fn what_a_machine_lacks_is_said_and_left_out() {
    let bench = Bench::new(&[("nextest-run", SUITE)]).with_docker(DOCKER);
    let said = text(&bench.xtask(&["test"]).env_remove("MLX_TEST_OLD_NATS_SERVER").output().unwrap());
    assert!(said.contains("skipped: tests with `nats_py` in their names: they need python3"), "{said}");
    assert!(said.contains("skipped: tests with `rolling_upgrade` in their names: "), "{said}");
    let calls = bench.calls();
    let leaves_out = |call: &String, word: &str| call.contains(&format!(" --skip {word}"));
    let runs: Vec<_> = calls.iter().filter(|call| call.starts_with("nextest run")).collect();
    for word in ["rolling_upgrade", "real_pip", "nats_py"] {
        assert!(!runs.is_empty() && runs.iter().all(|run| leaves_out(run, word)), "{word}: {runs:?}");
    }
}

#[test]
fn any_failure_fails_the_whole() {
    let failing = r#"echo '{"type":"suite","event":"failed","passed":4,"failed":1}'; exit 100"#;
    let bench = Bench::new(&[("nextest-run", failing)]);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(last_line(&output), "11 passed, 2 failed, 22 skipped");

    let broken = "echo 'error: could not compile' >&2; exit 101";
    for (words, last) in
        [("test---doc", "10 passed, 0 failed, 22 skipped"), ("nextest-list", "3 passed, 0 failed, 0 skipped")]
    {
        let bench = Bench::new(&[("nextest-run", SUITE), (words, broken)]);
        let output = bench.xtask(&["test"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert_eq!(last_line(&output), last);
    }
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
    let answer =
        format!(r#"case "$*" in *" --list "*) echo 'a: test'; echo 'b: test'; echo 'c: test' ;; *) {DOCS} ;; esac"#);
    let bench = Bench::new(&[("nextest---version", "exit 101"), ("test---no-fail-fast", &answer)]);
    let output = bench.xtask(&["test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("cargo install --locked cargo-nextest"), "{}", text(&output));
    assert_eq!(last_line(&output), "9 passed, 0 failed, 6 skipped");
}

#[test]
fn without_nextest_only_what_a_person_names_runs() {
    let run = |arguments: &[&str]| {
        let bench = Bench::new(&[("nextest---version", "exit 101"), ("test---no-fail-fast", DOCS)]);
        let output = bench.xtask(&[&["test", "--"], arguments].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let run = bench.calls().into_iter().find(|call| call.starts_with("test ")).unwrap();
        run.split(" -- ").next().unwrap().to_owned()
    };
    assert_eq!(run(&["-p", "mlx-tests", "--test", "chaos"]), "test --no-fail-fast -p mlx-tests --test chaos");
    assert_eq!(run(&["-p", "xtask", "c1"]), "test --no-fail-fast --tests -p xtask c1");
}

/// A run of tests that notes what it was told, leaves a container, and then does something else.
fn leaving(then: &str) -> String {
    format!("env > \"$BENCH/told\"\nprintf 'abc\\tstray (img)\\n' > \"$BENCH/left.$MLX_TEST_RUN_ID\"\n{then}")
}

/// The lines, with one space between two words.
fn rows(output: &Output) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    String::from_utf8_lossy(&output.stdout).lines().map(words).collect()
}
