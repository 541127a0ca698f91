//! Which of several servers answers, found out before the transport is sent there: it would wait for each of them in turn.
//!
//! All are asked, each a moment after the one before, as RFC 8305 does it with the addresses of a name; the first that greets
//! like a NATS server is it. What does not answer costs that moment and no more.

use std::time::Duration;

use async_nats::ServerAddr;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Between two questions, while no answer has come.
const STAGGER: Duration = Duration::from_millis(120);

/// How long a server may take to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

/// How much longer the others may take once all those that count have failed.
const REST: Duration = Duration::from_millis(250);

/// Bytes of a greeting: it names all servers of a cluster.
const LONGEST_GREETING: u64 = 1 << 20;

/// A server to ask.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) addr: ServerAddr,
    /// One address of several of a name. It will do only for a server without TLS, whose certificate is for the name.
    pub(super) is_address_of_name: bool,
    /// Configured, and not only told of by another server.
    pub(super) is_configured: bool,
}

/// Asks the servers in this order. The place of the first that answers, or what is wrong with each.
pub(super) async fn first_to_answer(targets: &[Target], handshake_first: bool) -> Result<usize, String> {
    let mut asked = FuturesUnordered::new();
    let mut faults = Vec::new();
    let mut waiting = targets.iter().enumerate();
    let mut configured_left = targets.iter().filter(|target| target.is_configured).count();
    let mut next = Instant::now();
    let mut end: Option<Instant> = None;
    let mut more = true;
    loop {
        if more && (asked.is_empty() || Instant::now() >= next) {
            match waiting.next() {
                Some((place, target)) => {
                    asked.push(async move { (place, greeting(target, handshake_first).await) });
                    next = Instant::now() + STAGGER;
                }
                None => more = false,
            }
        }
        if !more && asked.is_empty() {
            return Err(faults.join("; "));
        }
        if configured_left == 0 && end.is_none() && targets.iter().any(|target| target.is_configured) {
            end = Some(Instant::now() + REST);
        }
        tokio::select! {
            Some((place, answer)) = asked.next(), if !asked.is_empty() => match answer {
                Ok(()) => return Ok(place),
                Err(fault) => {
                    next = Instant::now();
                    if let Some(target) = targets.get(place) {
                        configured_left -= usize::from(target.is_configured);
                        faults.push(format!("{}:{}: {fault}", target.addr.host(), target.addr.port()));
                    }
                }
            },
            () = sleep_until(next), if more => {}
            () = at(end) => return Err(faults.join("; ")),
        }
    }
}

async fn at(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

async fn greeting(target: &Target, handshake_first: bool) -> Result<(), String> {
    let (host, port) = (target.addr.host(), target.addr.port());
    let greeting = async {
        let socket = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        if handshake_first {
            return Ok(()); // it says nothing before TLS
        }
        let mut line = String::new();
        let mut reader = BufReader::new(socket).take(LONGEST_GREETING);
        reader.read_line(&mut line).await.map_err(|error| error.to_string())?;
        let Some(info) = line.strip_prefix("INFO ") else { return Err("it is no NATS server".to_owned()) };
        let info: Info = serde_json::from_str(info).map_err(|error| error.to_string())?;
        if info.tls_required && target.is_address_of_name {
            return Err("its certificate is for a name".to_owned());
        }
        Ok(())
    };
    match timeout(GREETING_TIMEOUT, greeting).await {
        Ok(greeting) => greeting,
        Err(_) => Err(format!("no greeting within {} ms", GREETING_TIMEOUT.as_millis())),
    }
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    tls_required: bool,
}

/// The addresses of a name; none where it has none, or where finding them takes long.
pub(super) async fn addresses(server: &ServerAddr) -> Vec<std::net::SocketAddr> {
    let lookup = tokio::net::lookup_host((server.host(), server.port()));
    tokio::select! {
        found = lookup => found.map(Iterator::collect).unwrap_or_default(),
        () = sleep(GREETING_TIMEOUT) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn target(greets: Option<&'static str>, is_configured: bool) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = format!("nats://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                if let Some(greeting) = greets {
                    let _ = socket.write_all(greeting.as_bytes()).await;
                }
                kept.push(socket);
            }
        });
        Target { addr, is_address_of_name: false, is_configured }
    }

    #[tokio::test]
    async fn c7_a_silent_server_costs_a_moment_and_no_more() {
        let (silent, healthy) = (target(None, true).await, target(Some("INFO {}\r\n"), true).await);
        let began = Instant::now();
        let targets = [silent.clone(), silent, healthy];
        assert_eq!(first_to_answer(&targets, false).await, Ok(2));
        assert!(began.elapsed() < GREETING_TIMEOUT);
    }

    #[tokio::test]
    async fn c7_what_is_no_nats_server_is_passed_over() {
        let (web, healthy) = (target(Some("HTTP/1.1 400\r\n"), true).await, target(Some("INFO {}\r\n"), true).await);
        assert_eq!(first_to_answer(&[web.clone(), healthy], false).await, Ok(1));
        assert!(first_to_answer(&[web], false).await.unwrap_err().contains("no NATS server"));
    }

    #[tokio::test]
    async fn c7_those_that_are_only_told_of_are_not_waited_for_when_all_configured_ones_have_failed() {
        let gone =
            Target { addr: "nats://127.0.0.1:1".parse().unwrap(), is_address_of_name: false, is_configured: true };
        let began = Instant::now();
        assert!(first_to_answer(&[gone, target(None, false).await], false).await.is_err());
        assert!(began.elapsed() < GREETING_TIMEOUT);
    }
}
