//! A short connection beside the transport's, for what the server tells each connection behind its CONNECT and the transport
//! does not pass on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use async_nats::rustls::{ClientConfig, RootCertStore};
use mlx_types::config::{NatsConfig, TlsConfig};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::credentials::proof;
use crate::wire::Headers;

/// How long the whole of it may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Bytes of a line that a server may send: its INFO names all servers of its cluster.
const LONGEST_LINE: u64 = 1 << 20;

/// Lines among which a server has to answer.
const LINES: usize = 16;

/// The members of an INFO that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    server_id: String,
    nonce: String,
    tls_required: bool,
    max_payload: usize,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

type Connection = BufReader<Box<dyn Stream>>;

/// The server that the transport is connected to.
pub(super) struct Target<'a> {
    pub(super) server: &'a str,
    pub(super) server_id: &'a str,
    /// The configured one that we were connected to last, whose credentials are those of one that it told of.
    pub(super) met: Option<&'a ServerAddr>,
}

/// A message to be sent.
pub(super) struct Message<'a> {
    pub(super) subject: &'a str,
    pub(super) reply: Option<&'a str>,
    pub(super) headers: Option<&'a Headers>,
    pub(super) payload: &'a [u8],
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// The server has it.
    Done,
    /// It wants an answer, and nobody listens.
    NoResponders,
    /// It did not arrive, as far as is known.
    Failed(String),
}

/// The largest payload that the server takes from this user now. `None` where it cannot be found out: the server is gone,
/// refuses a second connection, or its id is not among those that answer at `server`.
pub(super) async fn max_payload(config: &NatsConfig, place: &Target<'_>) -> Option<usize> {
    match timeout(LIMIT, open(config, place)).await {
        Ok(Ok((_, limit))) => Some(limit).filter(|limit| *limit > 0),
        Ok(Err(error)) => {
            tracing::debug!(%error, "could not ask the NATS server for the limit of this user");
            None
        }
        Err(_) => None,
    }
}

/// Sends `message`, and returns when the server has it.
pub(super) async fn send(
    config: &NatsConfig,
    place: &Target<'_>,
    message: &Message<'_>,
    timeout: Duration,
) -> Delivery {
    let sending = async {
        let (mut connection, _) = open(config, place).await?;
        write(&mut connection, message).await?;
        delivered(&mut connection, message.reply).await
    };
    match tokio::time::timeout(timeout, sending).await {
        Ok(Ok(delivery)) => delivery,
        Ok(Err(error)) => Delivery::Failed(format!("by a connection of its own, for its size: {error}")),
        Err(_) => {
            Delivery::Failed(format!("by a connection of its own, for its size: not within {} ms", timeout.as_millis()))
        }
    }
}

/// A connection to the server that the transport is connected to, and the limit of this user.
async fn open(config: &NatsConfig, place: &Target<'_>) -> io::Result<(Connection, usize)> {
    let Target { server, server_id, met } = *place;
    let server: ServerAddr = server.parse()?;
    // A name may stand for several servers, of which only the transport's matters.
    for address in tokio::net::lookup_host((server.host(), server.port())).await? {
        let Ok(socket) = TcpStream::connect(address).await else { continue };
        let (mut connection, info) = greeted(config, &server, socket).await?;
        if info.server_id == server_id {
            let limit = introduced(config, &server, met, &mut connection, info).await?;
            return Ok((connection, limit));
        }
    }
    Err(io::Error::other("another server answers there"))
}

#[expect(clippy::format_push_string, reason = "a line or two for a message of at least hundreds of bytes")]
async fn write(connection: &mut Connection, message: &Message<'_>) -> io::Result<()> {
    let Message { subject, reply, headers, payload } = message;
    let mut head = String::new();
    if let Some(reply) = reply {
        // That nobody listens is told to the connection that asked, where it listens itself.
        head += &format!("SUB {reply} 1\r\n");
    }
    let reply = reply.map(|reply| format!(" {reply}")).unwrap_or_default();
    match headers.filter(|headers| !headers.is_empty()) {
        None => head += &format!("PUB {subject}{reply} {}\r\n", payload.len()),
        Some(headers) => {
            let size = headers.wire_len();
            head += &format!("HPUB {subject}{reply} {size} {}\r\nNATS/1.0\r\n", size + payload.len());
            for (name, value) in headers.iter() {
                head += &format!("{name}: {value}\r\n");
            }
            head += "\r\n";
        }
    }
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(payload).await?;
    connection.write_all(b"\r\nPING\r\n").await?;
    connection.flush().await
}

async fn delivered(connection: &mut Connection, reply: Option<&str>) -> io::Result<Delivery> {
    let mut nobody = false;
    loop {
        let line = line(connection).await?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["PONG", ..] => return Ok(if nobody { Delivery::NoResponders } else { Delivery::Done }),
            ["-ERR", ..] => return Err(io::Error::other(format!("the server says: {}", line.trim()))),
            [kind @ ("MSG" | "HMSG"), .., size] => {
                // An answer, which comes to the transport too; unless it is the server's, which comes to this connection alone.
                let size = size.parse::<u64>().map_err(io::Error::other)?.saturating_add(2);
                let mut body = Vec::new();
                connection.take(size).read_to_end(&mut body).await?;
                nobody |= *kind == "HMSG" && reply.is_some() && body.starts_with(b"NATS/1.0 503");
            }
            _ => {}
        }
    }
}

/// The connection, encrypted where it has to be, and the server's greeting.
async fn greeted(config: &NatsConfig, server: &ServerAddr, socket: TcpStream) -> io::Result<(Connection, Info)> {
    socket.set_nodelay(true)?;
    let mut connection = connection(socket);
    if config.tls.handshake_first {
        connection = encrypted(config, server, connection).await?;
    }
    let info = loop {
        let line = line(&mut connection).await?;
        if let Some(info) = read_info(&line) {
            break info;
        }
    };
    if !config.tls.handshake_first && (info.tls_required || server.tls_required()) {
        connection = encrypted(config, server, connection).await?;
    }
    Ok((connection, info))
}

/// Says who we are, and what the server then says of its limit: it does so behind its answer to the first ping, and so before
/// that to the second.
async fn introduced(
    config: &NatsConfig,
    server: &ServerAddr,
    met: Option<&ServerAddr>,
    connection: &mut Connection,
    info: Info,
) -> io::Result<usize> {
    let proof = proof(config, server, met, info.nonce.as_bytes()).await.map_err(io::Error::other)?;
    let mut connect = proof.members();
    let common = json!({
        "verbose": false, "pedantic": false, "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "protocol": 1,
        "headers": true, "no_responders": true, "name": "mlx-nats: limits",
        "tls_required": config.tls.handshake_first || info.tls_required || server.tls_required(),
    });
    if let (Value::Object(connect), Value::Object(common)) = (&mut connect, common) {
        connect.extend(common);
    }
    connection.write_all(format!("CONNECT {connect}\r\nPING\r\nPING\r\n").as_bytes()).await?;
    connection.flush().await?;
    let (mut limit, mut pongs) = (info.max_payload, 0);
    for _ in 0..LINES {
        let line = line(connection).await?;
        if let Some(info) = read_info(&line) {
            limit = info.max_payload;
        } else if line.starts_with("PONG") {
            pongs += 1;
            if pongs == 2 {
                return Ok(limit);
            }
        } else if line.starts_with("-ERR") {
            return Err(io::Error::other(line.trim().to_owned()));
        }
    }
    Err(io::Error::other("no answer to a ping"))
}

fn read_info(line: &str) -> Option<Info> {
    serde_json::from_str(line.strip_prefix("INFO")?.trim()).ok()
}

async fn line(connection: &mut Connection) -> io::Result<String> {
    let mut line = String::new();
    if connection.take(LONGEST_LINE).read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

fn connection(stream: impl Stream + 'static) -> Connection {
    BufReader::new(Box::new(stream))
}

async fn encrypted(config: &NatsConfig, server: &ServerAddr, connection: Connection) -> io::Result<Connection> {
    let tls = config.tls.clone();
    // Files are read, those of the system among them.
    let tls = tokio::task::spawn_blocking(move || client_config(&tls)).await.map_err(io::Error::other)??;
    let name = ServerName::try_from(server.host().to_owned()).map_err(io::Error::other)?;
    // The greeting has been read to its end, and a server waits for us before it sends more.
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, connection.into_inner()).await?;
    Ok(self::connection(stream))
}

/// As the transport has it: the system's authorities only where there are none of our own.
fn client_config(tls: &TlsConfig) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(file) => {
            for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
                roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let (Some(certificates), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = CertificateDer::pem_file_iter(certificates).map_err(io::Error::other)?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    builder.with_client_auth_cert(certificates, key).map_err(io::Error::other)
}
