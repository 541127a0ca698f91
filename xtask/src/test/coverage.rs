//! `cargo xtask test --coverage`: which lines of the published crates the tests run, and whether that is enough.
//!
//! cargo-llvm-cov has the crates of the workspace compiled so that they count; the tests run as ever, in a target folder of
//! their own, and programs that they start count too. What is written beside the code to test it does not count as code.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace::{Workspace, is_published};
use crate::{process, style};

/// Percent of the lines of each published crate that have to be run.
const LEAST: f64 = 90.0;

/// The test targets that run cargo themselves, which has nothing to do with what they cover.
const LEFT_OUT: [&str; 2] = ["compile_fail", "documents"];

/// The first of LLVM's releases whose tools read what Rust 1.95 writes, and the last that may be on a machine.
const LLVM_RELEASES: std::ops::RangeInclusive<u32> = 19..=30;

/// A run that counts.
pub(super) struct Coverage {
    workspace: Workspace,
    folders: BTreeMap<String, PathBuf>,
}

impl Coverage {
    /// Makes ready to count, in a workspace whose cargo builds what counts.
    ///
    /// # Errors
    /// What is missing, and how it is installed.
    pub(super) fn begin(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.root().join("target").join("coverage");
        let mut environment = vec![
            ("CARGO_TARGET_DIR".into(), folder.into()),
            // Lines are known without it, and a build with it is several times as large.
            ("CARGO_PROFILE_DEV_DEBUG".into(), "0".into()),
            ("CARGO_INCREMENTAL".into(), "0".into()),
        ];
        environment.extend(llvm_tools()?);
        let asking = workspace.with_environment(environment.clone());
        environment.extend(variables(&asking)?);
        let workspace = workspace.with_environment(environment);
        let cleaned = process::run(llvm_cov(&workspace, &["clean", "--profraw-only"]))?;
        ensure!(cleaned.success(), "what an earlier run counted cannot be removed: see above");
        let published = workspace.members()?.into_iter().filter(is_published);
        let folders = published.filter_map(|package| {
            let sources = package.manifest_path.parent()?.join("src");
            Some((package.name.to_string(), sources.into_std_path_buf()))
        });
        let folders = folders.collect();
        Ok(Self { workspace, folders })
    }

    pub(super) fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// In nextest's language, the tests that count.
    pub(super) fn filter(&self) -> String {
        let binaries: Vec<_> = LEFT_OUT.iter().map(|target| format!("binary(={target})")).collect();
        let packages: Vec<_> = self.folders.keys().map(|package| format!("package(={package})")).collect();
        format!("(package(=mlx-tests) + {}) - ({})", packages.join(" + "), binaries.join(" + "))
    }

    /// Prints the table; whether every crate has enough.
    pub(super) fn close(&self) -> Result<bool> {
        let file = self.workspace.root().join("target").join("coverage").join("coverage.lcov");
        let mut command = llvm_cov(&self.workspace, &["report", "--lcov", "--output-path"]);
        command.arg(&file);
        let status = process::run(command)?;
        ensure!(status.success(), "what was counted cannot be read: see above");
        let counted = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let is_test = |path: &Path| {
            if path.file_name().is_some_and(|name| name == "tests.rs") {
                return Some(0);
            }
            let source = std::fs::read_to_string(path).unwrap_or_default();
            first_line_of_tests(&source)
        };
        let crates = tally(&counted, &self.folders, is_test);
        Ok(print(&crates, &file))
    }
}

/// Lines of a crate that can be run, and those that were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    all: u32,
    run: u32,
}

impl Lines {
    fn percent(self) -> f64 {
        if self.all == 0 { 0.0 } else { 100.0 * f64::from(self.run) / f64::from(self.all) }
    }
}

fn llvm_cov(workspace: &Workspace, words: &[&str]) -> Command {
    let mut command = workspace.cargo();
    command.arg("llvm-cov").args(words);
    command
}

/// What cargo has to find in its environment, as cargo-llvm-cov says it.
fn variables(workspace: &Workspace) -> Result<Vec<(OsString, OsString)>> {
    let mut command = llvm_cov(workspace, &["show-env", "--sh"]);
    command.stdin(Stdio::null());
    let said = process::output(command).context("cannot ask cargo-llvm-cov")?;
    if !said.status.success() {
        let why = String::from_utf8_lossy(&said.stderr);
        if why.contains("no such command") {
            bail!("cargo-llvm-cov is not installed: `cargo install --locked cargo-llvm-cov`");
        }
        bail!("cargo-llvm-cov cannot count here: {}", why.trim());
    }
    let found = exports(&String::from_utf8_lossy(&said.stdout));
    ensure!(
        found.iter().any(|(name, _)| name == "LLVM_PROFILE_FILE"),
        "this cargo-llvm-cov is too old: `cargo install --locked cargo-llvm-cov`"
    );
    Ok(found)
}

/// Lines such as `export NAME='value'`.
fn exports(said: &str) -> Vec<(OsString, OsString)> {
    let of_line = |line: &str| {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        Some((name.into(), value.trim_matches('\'').replace("'\\''", "'").into()))
    };
    said.lines().filter_map(of_line).collect()
}

/// Where LLVM's tools are: those of the toolchain, which cargo-llvm-cov finds itself, or those of the system.
fn llvm_tools() -> Result<Vec<(OsString, OsString)>> {
    if env::var_os("LLVM_COV").is_some() && env::var_os("LLVM_PROFDATA").is_some() {
        return Ok(Vec::new());
    }
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--print", "target-libdir"]);
    let said = process::output(command).context("cannot ask rustc for its folder")?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    if libraries.with_file_name("bin").join("llvm-profdata").is_file() {
        return Ok(Vec::new());
    }
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    for release in LLVM_RELEASES.rev() {
        let tools = (find(&format!("llvm-cov-{release}")), find(&format!("llvm-profdata-{release}")));
        if let (Some(report), Some(merge)) = tools {
            return Ok(vec![("LLVM_COV".into(), report.into()), ("LLVM_PROFDATA".into(), merge.into())]);
        }
    }
    bail!(
        "LLVM's tools are missing: `rustup component add llvm-tools`, or `apt-get install llvm-{}` on Debian",
        LLVM_RELEASES.start()
    )
}

/// The line from which on a file holds tests, counted from 1.
fn first_line_of_tests(source: &str) -> Option<u32> {
    let lines: Vec<&str> = source.lines().collect();
    let place = lines.windows(2).position(
        |pair| matches!(pair, [condition, module] if condition.trim() == "#[cfg(test)]" && module.starts_with("mod ")),
    );
    place.and_then(|place| u32::try_from(place + 1).ok())
}

/// Adds up the lines of each crate from an lcov file: `SF:` names a file, `DA:` a line and how often it was run.
fn tally(
    lcov: &str,
    folders: &BTreeMap<String, PathBuf>,
    tests_from: impl Fn(&Path) -> Option<u32>,
) -> BTreeMap<String, Lines> {
    let mut crates: BTreeMap<String, Lines> =
        folders.keys().map(|package| (package.clone(), Lines::default())).collect();
    let mut current: Option<(&str, u32)> = None;
    for line in lcov.lines() {
        if let Some(file) = line.strip_prefix("SF:") {
            let path = Path::new(file);
            let of = folders.iter().find(|(_, folder)| path.starts_with(folder));
            current = of.map(|(package, _)| (package.as_str(), tests_from(path).unwrap_or(u32::MAX)));
        }
        let counted = line.strip_prefix("DA:").and_then(|rest| rest.split_once(','));
        let (Some((number, times)), Some((package, end))) = (counted, current) else { continue };
        if number.parse::<u32>().is_ok_and(|number| number < end)
            && let Some(lines) = crates.get_mut(package)
        {
            lines.all += 1;
            lines.run += u32::from(times != "0");
        }
    }
    crates
}

fn print(crates: &BTreeMap<String, Lines>, file: &Path) -> bool {
    let (heading, bad) = (style::HEADING, style::BAD);
    anstream::println!();
    let (bold, plain) = (heading.render(), heading.render_reset());
    anstream::println!("{bold}{:<14}{:>8}{:>8}{:>10}{plain}", "crate", "lines", "run", "percent");
    for (package, lines) in crates {
        let row = format!("{package:<14}{:>8}{:>8}{:>10.1}", lines.all, lines.run, lines.percent());
        if lines.percent() < LEAST {
            anstream::println!("{row}  {}below {LEAST:.0}{}", bad.render(), bad.render_reset());
        } else {
            anstream::println!("{row}");
        }
    }
    anstream::println!("line by line: {}", file.display());
    crates.values().all(|lines| lines.percent() >= LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_for_the_crate_whose_folder_they_are_in_and_not_from_its_tests_on() {
        let folders = BTreeMap::from([("a".to_owned(), "/w/crates/a/src".into()), ("b".to_owned(), "/w/b/src".into())]);
        let lcov = "SF:/w/crates/a/src/x.rs\nFN:1,main\nDA:1,3\nDA:2,0\nDA:9,1\nend_of_record\n\
                    SF:/w/crates/a/src/y/z.rs\nDA:1,1\nend_of_record\nSF:/w/xtask/src/main.rs\nDA:1,1\nend_of_record\n";
        let crates = tally(lcov, &folders, |path| path.ends_with("x.rs").then_some(8));
        assert_eq!(crates["a"], Lines { all: 3, run: 2 });
        assert_eq!(crates["b"], Lines::default());
        assert!(!print(&crates, Path::new("x")), "a crate of which nothing was counted has not enough");
        let enough = |run| print(&BTreeMap::from([("a".to_owned(), Lines { all: 10, run })]), Path::new("x"));
        assert!(enough(9) && !enough(8));
    }

    #[test]
    fn tests_begin_at_their_module() {
        assert_eq!(first_line_of_tests("fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n"), Some(3));
        assert_eq!(first_line_of_tests("#[cfg(test)]\nfn a() {}\nmod b;\n"), None);
    }

    #[test]
    fn variables_come_out_of_their_quotes() {
        let found = exports("export A='b c'\nB=1\n\nexport C='it'\\''s'\n");
        let expected = [("A", "b c"), ("B", "1"), ("C", "it's")];
        assert_eq!(found, expected.map(|(name, value)| (name.into(), value.into())));
    }
}
