//! One nats-server in a container, at addresses that outlive its restarts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Image, Janitor, docker, try_docker};

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
    name: String,
    ports: Ports,
    janitor: Arc<Janitor>,
}

impl Container {
    /// Creates it; [`Container::start`] starts it.
    pub(crate) async fn create(spec: Spec<'_>) -> Self {
        let janitor = Janitor::of_this_process();
        let [run, process] = janitor.labels();
        let published = |port, inside| format!("127.0.0.1:{port}:{inside}");
        let [client, monitoring] = [published(spec.ports.client, 4222), published(spec.ports.monitoring, 8222)];
        let mut words = vec!["create", "--name", spec.name, "--label", &run, "--label", &process];
        words.extend(["--publish", &client, "--publish", &monitoring]);
        words.extend(spec.network.iter().flat_map(|network| ["--network", network]));
        let volume = spec.volume.map(|volume| format!("{volume}:/data"));
        words.extend(volume.iter().flat_map(|volume| ["--volume", volume]));
        words.extend([&spec.image.0, "--config", SETTINGS]);
        docker(&words).await;
        let container = Self { name: spec.name.to_owned(), ports: spec.ports, janitor };
        docker(&["cp", spec.settings.to_str().unwrap(), &format!("{}:/settings", spec.name)]).await;
        container
    }

    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// Starts it, and waits until the server greets.
    pub(crate) async fn start(&self) {
        docker(&["start", &self.name]).await;
        let deadline = Instant::now() + GREETING;
        while !greets(self.ports.client_addr()).await {
            let may_yet = Instant::now() < deadline && self.is_running().await;
            assert!(may_yet, "the server in {} does not greet:\n{}", self.name, self.log().await);
            tokio::time::sleep(Duration::from_millis(20)).await; // between two looks
        }
    }

    /// Ends the server in good order.
    pub(crate) async fn stop(&self) {
        docker(&["stop", "--time", "20", &self.name]).await;
    }

    /// Sends the server a signal, for example `KILL`.
    pub(crate) async fn signal(&self, signal: &str) {
        docker(&["kill", "--signal", signal, &self.name]).await;
    }

    /// Freezes the server: its sockets stay open, and nothing answers.
    pub(crate) async fn pause(&self) {
        docker(&["pause", &self.name]).await;
    }

    pub(crate) async fn unpause(&self) {
        docker(&["unpause", &self.name]).await;
    }

    /// Takes its network away, for its neighbours and for this host.
    pub(crate) async fn disconnect(&self, network: &str) {
        docker(&["network", "disconnect", network, &self.name]).await;
    }

    pub(crate) async fn connect(&self, network: &str) {
        docker(&["network", "connect", network, &self.name]).await;
    }

    /// Waits for the server's end.
    pub(crate) async fn ended(&self) {
        docker(&["wait", &self.name]).await;
    }

    pub(crate) async fn is_running(&self) -> bool {
        try_docker(&["inspect", "--format", "{{.State.Running}}", &self.name]).await.is_ok_and(|said| said == "true")
    }

    /// What the server has logged.
    pub(crate) async fn log(&self) -> String {
        let output = tokio::process::Command::new("docker").args(["logs", &self.name]).output().await.expect("docker");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.janitor.remove(&["rm", "--force", "--volumes", &self.name]);
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
