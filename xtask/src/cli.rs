//! The command line: what may be said, and how `--help` teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::lint::Step;
use crate::style;

/// Chores of the workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, styles = style::HELP, max_term_width = 110)]
pub(crate) struct Cli {
    /// The workspace to work on [default: the one this xtask belongs to].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check everything that a change must satisfy, short of its tests.
    #[command(after_help = LINT_HELP)]
    Lint(LintArguments),
}

#[derive(Debug, Args)]
pub(crate) struct LintArguments {
    /// Run only this step; may be given several times.
    #[arg(long, value_name = "STEP", value_enum)]
    pub(crate) only: Vec<Step>,

    /// List the steps and what each one checks, and run none.
    #[arg(long)]
    pub(crate) list: bool,
}

const LINT_HELP: &str = "\
Every step runs, whatever the ones before it found; a table at the end sums up.

Examples:
  cargo xtask lint                             everything
  cargo xtask lint --only fmt --only clippy    two steps
  cargo xtask lint --list                      what the steps are

Exit codes:
  0  every step passed or was skipped, with the reason said
  1  a step found something
  2  the command line is wrong";
