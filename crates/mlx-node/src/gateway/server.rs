//! The gateway's life: it listens before anything is started, serves, and finishes the answers under way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::{Client, Dispatcher, Workers};
use tokio::net::{TcpListener, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::access::Keys;
use super::events::{self, EventLog};
use super::hosts::Hosts;
use super::stats::Stats;
use super::{Gateway, is_open, routers};
use crate::plan::{GatewayPlan, KnownWorkers};

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
    servers: Vec<JoinHandle<io::Result<()>>>,
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
                // An error of a server is one of its listener, which is closed now.
                let _ = server.await;
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

async fn serve(listener: TcpListener, router: Router, mut closed: watch::Receiver<bool>) -> io::Result<()> {
    let told = async move {
        let _ = closed.wait_for(|closed| *closed).await; // an error means the same
    };
    axum::serve(listener, router).with_graceful_shutdown(told).await
}
