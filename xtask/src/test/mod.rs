//! `cargo xtask test`: provides what the tests need, runs all of them, and closes with one line of counts.

mod count;
mod needs;

use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::Result;
use mlx_embedded::Origin;
use mlx_embedded::binary::BINARY_VARIABLE;

use crate::cli::TestArguments;
use crate::workspace::Workspace;
use crate::{nats, process, style};

use count::{Count, Counter};
use needs::Needs;

pub(crate) fn run(workspace: &Workspace, arguments: &TestArguments) -> Result<ExitCode> {
    let server = nats::provide(workspace)?;
    anstream::eprintln!("nats-server {} at {}", server.version, server.path.display());
    let needs = Needs::provide(workspace);

    let prepare = |command: &mut Command| {
        if server.origin == Origin::Tools {
            command.env(BINARY_VARIABLE, &server.path);
        }
        command.envs(needs.environment());
    };

    let mut total = Count::default();
    let mut succeeded = true;
    for mut run in plan(workspace, arguments, &needs, has_nextest(workspace)) {
        prepare(&mut run.command);
        let (status, count) = watch(run)?;
        succeeded &= status.success();
        total += count;
    }
    Ok(close(total, succeeded, &needs))
}

/// One runner to start, and what its standard output holds.
struct Run {
    command: Command,
    counter: Counter,
}

/// The runs that make up the test: the doc tests are left out where a person asked for something particular.
fn plan(workspace: &Workspace, arguments: &TestArguments, needs: &Needs, nextest: bool) -> Vec<Run> {
    let mut tests = workspace.cargo();
    let counter = if nextest {
        tests.args(["nextest", "run", "--message-format", "libtest-json"]);
        // The format has been stable for years; its name is not yet.
        tests.env("NEXTEST_EXPERIMENTAL_LIBTEST_JSON", "1");
        Counter::nextest()
    } else {
        anstream::eprintln!(
            "cargo-nextest is not installed: using cargo test (`cargo install --locked cargo-nextest`)"
        );
        tests.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"]);
        Counter::libtest()
    };
    tests.args(&arguments.arguments);
    let filters = needs.filters();
    if !filters.is_empty() && !arguments.arguments.iter().any(|argument| argument == "--") {
        tests.arg("--");
    }
    tests.args(filters);

    let mut runs = vec![Run { command: tests, counter }];
    if arguments.arguments.is_empty() {
        let mut docs = workspace.cargo();
        docs.args(["test", "--doc", "--workspace", "--no-fail-fast"]);
        runs.push(Run { command: docs, counter: Counter::libtest() });
    }
    runs
}

fn has_nextest(workspace: &Workspace) -> bool {
    let mut probe = workspace.cargo();
    probe.args(["nextest", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn watch(run: Run) -> Result<(ExitStatus, Count)> {
    let mut counter = run.counter;
    let status = process::run_with_lines(run.command, |line| {
        if counter.read(line) {
            anstream::println!("{line}");
        }
    })?;
    Ok((status, counter.count()))
}

/// The closing lines. The very last one is plain, for programs.
fn close(total: Count, succeeded: bool, needs: &Needs) -> ExitCode {
    anstream::println!();
    for missing in needs.missing() {
        anstream::println!("{}skipped{}: {missing}", style::WARN.render(), style::WARN.render_reset());
    }
    let nothing = total.passed == 0 && total.failed == 0;
    if nothing {
        anstream::println!("{}no test ran{}", style::BAD.render(), style::BAD.render_reset());
    } else if !succeeded && total.failed == 0 {
        anstream::println!(
            "{}not everything could be run: see above{}",
            style::BAD.render(),
            style::BAD.render_reset()
        );
    }
    anstream::println!("{total}");
    if succeeded && total.failed == 0 && !nothing { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_means_the_doc_tests_too() {
        assert_eq!(
            planned(&[], &Needs::default(), true),
            ["nextest run --message-format libtest-json", "test --doc --workspace --no-fail-fast"]
        );
        assert_eq!(planned(&[], &Needs::default(), false).len(), 2);
    }

    #[test]
    fn what_a_person_asks_for_is_all_that_runs() {
        assert_eq!(
            planned(&["-p", "mlx-log"], &Needs::default(), true),
            ["nextest run --message-format libtest-json -p mlx-log"]
        );
    }

    #[test]
    fn tests_that_cannot_run_here_are_left_out_by_either_runner() {
        let needs = Needs::without("nats_py");
        assert!(planned(&[], &needs, true)[0].ends_with(" -- --skip nats_py"));
        assert!(planned(&[], &needs, false)[0].ends_with(" -- --skip nats_py"));
        assert!(planned(&["--", "c1"], &needs, true)[0].ends_with(" -- c1 --skip nats_py"));
    }

    fn planned(arguments: &[&str], needs: &Needs, nextest: bool) -> Vec<String> {
        let arguments = TestArguments { arguments: arguments.iter().map(Into::into).collect() };
        let runs = plan(&Workspace::locate(None).unwrap(), &arguments, needs, nextest);
        let words = |run: &Run| run.command.get_args().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        runs.iter().map(words).collect()
    }
}
