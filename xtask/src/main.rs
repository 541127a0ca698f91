//! Chores of the workspace, as `cargo xtask COMMAND`.

mod cli;
mod lint;
mod style;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::workspace::Workspace;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("{}error{}: {error:#}", style::BAD.render(), style::BAD.render_reset());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::locate(cli.root)?;
    match cli.command {
        Command::Lint(arguments) => Ok(lint::run(&workspace, &arguments)),
    }
}
