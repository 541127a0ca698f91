//! What a server's monitoring answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take: one that takes longer comes from a server that is frozen or cut off.
const ANSWER: Duration = Duration::from_secs(5);

/// The answer at `path`, for example `/subsz`, of a server that may be down, or killed while it answers.
pub(crate) async fn monitoring(address: SocketAddr, path: &str) -> io::Result<Value> {
    tokio::time::timeout(ANSWER, exchange(address, path)).await?
}

async fn exchange(address: SocketAddr, path: &str) -> io::Result<Value> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    Ok(serde_json::from_str(body)?)
}
