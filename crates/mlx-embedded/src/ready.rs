//! Knowing that a nats-server is ready: it has told its ports, and it answers a PING.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::folder::PrivateFolder;
use crate::logs::Line;
use crate::settings::Access;

/// Where a client on this machine reaches a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) client: SocketAddr,
    pub(crate) monitoring: Option<SocketAddr>,
}

/// What a server says in its log of where it listens, while it starts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Announced {
    client: Option<SocketAddr>,
    monitoring: Option<SocketAddr>,
}

impl Announced {
    /// Notes what `line` tells; `false` if it tells nothing of this.
    pub(crate) fn note(&mut self, line: &Line<'_>) -> bool {
        // A port on every address, or on a name, is for the ports file to tell.
        let address = |text: &str| text.parse::<SocketAddr>().ok().filter(|address| !address.ip().is_unspecified());
        let (place, text) = if let Some(text) = line.message.strip_prefix("Listening for client connections on ") {
            (&mut self.client, text)
        } else if let Some(text) = line.message.strip_prefix("Starting http monitor on ") {
            (&mut self.monitoring, text)
        } else {
            return false;
        };
        *place = address(text);
        place.is_some()
    }

    fn endpoints(self, with_monitoring: bool) -> Option<Endpoints> {
        let Self { client, monitoring } = self;
        (monitoring.is_some() || !with_monitoring).then_some(Endpoints { client: client?, monitoring })
    }
}

/// Waits until the server has told where it listens: in its log, or else in the ports file in `folder`. Both name its own
/// ports; one that merely answers may be anybody's.
///
/// The log is there a ms or two earlier, in words that a later version may choose differently.
pub(crate) async fn endpoints(
    folder: &PrivateFolder,
    mut announced: watch::Receiver<Announced>,
    with_monitoring: bool,
) -> Endpoints {
    let in_log = async {
        match announced.wait_for(|announced| announced.endpoints(with_monitoring).is_some()).await {
            Ok(announced) => announced.endpoints(with_monitoring),
            // Its log has ended, and says nothing more.
            Err(_) => None,
        }
    };
    tokio::select! {
        Some(endpoints) = in_log => endpoints,
        endpoints = in_file(folder) => endpoints,
    }
}

async fn in_file(folder: &PrivateFolder) -> Endpoints {
    // Short at first, since the whole start takes some ten ms.
    let mut pause = Duration::from_millis(2);
    loop {
        // Between two looks: nothing tells of a file that is written, short of a watcher for this one moment.
        tokio::time::sleep(pause).await;
        if let Some(endpoints) = folder.ports_file().as_ref().and_then(parse_ports) {
            return endpoints;
        }
        pause = (pause * 11 / 10).min(Duration::from_millis(20));
    }
}

/// Reads a ports file such as `{"nats":["nats://127.0.0.1:4222"],"monitoring":["http://127.0.0.1:8222"]}`.
fn parse_ports(file: &Value) -> Option<Endpoints> {
    Some(Endpoints { client: closest(file.get("nats")?)?, monitoring: file.get("monitoring").and_then(closest) })
}

/// With a wide bind there is a URL for every address of the machine; loopback is the one that cannot go away.
fn closest(urls: &Value) -> Option<SocketAddr> {
    let address = |url: &Value| url.as_str()?.split_once("://")?.1.parse::<SocketAddr>().ok();
    let mut addresses = urls.as_array()?.iter().filter_map(address);
    let first = addresses.next()?;
    Some(if first.ip().is_loopback() {
        first
    } else {
        addresses.find(|other| other.ip().is_loopback()).unwrap_or(first)
    })
}

/// A NATS server's greeting.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Greeting {
    pub(crate) server_name: String,
    pub(crate) version: String,
    pub(crate) tls_required: bool,
    /// To be signed by a client with a key.
    pub(crate) nonce: String,
}

/// Reads the greeting of the server at `address`.
pub(crate) async fn greeting(address: SocketAddr) -> io::Result<Greeting> {
    read_greeting(&mut BufReader::new(TcpStream::connect(address).await?)).await
}

/// Connects to `address` as a client would, and waits for the answer to a PING.
///
/// A server that wants TLS has shown by its greeting that it is up; going further would take a whole client.
pub(crate) async fn round_trip(address: SocketAddr, access: &Access) -> io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let greeting = read_greeting(&mut stream).await?;
    if greeting.tls_required {
        return Ok(());
    }
    let mut options = json!({
        "verbose": false, "pedantic": false, "tls_required": false, "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"), "name": "mlx-embedded readiness",
    });
    if let (Some(options), Value::Object(mut proof)) = (options.as_object_mut(), access.proof(&greeting.nonce)) {
        options.append(&mut proof);
    }
    stream.write_all(format!("CONNECT {options}\r\nPING\r\n").as_bytes()).await?;
    loop {
        let line = read_line(&mut stream).await?;
        match line.split_whitespace().next() {
            Some("PONG") => return Ok(()),
            Some("-ERR") => {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("it refused our own client: {line}"),
                ));
            }
            // A second INFO, or +OK.
            _ => {}
        }
    }
}

async fn read_greeting(stream: &mut BufReader<TcpStream>) -> io::Result<Greeting> {
    let line = read_line(stream).await?;
    line.strip_prefix("INFO ")
        .and_then(|info| serde_json::from_str(info).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the greeting of a NATS server"))
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    const LIMIT: u64 = 64 * 1024;
    let mut line = String::new();
    stream.take(LIMIT).read_line(&mut line).await?;
    if line.ends_with('\n') { Ok(line.trim_end().to_owned()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
