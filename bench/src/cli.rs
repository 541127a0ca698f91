//! The command line. `cargo xtask bench --help` says the same, before this program is built.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::arm::Size;
use crate::part::Part;
use crate::rows;

/// Measures this workspace against raw async-nats, side by side.
#[derive(Debug, Parser)]
#[command(name = "mlx-bench", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What this process is to do, if it is not the whole run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The whole run.
    #[command(flatten)]
    pub options: Options,
}

/// Hidden commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plays one part of one measurement.
    #[command(hide = true)]
    Part(Part),
}

/// The whole run.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Judged rows only, with less work in each measurement: about two minutes.
    #[arg(long)]
    pub quick: bool,
    /// Measure only this row; may be given several times.
    #[arg(long, value_name = "ROW", value_parser = row())]
    pub only: Vec<String>,
    /// List the rows and what each has to reach, and measure none.
    #[arg(long)]
    pub list: bool,
    /// Rounds of each row, 3 at the least [default: 15, or 9 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    pub rounds: Option<u32>,
    /// Write everything that was measured to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Show what changed since the run that wrote this file with --json.
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Draw the results into this folder, as SVG.
    #[arg(long, value_name = "DIR")]
    pub plot: Option<PathBuf>,
}

impl Options {
    /// How much each measurement does.
    pub fn size(&self) -> Size {
        if self.quick { Size::Quick } else { Size::Full }
    }

    /// How often each arm is measured.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 9 } else { 15 })
    }

    /// The rows asked for: those named, or else all, or with `--quick` the judged ones.
    pub fn rows(&self) -> Vec<rows::Row> {
        let mut rows = rows::rows(self.size());
        rows.retain(|row| match self.only.as_slice() {
            [] => !self.quick || row.target.is_some(),
            only => only.iter().any(|id| id == row.id),
        });
        rows
    }

    /// Whether the curves are measured too: they take minutes.
    pub fn curves(&self) -> bool {
        !self.quick && self.only.is_empty()
    }
}

fn row() -> clap::builder::PossibleValuesParser {
    rows::rows(Size::Full).iter().map(|row| row.id).collect::<Vec<_>>().into()
}
