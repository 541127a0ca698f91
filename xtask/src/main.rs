//! Chores of the workspace, as `cargo xtask COMMAND`.

mod api;
mod bench;
mod cli;
mod demo;
mod docs;
mod drift;
mod lint;
mod nats;
mod process;
mod schema;
mod style;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::workspace::Workspace;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        // What was interrupted has said so, or is the person's own doing.
        Err(error) if error.is::<process::Interrupted>() => ExitCode::from(process::INTERRUPTED),
        Err(error) => {
            anstream::eprintln!("{}error{}: {error:#}", style::BAD.render(), style::BAD.render_reset());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::locate(cli.root)?;
    match cli.command {
        Command::Bench(arguments) => bench::run(&workspace, &arguments),
        Command::Demo(arguments) => demo::run(&workspace, &arguments),
        Command::Test(arguments) => test::run(&workspace, &arguments),
        Command::Lint(arguments) => lint::run(&workspace, &arguments),
        Command::Docs(arguments) => docs::run(&workspace, &arguments),
        Command::Schema(arguments) => schema::run(&workspace, &arguments),
        Command::Api(arguments) => api::run(&workspace, &arguments),
        Command::Nats(arguments) => nats::run(&workspace, &arguments),
    }
}
