//! A small cluster on one machine: a controller, its nats-server, and workers as processes of their own.
//!
//! The controller starts the server and the workers, waits until the workers have registered, sends each prompt to one of them
//! and prints the tokens as they stream back; or it serves the gateway, as `mlx-node run` does.

mod cluster;
mod outcome;
mod printer;
mod process;
mod prompts;
mod serve;

use mlx_errors::Result;

use super::arguments::{Cli, DemoArguments};
use super::settings::Settings;

/// Runs it until every prompt has come to an end, or until interrupted.
pub(super) async fn run(settings: &Settings, arguments: &DemoArguments, cli: &Cli) -> Result<u8> {
    let starting = process::Starting { settings, arguments, verbose: cli.common.verbose };
    if arguments.listen.is_some() { serve::run(&starting).await } else { prompts::run(&starting).await }
}
