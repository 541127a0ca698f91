//! A TCP proxy that breaks connections on demand, on a port that stays.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mlx_types::NatsUrl;
use mlx_types::config::NatsConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::TestServer;

/// Bytes forwarded at once. A throttled connection forwards a tenth of a second's worth instead, where that is less.
const CHUNK: usize = 16 * 1024;

/// Stands between a client and a server, and gives the client a network as bad as a test wants it.
///
/// Faults hold for all connections, those already made too. Dropping it closes them, and the port.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    controls: watch::Sender<Controls>,
    traffic: Arc<Traffic>,
    acceptor: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Controls {
    /// A connection ends when this is no longer what it was when the connection was made.
    cuts: u64,
    stalled: bool,
    refusing: bool,
    delay: Duration,
    bytes_per_second: Option<u64>,
}

#[derive(Debug, Default)]
struct Traffic {
    accepted: AtomicU64,
    /// Bytes on the way to the client that are still to be lost.
    to_drop: AtomicU64,
    dropped: AtomicU64,
    /// Bytes that came from the client.
    sent: AtomicU64,
}

impl FaultProxy {
    /// A proxy without any faults yet, in front of `server`.
    pub async fn start(server: &TestServer) -> Self {
        Self::before(server.embedded().client_addr()).await
    }

    /// A proxy without any faults yet, in front of whatever listens at `target`.
    pub async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (controls, seen) = watch::channel(Controls::default());
        let traffic = Arc::new(Traffic::default());
        let acceptor = tokio::spawn(accept(listener, target, seen, Arc::clone(&traffic)));
        Self { address, controls, traffic, acceptor }
    }

    /// Where it listens.
    pub fn url(&self) -> NatsUrl {
        format!("nats://{}", self.address).parse().unwrap()
    }

    /// `config`, with the proxy as its server.
    pub fn in_front(&self, config: NatsConfig) -> NatsConfig {
        config.server_url(self.url())
    }

    /// Closes every connection. New ones are taken.
    pub fn cut(&self) {
        self.controls.send_modify(|controls| controls.cuts += 1);
    }

    /// Forwards nothing any more, either way, while all sockets stay open: what a frozen machine looks like.
    pub fn stall(&self) {
        self.controls.send_modify(|controls| controls.stalled = true);
    }

    /// Forwards again, beginning with what was held back.
    pub fn resume(&self) {
        self.controls.send_modify(|controls| controls.stalled = false);
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.controls.send_modify(|controls| controls.refusing = refusing);
    }

    /// Holds each chunk back for so long, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.controls.send_modify(|controls| controls.delay = delay);
    }

    /// Forwards so many bytes a second in each direction of each connection, or as many as come.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.controls.send_modify(|controls| controls.bytes_per_second = bytes_per_second);
    }

    /// Loses the next byte on its way to the client, which garbles what follows.
    pub fn drop_byte(&self) {
        self.traffic.to_drop.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes lost so far.
    pub fn dropped_bytes(&self) -> u64 {
        self.traffic.dropped.load(Ordering::SeqCst)
    }

    /// Bytes that came from clients so far, whether or not they went on.
    pub fn sent_bytes(&self) -> u64 {
        self.traffic.sent.load(Ordering::SeqCst)
    }

    /// Connections taken so far, refused ones aside.
    pub fn accepted(&self) -> u64 {
        self.traffic.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.acceptor.abort(); // and with it the connections
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, controls: watch::Receiver<Controls>, traffic: Arc<Traffic>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        if controls.borrow().refusing {
            continue;
        }
        traffic.accepted.fetch_add(1, Ordering::Relaxed);
        connections.spawn(connection(client, target, controls.clone(), Arc::clone(&traffic)));
    }
}

/// One connection, until an end closes it or it is cut.
async fn connection(
    client: TcpStream,
    target: SocketAddr,
    mut controls: watch::Receiver<Controls>,
    traffic: Arc<Traffic>,
) {
    let cuts = controls.borrow().cuts;
    // A server that is down closes the connection, as it would without us.
    let Ok(server) = TcpStream::connect(target).await else { return };
    for socket in [&client, &server] {
        socket.set_nodelay(true).unwrap();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, controls.clone(), Arc::clone(&traffic), Way::Up);
    let down = pump(from_server, to_client, controls.clone(), traffic, Way::Down);
    tokio::select! {
        // The cut first: what a stall holds back must not slip through when both end at once.
        biased;
        _ = controls.wait_for(|controls| controls.cuts != cuts) => {}
        _ = up => {}
        _ = down => {}
    }
}

/// Which way bytes go: up to the server, or down to the client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Moves bytes one way. Ends with either side's end, which is all that its caller wants to know.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut controls: watch::Receiver<Controls>,
    traffic: Arc<Traffic>,
    way: Way,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let rate = controls.borrow().bytes_per_second;
        let chunk = rate.map_or(CHUNK, |rate| usize::try_from(rate / 10).unwrap().clamp(1, CHUNK));
        let read = from.read(&mut buffer[..chunk]).await?;
        if read == 0 {
            return Ok(());
        }
        let mut bytes = &buffer[..read];
        if way == Way::Up {
            traffic.sent.fetch_add(read as u64, Ordering::SeqCst);
        }
        let delay = controls.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await; // the fault itself
        }
        let _running = controls.wait_for(|controls| !controls.stalled).await.map_err(io::Error::other)?.stalled;
        if way == Way::Down
            && traffic.to_drop.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        {
            traffic.dropped.fetch_add(1, Ordering::SeqCst);
            bytes = &bytes[1..];
        }
        to.write_all(bytes).await?;
        if let Some(rate) = rate {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await; // likewise
        }
    }
}
