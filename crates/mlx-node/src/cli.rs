//! The command line.

mod arguments;
mod ask;
mod check;
mod demo;
mod settings;
mod status;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use mlx_errors::{Error, ErrorKind, Result};
use mlx_log::{Format, Level, LogConfig};

use self::arguments::Command;
use self::arguments::{Cli, DemoArguments};
use self::settings::Settings;
use crate::plan::Plan;
use crate::terminal::note;

/// It did what it was told to.
pub(crate) const EXIT_DONE: u8 = 0;
/// It could not be run; the reason is on standard error.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command line is wrong, as clap has it.
pub(crate) const EXIT_USAGE: u8 = 2;
/// At least one prompt ended in an error.
pub(crate) const EXIT_PROMPT_FAILED: u8 = 3;
/// Interrupted by Ctrl-C or SIGTERM.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Runs the program with the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Completions { shell } = &cli.command {
        clap_complete::generate(*shell, &mut Cli::command(), "mlx-node", &mut std::io::stdout());
        return ExitCode::from(EXIT_DONE);
    }
    if let Command::Check(arguments) = &cli.command {
        return check::run(arguments, &cli.common);
    }
    cli.check();
    let settings = match Settings::load(&cli) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    match run(&cli, &settings) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            note(&format!("{:#}", mlx_errors::report(&error)));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(cli: &Cli, settings: &Settings) -> Result<u8> {
    let plan = Plan::new(settings.config(), &settings.around);
    let _flushed_at_exit = mlx_log::init(&logging(cli, settings, &plan))?;
    settings.warn();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| {
        let reason = "cannot start the async runtime".to_owned();
        Error::with_source(ErrorKind::Internal { reason }, error)
    })?;
    let code = runtime.block_on(async {
        match &cli.command {
            Command::Run(arguments) => {
                // Who starts processes has read the configuration for them.
                if !arguments.exit_with_stdin {
                    settings.warn_of_unused();
                }
                crate::node::run(&plan, arguments.exit_with_stdin).await.map(|()| EXIT_DONE)
            }
            Command::Ask(arguments) => ask::run(settings, arguments).await,
            Command::Status(arguments) => status::run(settings, arguments).await,
            Command::Demo(arguments) => demo::run(settings, arguments, cli).await,
            Command::Check(_) | Command::Completions { .. } => Ok(EXIT_DONE), // done before
        }
    });
    // Without waiting for blocking reads: standard input may never end.
    runtime.shutdown_background();
    code
}

/// A node logs as its configuration says. Elsewhere the terminal belongs to the answers unless asked otherwise.
fn logging(cli: &Cli, settings: &Settings, plan: &Plan) -> LogConfig {
    let mut logging = plan.logging.clone();
    match &cli.command {
        Command::Run(_) => {
            // For people, where nothing says that machines read it.
            if std::io::stderr().is_terminal() && !settings.is_set("logging.format") {
                logging.format = Format::Text;
            }
            logging
        }
        _ if cli.common.verbose => logging,
        _ => LogConfig::default().level(Level::Warn).format(Format::Text),
    }
}
