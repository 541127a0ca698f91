//! The programs that run tests: nextest, or cargo test where it is missing.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::count::Counter;
use super::stage::TESTS_PACKAGE;
use crate::process;
use crate::workspace::Workspace;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runner {
    Nextest,
    CargoTest,
}

impl Runner {
    pub(super) fn find(workspace: &Workspace) -> Self {
        let mut probe = workspace.cargo();
        probe.args(["nextest", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if probe.status().is_ok_and(|status| status.success()) {
            return Self::Nextest;
        }
        anstream::eprintln!(
            "cargo-nextest is not installed: using cargo test (`cargo install --locked cargo-nextest`)"
        );
        Self::CargoTest
    }

    /// Runs tests, and has them counted.
    pub(super) fn run(self, workspace: &Workspace) -> (Command, Counter) {
        let mut command = workspace.cargo();
        match self {
            Self::Nextest => {
                command.args(["nextest", "run", "--message-format", "libtest-json"]);
                // The format has been stable for years; its name is not yet.
                command.env("NEXTEST_EXPERIMENTAL_LIBTEST_JSON", "1");
                (command, Counter::nextest())
            }
            Self::CargoTest => {
                command.args(["test", "--no-fail-fast"]);
                (command, Counter::libtest())
            }
        }
    }

    /// Builds these targets; how many tests they hold.
    ///
    /// # Errors
    /// That they do not build: cargo has said why.
    pub(super) fn count(
        self,
        workspace: &Workspace,
        targets: &[String],
        environment: &[(&str, OsString)],
    ) -> Result<u64> {
        let mut command = workspace.cargo();
        let count: fn(&str) -> u64 = match self {
            Self::Nextest => {
                command.args(["nextest", "list", "--message-format", "json"]).args(targets);
                |line| {
                    let list: Value = serde_json::from_str(line).unwrap_or_default();
                    list.get("test-count").and_then(Value::as_u64).unwrap_or(0)
                }
            }
            Self::CargoTest => {
                command.args(["test", "--no-fail-fast"]).args(targets).args(["--", "--list", "--format", "terse"]);
                |line| u64::from(line.ends_with(": test"))
            }
        };
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut total = 0;
        let status = process::run_with_lines(command, |line| total += count(line)).context("cannot list the tests")?;
        ensure!(status.success(), "the tests could not be built or listed: see above");
        Ok(total)
    }
}

/// What a person asked of nextest, with `filter` applied to all of it: nextest itself unites several filters.
pub(super) fn filtered(arguments: &[OsString], filter: &str) -> Vec<OsString> {
    const NAMES: [&str; 3] = ["-E", "--filterset", "--filter-expr"];
    let within = |asked_for: &str| OsString::from(format!("({filter}) & ({asked_for})"));
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let (options, rest) = arguments.split_at(end);

    let (mut words, mut found, mut value_follows) = (Vec::new(), false, false);
    for option in options {
        let text = option.to_string_lossy();
        let joined = NAMES.iter().find_map(|name| {
            let rest = text.strip_prefix(name)?;
            if name.starts_with("--") { rest.strip_prefix('=') } else { Some(rest).filter(|rest| !rest.is_empty()) }
        });
        if value_follows {
            words.push(within(&text));
        } else if let Some(asked_for) = joined {
            words.extend(["-E".into(), within(asked_for)]);
        } else {
            words.push(option.clone());
        }
        value_follows = !value_follows && NAMES.iter().any(|name| option == OsStr::new(name));
        found |= value_follows || joined.is_some();
    }
    if !found {
        words.extend(["-E".into(), filter.into()]);
    }
    words.extend(rest.iter().cloned());
    words
}

/// Whether cargo, building what a person asked for, leaves out an example that these tests may run: it does where test
/// targets are named, and where the package is one whose tests run an example of another.
pub(super) fn may_lack_examples(arguments: &[OsString]) -> bool {
    let names_tests = |word: &str| word == "--test" || word == "--tests" || word.starts_with("--test=");
    options(arguments).iter().any(|word| names_tests(word) || word.ends_with(TESTS_PACKAGE))
}

/// Whether a person has asked for this test target by its name.
pub(super) fn names_target(arguments: &[OsString], target: &str) -> bool {
    let options = options(arguments);
    let joined = format!("--test={target}");
    options.windows(2).any(|pair| pair == ["--test", target]) || options.iter().any(|word| *word == joined)
}

/// Whether a person has named kinds of targets, or targets. Cargo runs all that any of its words names.
pub(super) fn names_targets(arguments: &[OsString]) -> bool {
    const KINDS: [&str; 7] = ["--lib", "--bins", "--tests", "--examples", "--benches", "--all-targets", "--doc"];
    const SINGLE: [&str; 4] = ["--bin", "--test", "--example", "--bench"];
    options(arguments).iter().any(|word| {
        let name = word.split_once('=').map_or(&**word, |(name, _)| name);
        KINDS.contains(&&**word) || SINGLE.contains(&name)
    })
}

/// What cargo reads, and not the tests.
fn options(arguments: &[OsString]) -> Vec<Cow<'_, str>> {
    arguments.iter().take_while(|word| *word != "--").map(|word| word.to_string_lossy()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_narrows_whatever_was_asked_for() {
        let narrowed = |line: &[&str]| {
            let words = filtered(&line.iter().map(OsString::from).collect::<Vec<_>>(), "not a");
            words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(narrowed(&["-p", "x", "c1"]), "-p x c1 -E not a");
        assert_eq!(narrowed(&["c1", "--", "--skip", "-E"]), "c1 -E not a -- --skip -E");
        assert_eq!(narrowed(&["-E", "b", "--filterset", "c"]), "-E (not a) & (b) --filterset (not a) & (c)");
        assert_eq!(narrowed(&["-Eb", "--filterset=c | d"]), "-E (not a) & (b) -E (not a) & (c | d)");
        assert_eq!(narrowed(&["-E", "-E"]), "-E (not a) & (-E)");
    }

    #[test]
    fn a_target_is_named_as_cargo_wants_it() {
        let named = |line: &[&str]| names_target(&line.iter().map(OsString::from).collect::<Vec<_>>(), "soak");
        assert!(named(&["--test", "soak"]) && named(&["-p", "mlx-tests", "--test=soak"]));
        assert!(!named(&["soak"]) && !named(&["--test", "chaos"]) && !named(&["--", "--test", "soak"]));
    }

    #[test]
    fn kinds_of_targets_and_single_ones_are_named() {
        let named = |line: &[&str]| names_targets(&line.iter().map(OsString::from).collect::<Vec<_>>());
        for words in [&["--lib"][..], &["-p", "x", "--doc"], &["--all-targets"], &["--bin=x"], &["--test", "chaos"]] {
            assert!(named(words), "{words:?}");
        }
        assert!(!named(&[]) && !named(&["-p", "xtask", "c1"]) && !named(&["c1", "--", "--test", "x"]));
    }

    #[test]
    fn examples_are_built_for_tests_that_may_run_them() {
        let lacks = |line: &[&str]| may_lack_examples(&line.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(lacks(&["--test", "engine"]) && lacks(&["--test=engine"]) && lacks(&["-p", "x", "--tests"]));
        assert!(lacks(&["-p", "mlx-tests"]) && lacks(&["--package=mlx-tests", "c1"]));
        assert!(!lacks(&[]) && !lacks(&["-E", "binary(engine)"]), "cargo builds everything");
        assert!(!lacks(&["-p", "mlx-log", "--test-threads", "1"]) && !lacks(&["--", "--test", "mlx-tests"]));
    }
}
