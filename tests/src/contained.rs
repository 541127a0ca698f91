//! A nats-server in a container, for one test.

use std::path::{Path, PathBuf};

use mlx_nats::Client;
use mlx_types::config::{NatsConfig, NatsMode};
use tempfile::TempDir;

use crate::docker::{Container, Image, Janitor, Ports, Spec};
use crate::millis;

/// A server in a container, removed with the value. Its port stays the same over restarts.
#[derive(Debug)]
pub struct ContainerServer {
    container: Container,
    _settings: TempDir,
}

/// A server in a container, still to be started.
#[derive(Clone, Debug, Default)]
pub struct ContainerBuilder {
    image: Option<Image>,
    settings: String,
    files: Vec<PathBuf>,
}

impl ContainerBuilder {
    /// Of another version than the one under test.
    #[must_use]
    pub fn image(mut self, image: Image) -> Self {
        self.image = Some(image);
        self
    }

    /// With `settings` in nats-server's own format, and without any port.
    #[must_use]
    pub fn settings(mut self, settings: &str) -> Self {
        self.settings.push_str(settings);
        self.settings.push('\n');
        self
    }

    /// With a copy of `file`, which its settings find under its name in `/settings`.
    #[must_use]
    pub fn file(mut self, file: &Path) -> Self {
        self.files.push(file.to_path_buf());
        self
    }

    /// Starts it, and waits until it greets.
    pub async fn start(self) -> ContainerServer {
        let image = match self.image {
            Some(image) => image,
            None => Image::current().await,
        };
        let settings = settings_folder(&format!("port: 4222\nhttp: 8222\n{}", self.settings), &self.files);
        let janitor = Janitor::of_this_process();
        let name = janitor.name("server");
        let ports = Ports::free();
        let spec = Spec { image: &image, name: &name, ports, settings: settings.path(), network: None, volume: None };
        let container = Container::run(spec).await;
        ContainerServer { container, _settings: settings }
    }
}

impl ContainerServer {
    pub(crate) fn builder() -> ContainerBuilder {
        ContainerBuilder::default()
    }

    /// The settings of a client: `scheme`, this server's address as `localhost`, and no credentials.
    pub fn config(&self, scheme: &str) -> NatsConfig {
        NatsConfig::default()
            .mode(NatsMode::External)
            .server_url(format!("{scheme}://localhost:{}", self.container.ports().client).parse().unwrap())
            .reconnect_time_wait(millis(20))
    }

    /// A client of ours, without credentials.
    pub async fn client(&self) -> Client {
        Client::connect(&self.config("nats")).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Ends the server in good order; [`Self::start`] starts it again.
    pub async fn stop(&self) {
        self.container.stop().await;
    }

    /// Starts a server that has ended, on the same port.
    pub async fn start(&self) {
        self.container.start().await;
    }

    /// Ends the server with SIGKILL.
    pub async fn kill(&self) {
        self.container.signal("KILL").await;
        self.container.ended().await;
    }

    /// Freezes the server: its sockets stay open, and nothing answers.
    pub async fn pause(&self) {
        self.container.pause().await;
    }

    /// Lets a frozen server go on.
    pub async fn unpause(&self) {
        self.container.unpause().await;
    }
}

/// A folder with `settings` as the server's file, and copies of `files`.
pub(crate) fn settings_folder(settings: &str, files: &[PathBuf]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nats-server.conf"), settings).unwrap();
    for file in files {
        std::fs::copy(file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    folder
}
