//! Docker, by testcontainers: it finds the daemon by `DOCKER_HOST`, makes the containers, and lends its own client
//! (bollard) for what it has no word for: labels on networks and volumes, signals, and a server cut off from its network.

mod container;
mod image;
mod janitor;

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::Arc;

use testcontainers::bollard::Docker;
use testcontainers::bollard::models::{NetworkCreateRequest, VolumeCreateRequest};

pub(crate) use container::{Container, Ports, Spec};
pub use image::Image;
pub(crate) use janitor::Janitor;

/// On everything that a test has in Docker: the run that it belongs to.
const RUN_LABEL: &str = "mlx-serving.test-run";

/// Likewise: the process.
const PROCESS_LABEL: &str = "mlx-serving.test-process";

/// testcontainers' own client, for what it has no word for.
pub(crate) async fn docker() -> Docker {
    testcontainers::core::client::docker_client_instance().await.unwrap_or_else(|error| panic!("{error}"))
}

/// What the `docker` command says where nothing can be awaited.
fn docker_blocking(words: &[&str]) -> Result<(), String> {
    let output = Command::new("docker").args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("there is no `docker` to be run: {error}"))?;
    if output.status.success() {
        return Ok(());
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
        let labels = Some(HashMap::from(janitor.labels()));
        let request = NetworkCreateRequest { name: name.clone(), labels, ..NetworkCreateRequest::default() };
        docker().await.create_network(request).await.unwrap_or_else(|error| panic!("{error}"));
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
        let labels = Some(HashMap::from(janitor.labels()));
        let request = VolumeCreateRequest { name: Some(name.clone()), labels, ..VolumeCreateRequest::default() };
        docker().await.create_volume(request).await.unwrap_or_else(|error| panic!("{error}"));
        Self { name, janitor }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.janitor.remove(&["volume", "rm", "--force", &self.name]);
    }
}
