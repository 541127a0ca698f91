//! `cargo xtask bench`: provides a server, builds the measuring program as users build theirs, and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use mlx_embedded::binary::BINARY_VARIABLE;
use mlx_embedded::binary::Origin;

use crate::cli::BenchArguments;
use crate::workspace::Workspace;
use crate::{nats, process};

const PACKAGE: &str = "mlx-bench";
const NODE: &str = "mlx-node";

/// The small benchmarks, each a package and its target.
const MICRO: [[&str; 2]; 3] = [[PACKAGE, "micro"], ["mlx-log", "throughput"], ["mlx-config", "load"]];

/// Unless it is `--micro`, returns only where the measuring could not be started.
pub(crate) fn run(workspace: &Workspace, arguments: &BenchArguments) -> Result<ExitCode> {
    if arguments.micro {
        return micro(workspace);
    }
    let server = nats::provide(workspace)?;
    // The gateway's rows run it as people do.
    workspace.build(NODE, &["--release", "--bin", NODE], NODE)?;
    let program = workspace.build(PACKAGE, &["--release", "--bin", PACKAGE], PACKAGE)?;
    let mut bench = Command::new(program);
    bench.args(words(arguments));
    if server.origin == Origin::Tools {
        bench.env(BINARY_VARIABLE, &server.path);
    }
    let error = bench.exec();
    Err(error).with_context(|| format!("cannot run {}", bench.get_program().display()))
}

fn micro(workspace: &Workspace) -> Result<ExitCode> {
    for [package, target] in MICRO {
        let mut bench = workspace.cargo();
        bench.args(["bench", "--package", package, "--bench", target]);
        if !process::run(bench)?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The measuring program's command line.
fn words(arguments: &BenchArguments) -> Vec<OsString> {
    let BenchArguments { quick, only, list, rounds, json, compare, plot, micro: _ } = arguments;
    let mut words: Vec<OsString> = Vec::new();
    words.extend(quick.then(|| "--quick".into()));
    words.extend(list.then(|| "--list".into()));
    let mut option = |name: &str, value: OsString| words.extend([name.into(), value]);
    for row in only {
        option("--only", row.into());
    }
    if let Some(rounds) = rounds {
        option("--rounds", rounds.to_string().into());
    }
    let files = [("--json", json), ("--compare", compare), ("--plot", plot)];
    for (name, file) in files {
        if let Some(file) = file {
            option(name, Path::new(file).into());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn every_argument_reaches_the_measuring_program() {
        let line = "--quick --list --only requests --only streams --rounds 9 --json a --compare b --plot c";
        assert_eq!(
            words_of(line).join(" "),
            "--quick --list --only requests --only streams --rounds 9 --json a --compare b --plot c"
        );
        assert_eq!(words_of(""), Vec::<String>::new());
    }

    fn words_of(line: &str) -> Vec<String> {
        let line: Vec<_> = ["xtask", "bench"].into_iter().chain(line.split_whitespace()).collect();
        let Command::Bench(arguments) = Cli::try_parse_from(line).unwrap().command else { panic!("not the bench") };
        words(&arguments).into_iter().map(|word| word.into_string().unwrap()).collect()
    }
}
