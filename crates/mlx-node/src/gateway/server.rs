//! The gateway's life: it listens before anything is started, serves, and finishes the answers under way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::{Client, Dispatcher, Workers};
use tokio::net::{TcpListener, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

use super::access::Keys;
use super::body::Room;
use super::error::ApiError;
use super::events::{self, EventLog};
use super::hosts::Hosts;
use super::stats::Stats;
use super::{Gateway, is_open, routers};
use crate::plan::{GatewayPlan, KnownWorkers};

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 2048;
/// How long the head of a request may take to come, and a connection may be idle between two.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a client may take to read more of an answer: one that does not read keeps a connection from others.
const READING_TIME: Duration = Duration::from_mins(1);
/// What a connection holds of its requests and answers in memory, in bytes, beside a body; and so a head has no more.
const BUFFER: usize = 64 * 1024;
/// After a connection that could not be accepted, for want of files.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// How long the connections may take to close once no answer goes on.
const CLOSING: Duration = Duration::from_secs(1);

/// The sockets, before anything else is started: this is what is most likely to fail.
pub(crate) struct Listeners {
    api: TcpListener,
    /// Where the page has a port of its own.
    page: Option<TcpListener>,
    address: SocketAddr,
    page_address: SocketAddr,
}

impl Listeners {
    /// # Errors
    /// [`ErrorKind::Listen`], with the key to change.
    pub(crate) async fn bind(plan: &GatewayPlan) -> Result<Self> {
        let (api, address) = listen(&plan.host, plan.port, plan.said_by.unwrap_or("controller.port")).await?;
        match plan.page_port {
            None => Ok(Self { api, page: None, address, page_address: address }),
            Some(port) => {
                let (page, page_address) = listen(&plan.host, port, "controller.dashboardPort").await?;
                Ok(Self { api, page: Some(page), address, page_address })
            }
        }
    }

    /// Where the API is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the page is.
    pub(crate) fn page_address(&self) -> SocketAddr {
        self.page_address
    }
}

/// What a client gets while there is no bus yet: an answer, where a connection that nobody serves would hang.
pub(crate) struct Waiting {
    api: JoinHandle<TcpListener>,
    page: Option<JoinHandle<TcpListener>>,
    addresses: (SocketAddr, SocketAddr),
    close: watch::Sender<bool>,
}

impl Listeners {
    /// Says to all who ask that the bus is not there yet.
    pub(crate) fn wait(self) -> Waiting {
        let close = watch::Sender::new(false);
        let not_yet = || async {
            let message = "the controller waits for its message bus, which is not there yet";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "NATS_DISCONNECTED", message)
        };
        let router = Router::new().fallback(not_yet);
        let lent = |listener| tokio::spawn(lend(listener, router.clone(), close.subscribe()));
        let (api, page) = (lent(self.api), self.page.map(lent));
        Waiting { api, page, addresses: (self.address, self.page_address), close }
    }
}

impl Waiting {
    /// The listeners, for the gateway itself.
    ///
    /// # Errors
    /// A defect: a task that failed.
    pub(crate) async fn end(self) -> Result<Listeners> {
        self.close.send_replace(true);
        let api = self.api.await.map_err(Error::internal)?;
        let page = match self.page {
            Some(page) => Some(page.await.map_err(Error::internal)?),
            None => None,
        };
        let (address, page_address) = self.addresses;
        Ok(Listeners { api, page, address, page_address })
    }
}

async fn listen(host: &str, port: u16, key: &str) -> Result<(TcpListener, SocketAddr)> {
    let failed = |error: io::Error| {
        let own_host = error.kind() == io::ErrorKind::AddrNotAvailable;
        let key = if own_host && key.contains('.') { "controller.bindAddress" } else { key };
        let kind = ErrorKind::Listen { address: shown(host, port), hint: format!("`{key}` says where") };
        Error::with_source(kind, error)
    };
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(failed)?.collect();
    let listener = TcpListener::bind(&addresses[..]).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn shown(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A gateway that serves.
pub(crate) struct Server {
    gateway: Arc<Gateway>,
    servers: Vec<JoinHandle<()>>,
    /// Said once no new connections are taken.
    close: watch::Sender<bool>,
    /// Said once no answer may go on.
    end: watch::Sender<bool>,
}

impl Server {
    pub(crate) fn start(
        listeners: Listeners,
        plan: &GatewayPlan,
        known: KnownWorkers,
        client: &Client,
        (registry, dispatcher): (Workers, Dispatcher),
    ) -> Self {
        let (end, over) = watch::channel(false);
        let Listeners { api, page, address, page_address } = listeners;
        let gateway = Arc::new(Gateway {
            client: client.clone(),
            registry,
            dispatcher,
            known,
            stats: Stats::default(),
            events: EventLog::default(),
            hosts: Hosts::at(address, &plan.allow_hosts),
            keys: Keys::new(plan.api_keys.clone()),
            bodies: Room::default(),
            page_port: page.is_some().then(|| page_address.port()),
            over,
        });
        if is_open(address, plan) {
            tracing::warn!(%address, "whoever reaches the gateway may use every model: set `controller.apiKeys`, or a `controller.bindAddress` of this machine alone");
        }
        let close = watch::Sender::new(false);
        let (api_router, page_router) = routers(&gateway, plan);
        let with_page = page.zip(page_router);
        let servers = [Some((api, api_router)), with_page].into_iter().flatten();
        let servers = servers.map(|(listener, router)| tokio::spawn(serve(listener, router, close.subscribe())));
        Self { servers: servers.collect(), gateway, close, end }
    }

    /// Follows the workers and the bus for the page, until the bus is given up.
    ///
    /// # Errors
    /// A subscription that cannot be made.
    pub(crate) async fn follow(&self) -> Result<Error> {
        let reason = events::follow(&self.gateway).await?;
        Ok(Error::new(ErrorKind::Closed { reason }))
    }

    /// Takes no new connections, and returns when those that are open have finished, or after `grace`: what then is still
    /// under way ends with an error.
    pub(crate) async fn stop(self, grace: impl Future<Output = ()>) {
        self.close.send_replace(true);
        let mut finish = Box::pin(async move {
            for server in self.servers {
                let _ = server.await; // an error means that it is over
            }
        });
        let finished = tokio::select! {
            () = &mut finish => true,
            () = grace => false,
        };
        self.end.send_replace(true);
        if !finished && timeout(CLOSING, finish).await.is_err() {
            tracing::warn!("connections are still open, and are closed by the end of this process");
        }
    }
}

/// Serves connections until told to close, and returns when those that were open then have finished.
async fn serve(listener: TcpListener, router: Router, closed: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    accept(&listener, &router, &graceful, closed).await;
    drop(listener);
    graceful.shutdown().await;
}

/// The same with the listener for who comes next.
async fn lend(listener: TcpListener, router: Router, closed: watch::Receiver<bool>) -> TcpListener {
    let graceful = GracefulShutdown::new();
    accept(&listener, &router, &graceful, closed).await;
    let _ = timeout(CLOSING, graceful.shutdown()).await; // half a request is not waited for
    listener
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    graceful: &GracefulShutdown,
    mut closed: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(BUFFER);
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = closed.wait_for(|closed| *closed) => break, // an error means the same
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(REFUSED_PAUSE).await; // time is the point: files may be free again
                continue;
            }
        };
        // Without it a short write waits for the acknowledgement of the one before: 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(READING_TIME));
        let stream = TokioIo::new(Box::pin(stream));
        let connection = http.serve_connection(stream, TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
}
