//! One nats-server in a container, at addresses that outlive its restarts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use testcontainers::bollard::models::{HostConfig, NetworkConnectRequest, NetworkDisconnectRequest, PortBinding};
use testcontainers::bollard::query_parameters::{KillContainerOptionsBuilder, WaitContainerOptions};
use testcontainers::core::{IntoContainerPort as _, Mount, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Image, Janitor, docker};

/// Where the server finds its settings.
pub(crate) const SETTINGS: &str = "/settings/nats-server.conf";

/// How long a server may take to greet, on a machine that starts many at once.
const GREETING: Duration = Duration::from_secs(30);

/// The ports of this host that lead to a server. They are published, and not those of the container's own address: that
/// one cannot be reached on a Mac, and changes. They are chosen beforehand, so that a restart finds them again, and below
/// those that the system hands out by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) client: u16,
    pub(crate) monitoring: u16,
}

impl Ports {
    /// Ports that nobody has. Each process begins at another place, since between this look and the start of the
    /// container nothing keeps others from them.
    pub(crate) fn free() -> Self {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        const FIRST: u32 = 20_000;
        const COUNT: u32 = 12_000;
        const OF_A_PROCESS: u32 = 16;
        let free = || loop {
            let place =
                std::process::id().wrapping_mul(OF_A_PROCESS).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
            let port = u16::try_from(FIRST + place % COUNT).unwrap();
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return port;
            }
        };
        Self { client: free(), monitoring: free() }
    }

    /// What Docker is to publish: on this host's loopback only, where testcontainers by itself would take every address.
    fn publish(self, host: &mut HostConfig) {
        let binding = |inside: u16, port: u16| {
            let of_this_host = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(port.to_string()) };
            (format!("{inside}/tcp"), Some(vec![of_this_host]))
        };
        host.publish_all_ports = Some(false);
        host.port_bindings = Some([binding(4222, self.client), binding(8222, self.monitoring)].into());
    }

    pub(crate) fn client_addr(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.client).into()
    }

    pub(crate) fn monitoring_addr(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.monitoring).into()
    }
}

/// What a container is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec<'a> {
    pub(crate) image: &'a Image,
    /// Its name, by which others on its network find it too.
    pub(crate) name: &'a str,
    pub(crate) ports: Ports,
    /// The folder with `nats-server.conf` and what that names; it becomes `/settings`.
    pub(crate) settings: &'a Path,
    pub(crate) network: Option<&'a str>,
    /// Mounted at `/data`.
    pub(crate) volume: Option<&'a str>,
}

/// A container, removed with the value.
#[derive(Debug)]
pub(crate) struct Container {
    /// Taken only by `Drop`.
    running: Option<ContainerAsync<GenericImage>>,
    name: String,
    ports: Ports,
    janitor: Arc<Janitor>,
}

impl Container {
    /// Creates and starts it, and waits until the server greets.
    pub(crate) async fn run(spec: Spec<'_>) -> Self {
        let janitor = Janitor::of_this_process();
        let image = spec.image.generic().with_exposed_port(4222.tcp()).with_exposed_port(8222.tcp());
        let mut request = image
            .with_wait_for(WaitFor::message_on_stderr("Server is ready"))
            .with_cmd(["--config", SETTINGS])
            .with_container_name(spec.name)
            .with_labels(janitor.labels())
            .with_copy_to("/settings", spec.settings)
            .with_host_config_modifier(move |host| spec.ports.publish(host))
            .with_startup_timeout(GREETING);
        if let Some(network) = spec.network {
            request = request.with_network(network);
        }
        if let Some(volume) = spec.volume {
            request = request.with_mount(Mount::volume_mount(volume, "/data"));
        }
        let container = request.start().await.unwrap_or_else(|error| panic!("{}: {error}", spec.name));
        let container = Self { running: Some(container), name: spec.name.to_owned(), ports: spec.ports, janitor };
        container.greets().await;
        container
    }

    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// Starts it again, and waits until the server greets.
    pub(crate) async fn start(&self) {
        self.inner().start().await.unwrap_or_else(|error| panic!("{error}"));
        self.greets().await;
    }

    async fn greets(&self) {
        let deadline = Instant::now() + GREETING;
        while !greets(self.ports.client_addr()).await {
            let may_yet = Instant::now() < deadline && self.is_running().await;
            assert!(may_yet, "the server in {} does not greet:\n{}", self.name, self.log().await);
            tokio::time::sleep(Duration::from_millis(20)).await; // between two looks
        }
    }

    /// Ends the server in good order.
    pub(crate) async fn stop(&self) {
        self.inner().stop_with_timeout(Some(20)).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Sends the server a signal, for example `KILL`.
    pub(crate) async fn signal(&self, signal: &str) {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        docker().await.kill_container(&self.name, Some(options)).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Freezes the server: its sockets stay open, and nothing answers.
    pub(crate) async fn pause(&self) {
        self.inner().pause().await.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) async fn unpause(&self) {
        self.inner().unpause().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Takes its network away, for its neighbours and for this host.
    pub(crate) async fn disconnect(&self, network: &str) {
        let request = NetworkDisconnectRequest { container: self.name.clone(), force: None };
        docker().await.disconnect_network(network, request).await.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) async fn connect(&self, network: &str) {
        let request = NetworkConnectRequest { container: self.name.clone(), endpoint_config: None };
        docker().await.connect_network(network, request).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits for the server's end.
    pub(crate) async fn ended(&self) {
        // An exit code other than zero comes as an error.
        let docker = docker().await;
        let mut wait = docker.wait_container(&self.name, None::<WaitContainerOptions>);
        while wait.next().await.is_some() {}
        assert!(!self.is_running().await, "{} has not ended", self.name);
    }

    pub(crate) async fn is_running(&self) -> bool {
        self.inner().is_running().await.unwrap_or_default()
    }

    /// What the server has logged.
    pub(crate) async fn log(&self) -> String {
        let log = self.inner().stderr_to_vec().await.unwrap_or_else(|error| panic!("{error}"));
        String::from_utf8_lossy(&log).into_owned()
    }

    fn inner(&self) -> &ContainerAsync<GenericImage> {
        self.running.as_ref().expect("taken only by Drop")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.janitor.keeps() {
            std::mem::forget(self.running.take());
        }
    }
}

/// Whether a NATS server is behind `address`; Docker itself takes connections before the server does.
async fn greets(address: SocketAddr) -> bool {
    let greeting = async {
        let mut start = [0; 5];
        TcpStream::connect(address).await?.read_exact(&mut start).await?;
        std::io::Result::Ok(&start == b"INFO ")
    };
    tokio::time::timeout(Duration::from_secs(1), greeting).await.is_ok_and(Result::unwrap_or_default)
}
