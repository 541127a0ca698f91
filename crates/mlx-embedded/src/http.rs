//! A GET to nats-server's monitoring.
//!
//! By hand: the server answers HTTP/1.0 with one unchunked body and closes, on loopback, without TLS or redirects. An
//! HTTP library would bring more crates than this file has functions.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bytes of an answer at the most. A thousand connections take half a MiB.
const ANSWER_LIMIT: u64 = 64 << 20;

/// An answer: its status, for example 200, and its body.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Asks `address` for `path`, for at most `timeout`.
pub(crate) async fn get(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<HttpResponse> {
    tokio::time::timeout(timeout, exchange(address, path))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn exchange(address: SocketAddr, path: &str) -> io::Result<HttpResponse> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer).await?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer, or not all of it"))
}

fn parse(answer: &[u8]) -> Option<HttpResponse> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD)?;
    let (head, body) = answer.split_at_checked(end + END_OF_HEAD.len())?;
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse::<usize>().ok());
    // A server that dies half-way closes just as one that is done.
    if length.is_some_and(|length| length != body.len()) {
        return None;
    }
    Some(HttpResponse { status, body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let answer = parse(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (503, b"no".as_slice()));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n{}").unwrap().body, b"{}");
        for broken in [
            b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nno".as_slice(),
            b"HTTP/1.0 200 OK\r\n",
            b"INFO {}\r\n\r\n",
            b"HTTP/1.0 many\r\n\r\n",
            b"\xff\xff\r\n\r\n",
            b"",
        ] {
            assert!(parse(broken).is_none(), "{broken:?}");
        }
    }
}
