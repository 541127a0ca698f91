//! Docker, by its own command: it speaks to any daemon's version of the API, and knows the user's contexts.

mod container;
mod image;
mod janitor;

use std::io;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

pub(crate) use container::{Container, Ports, Spec};
pub use image::Image;
pub(crate) use janitor::Janitor;

/// On everything that a test has in Docker: the run that it belongs to.
const RUN_LABEL: &str = "mlx-serving.test-run";

/// Likewise: the process.
const PROCESS_LABEL: &str = "mlx-serving.test-process";

/// What `docker` says to `words`.
pub(crate) async fn docker(words: &[&str]) -> String {
    try_docker(words).await.unwrap_or_else(|problem| panic!("{problem}"))
}

/// What `docker` says to `words`, or what it complains of.
pub(crate) async fn try_docker(words: &[&str]) -> Result<String, String> {
    let output = tokio::process::Command::new("docker").args(words).stdin(Stdio::null()).output().await;
    outcome(words, output)
}

/// The same where nothing can be awaited.
fn docker_blocking(words: &[&str]) -> Result<String, String> {
    outcome(words, Command::new("docker").args(words).stdin(Stdio::null()).output())
}

fn outcome(words: &[&str], output: io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| format!("there is no `docker` to be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("`docker {}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// A network of this process's own, gone with the value.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    janitor: Arc<Janitor>,
}

impl Network {
    pub(crate) async fn create() -> Self {
        let janitor = Janitor::of_this_process();
        let name = janitor.name("network");
        let [run, process] = janitor.labels();
        docker(&["network", "create", "--label", &run, "--label", &process, &name]).await;
        Self { name, janitor }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.janitor.remove(&["network", "rm", &self.name]);
    }
}

/// A volume of this process's own, gone with the value.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) name: String,
    janitor: Arc<Janitor>,
}

impl Volume {
    pub(crate) async fn create() -> Self {
        let janitor = Janitor::of_this_process();
        let name = janitor.name("volume");
        let [run, process] = janitor.labels();
        docker(&["volume", "create", "--label", &run, "--label", &process, &name]).await;
        Self { name, janitor }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.janitor.remove(&["volume", "rm", "--force", &self.name]);
    }
}
