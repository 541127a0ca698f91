//! What may be said to `cargo xtask lint`.

use clap::Args;

use super::Step;

#[derive(Debug, Args)]
pub(crate) struct LintArguments {
    /// Run only this step; may be given several times.
    #[arg(long, value_name = "STEP", value_enum)]
    pub(crate) only: Vec<Step>,

    /// List the steps and what each one checks, and run none.
    #[arg(long)]
    pub(crate) list: bool,
}

pub(crate) const LINT_HELP: &str = "\
Every step runs, whatever the ones before it found; a table at the end sums up.

Examples:
  cargo xtask lint                             everything
  cargo xtask lint --only fmt --only clippy    two steps
  cargo xtask lint --list                      what the steps are

Exit codes:
  0    every step passed or was skipped, with the reason said
  1    a step found something
  2    the command line is wrong
  130  interrupted";
