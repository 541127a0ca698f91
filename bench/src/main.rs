//! The measuring program behind `cargo xtask bench`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use mlx_bench::cli::{Cli, Command};
use mlx_bench::report::{self, Report};
use mlx_bench::run;

/// A row misses what it must reach.
const MISSED: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    if let Some(Command::Part(part)) = cli.command {
        part.play().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = cli.options;
    if options.list {
        anstream::println!("{}", report::list(&options.rows()));
        return Ok(ExitCode::SUCCESS);
    }
    if cfg!(debug_assertions) {
        anstream::eprintln!("warning: this is a debug build; `cargo xtask bench` measures what users run");
    }
    // Read first: a run should not fail at its end for a file that was never there.
    let earlier = options.compare.as_deref().map(Report::read).transpose()?;
    let program = std::env::current_exe()?;
    let report = run::run(&options, &program).await?;
    anstream::println!("{}", report::table(&report));
    if let Some(earlier) = &earlier {
        anstream::println!("{}", report::comparison(earlier, &report));
    }
    if let Some(file) = &options.json {
        report.write(file)?;
    }
    if let Some(folder) = &options.plot {
        for file in report::plot(&report, folder)? {
            anstream::println!("{}", file.display());
        }
    }
    Ok(if report.misses() { ExitCode::from(MISSED) } else { ExitCode::SUCCESS })
}
