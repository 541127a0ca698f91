//! A small cluster on one machine: a controller, its nats-server, and workers as processes of their own.
//!
//! `cargo run -p mlx-embedded --example cluster -- "Tell me about NATS"`
//!
//! The controller starts the embedded server and the workers, waits until the workers have registered, sends each
//! prompt to one of them and prints the tokens as they stream back. With `--listen 127.0.0.1:8080` it serves OpenAI's
//! protocol instead, which is in `front/`. Copy from `controller.rs` and `worker.rs` for nodes of your own, and put your
//! model behind the trait in `engine/`; a model server that speaks OpenAI's protocol is behind it already:
//! `--engine openai=http://127.0.0.1:8080/v1`.
#![allow(unreachable_pub, reason = "the files are meant to be copied into a crate, where `pub` may mean something")]
#![allow(clippy::cast_precision_loss, reason = "figures for people, far below 2^52")]

mod cli;
mod cluster;
mod controller;
mod engine;
mod front;
mod machine;
mod models;
mod outcome;
mod printer;
mod processes;
mod worker;

use std::io::IsTerminal;
use std::process::ExitCode;

use mlx_config::Loader;
use mlx_log::{Format, Level, LogConfig};
use mlx_types::config::ClusterConfig;

fn main() -> ExitCode {
    let arguments = cli::Arguments::read();
    let sources = Loader::new().file(&arguments.config);
    let config = match sources.load() {
        Ok(loaded) => loaded.into_config(),
        Err(error) => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            printer::note(sources.draw(&error, colour).trim_end());
            return ExitCode::from(cli::EXIT_FAILED);
        }
    };
    match run(&config, &arguments) {
        Ok(code) => code,
        Err(error) => {
            printer::note(&mlx_errors::report(&error).to_string());
            ExitCode::from(cli::EXIT_FAILED)
        }
    }
}

fn run(config: &ClusterConfig, arguments: &cli::Arguments) -> mlx_errors::Result<ExitCode> {
    // The terminal belongs to the tokens unless asked otherwise.
    let quiet = LogConfig::default().level(Level::Warn).format(Format::Text);
    let _flushed_at_exit = mlx_log::init(if arguments.verbose { &config.logging } else { &quiet })?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| {
        let reason = "cannot start the async runtime".to_owned();
        mlx_errors::Error::with_source(mlx_errors::ErrorKind::Internal { reason }, error)
    })?;
    let code = runtime.block_on(async {
        match arguments.listen {
            _ if arguments.worker => worker::run(config, arguments).await,
            Some(listen) => front::run(config, arguments, listen).await,
            None => controller::run(config, arguments).await,
        }
    });
    // Without waiting for blocking reads: standard input may never end.
    runtime.shutdown_background();
    code
}
