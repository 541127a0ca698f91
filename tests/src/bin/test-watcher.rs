//! A controller that only watches its workers, as a process of its own, for tests that flood it: `test-watcher CONFIG`. Ends in
//! good order at SIGTERM.

use std::process::ExitCode;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::Client;
use mlx_tests::LIMIT;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test-watcher: {}", mlx_errors::report(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let config = mlx_config::load(std::env::args().nth(1).unwrap_or_default())?;
    let unhandled =
        |error: std::io::Error| Error::with_source(ErrorKind::Internal { reason: "no signals".to_owned() }, error);
    let mut terminate = signal(SignalKind::terminate()).map_err(unhandled)?;
    let client = Client::connect(&config).await?;
    let _workers = client.workers().await?;
    println!("watching");
    terminate.recv().await;
    client.shutdown(LIMIT).await
}
