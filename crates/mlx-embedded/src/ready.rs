//! Knowing that a nats-server is ready: its ports file is there, and it answers a PING.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::folder::PrivateFolder;
use crate::settings::Access;

/// Where a client on this machine reaches a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) client: SocketAddr,
    pub(crate) monitoring: Option<SocketAddr>,
}

/// Waits for the ports file in `folder`. It names this server's own ports: one that merely answers may be anybody's.
pub(crate) async fn endpoints(folder: &PrivateFolder) -> Endpoints {
    // Short at first, since the whole start takes some ten ms.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(endpoints) = folder.ports_file().as_ref().and_then(parse_ports) {
            return endpoints;
        }
        // Between two looks: nothing tells of a file that is written, short of a watcher for this one moment.
        tokio::time::sleep(pause).await;
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
    let secrets = match access {
        Access::User { name, password } => json!({ "user": name, "pass": password.plain.expose() }),
        Access::Token(token) => json!({ "auth_token": token.plain.expose() }),
        Access::Anyone => json!({}),
    };
    if let (Some(options), Value::Object(mut secrets)) = (options.as_object_mut(), secrets) {
        options.append(&mut secrets);
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
