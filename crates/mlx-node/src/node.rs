//! A node that runs: its bus, a controller, a worker, as the plan says; and how it ends.

use std::io::Write;
use std::time::{Duration, Instant};

use mlx_embedded::{EmbeddedServer, Node, ServerState};
use mlx_errors::{Error, ErrorCode, ErrorKind, Result};
use mlx_nats::{Client, ConnectionState};
use mlx_types::messages::ClusterShutdown;
use mlx_types::subjects;

use crate::bus;
use crate::gateway::{self, Listeners, Server};
use crate::plan::Plan;
use crate::signals::{Interrupts, stdin_ended};
use crate::worker::{self, RunningWorker};

/// How long answers under way may take to their end once the node is told to end.
const GRACE: Duration = Duration::from_secs(30);
/// The same where the process that started this one is gone.
const ORPHANED: Duration = Duration::from_millis(500);
/// Between two attempts at what the bus failed.
const AGAIN: Duration = Duration::from_millis(250);
/// How long the connection and the server may take to end.
const CLOSING: Duration = Duration::from_secs(2);

/// Runs a node until it is interrupted, or until it cannot go on.
///
/// # Errors
/// An address that cannot be listened on, a bus that refuses it, a worker with the same id that began later.
pub(crate) async fn run(plan: &Plan, ends_with_stdin: bool) -> Result<()> {
    let mut interrupts = Interrupts::catch();
    // Before anything is started, since this is what is most likely to fail.
    let waiting = match &plan.controller {
        Some(controller) => Some(Listeners::bind(&controller.gateway).await?.wait()),
        None => None,
    };
    gateway::install_metrics()?;
    let stdin = async { if ends_with_stdin { stdin_ended().await } else { std::future::pending().await } };
    let mut stdin = Box::pin(stdin);
    let node = tokio::select! {
        node = bus::join(&plan.bus, &plan.client, tell) => node?,
        () = interrupts.next() => return Ok(()),
        () = &mut stdin => return Ok(()),
    };
    let listeners = match waiting {
        Some(waiting) => Some(waiting.end().await?),
        None => None,
    };
    // Models may be loaded for minutes before all is there.
    let started = tokio::select! {
        started = Parts::start(plan, listeners, &node) => started.map(Some),
        () = interrupts.next() => Ok(None),
        () = &mut stdin => Ok(None),
    };
    let outcome = match started {
        Ok(Some(parts)) => parts.run(&node, &mut interrupts, stdin).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let closed = unless_gone(close(node).await);
    outcome.and(closed)
}

/// Tells people what happens, on standard output: logs go elsewhere.
pub(crate) fn tell(text: &str) {
    // Nobody has to read it.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// What runs on the bus.
struct Parts {
    gateway: Option<Server>,
    worker: Option<RunningWorker>,
}

impl Parts {
    async fn start(plan: &Plan, listeners: Option<Listeners>, node: &Node) -> Result<Self> {
        let client = node.client();
        if let Some((server, pid)) = node.server().and_then(|server| Some((server, server.pid()?))) {
            tell(&format!("nats-server is process {pid}, at {}", server.client_url()));
        }
        let gateway = match (&plan.controller, listeners) {
            (Some(controller), Some(listeners)) => {
                // Followed before the worker starts, so that its registration is not missed.
                let registry = persist(client, || client.workers()).await?;
                let dispatcher = persist(client, || client.dispatcher(controller.dispatch.clone())).await?;
                let (address, page) = (listeners.address(), listeners.page_address());
                let known = controller.dispatch.known.clone();
                let server = Server::start(listeners, &controller.gateway, known, client, (registry, dispatcher));
                tell(&format!("listening on http://{address}"));
                tell(&format!("the page is at http://{page}/, OpenAI's protocol at http://{address}/v1"));
                if gateway::is_open(address, &controller.gateway) {
                    tell("whoever reaches this address may use the cluster: `controller.apiKeys` has it ask for a key");
                }
                Some(server)
            }
            _ => None,
        };
        let worker = match &plan.worker {
            Some(plan) => {
                let worker = persist(client, || worker::start(client, plan)).await?;
                tell(&format!("worker {} is ready", worker.id()));
                Some(worker)
            }
            None => None,
        };
        Ok(Self { gateway, worker })
    }

    /// Runs until told to end, and ends in good order: answers of the gateway first, for which the worker may be needed; then
    /// the worker, which says farewell. Told again, it ends at once.
    async fn run(self, node: &Node, interrupts: &mut Interrupts, stdin: impl Future<Output = ()>) -> Result<()> {
        let Self { gateway, mut worker } = self;
        let mut grace = GRACE;
        let ended = tokio::select! {
            () = interrupts.next() => Ok(()),
            () = stdin => {
                grace = ORPHANED; // nobody is left who waits for it
                Ok(())
            }
            ended = works(&mut worker) => {
                // Another one has its id now, or nothing can be said any more: a farewell would be that one's, or of no use.
                worker = None;
                ended
            }
            error = gone(gateway.as_ref(), node) => Err(error),
        };
        let farewell = worker.as_ref().map(RunningWorker::farewell);
        tell("ending: what is under way may finish; interrupt again to end it at once");
        let drained = tokio::select! {
            drained = drain(gateway, worker, grace) => drained,
            () = interrupts.next() => match farewell {
                Some(farewell) => node.client().publish(&subjects::WORKER_DEREGISTER, &farewell).await,
                None => Ok(()),
            },
        };
        ended.and(unless_gone(drained))
    }
}

/// Does what needs the bus, again when that is there again, for as long as it may come back.
async fn persist<T, F: Future<Output = Result<T>>>(client: &Client, attempt: impl Fn() -> F) -> Result<T> {
    loop {
        let error = match attempt().await {
            Err(error) if error.is_retryable() && !client.state().is_closed() => error,
            done => return done,
        };
        tracing::warn!(error = &error as &dyn std::error::Error, "the bus went away in the middle; tried again");
        // Also where it is back already: what failed for another reason is not tried without a pause.
        tokio::time::sleep(AGAIN).await;
        let mut state = client.watch_state();
        let may_go_on = |state: &ConnectionState| state.is_connected() || state.is_closed();
        let _ = state.wait_for(may_go_on).await; // an error means that it is closed
    }
}

/// The bus may have gone before: what could not be said over it is no reason to end with an error.
fn unless_gone(ended: Result<()>) -> Result<()> {
    match ended {
        Err(error) if matches!(error.code(), ErrorCode::NatsDisconnected | ErrorCode::NatsClosed) => {
            tracing::info!(error = &error as &dyn std::error::Error, "the bus is gone, and could not be told");
            Ok(())
        }
        ended => ended,
    }
}

async fn works(worker: &mut Option<RunningWorker>) -> Result<()> {
    match worker {
        Some(worker) => worker.ended().await,
        None => std::future::pending().await,
    }
}

async fn drain(gateway: Option<Server>, worker: Option<RunningWorker>, grace: Duration) -> Result<()> {
    let began = Instant::now();
    if let Some(gateway) = gateway {
        gateway.stop(tokio::time::sleep(grace)).await; // the most that answers may take
    }
    match worker {
        Some(worker) => worker.drain(grace.saturating_sub(began.elapsed()).max(ORPHANED)).await,
        None => Ok(()),
    }
}

/// Why the bus is gone for good, once it is.
async fn gone(gateway: Option<&Server>, node: &Node) -> Error {
    let followed = async {
        match gateway {
            Some(gateway) => gateway.follow().await.unwrap_or_else(|error| error),
            None => std::future::pending().await,
        }
    };
    let closed = async {
        let mut state = node.client().watch_state();
        loop {
            if let ConnectionState::Closed { reason } = &*state.borrow_and_update() {
                return Error::new(ErrorKind::Closed { reason: reason.to_string() });
            }
            if state.changed().await.is_err() {
                return Error::new(ErrorKind::Closed { reason: "the client is gone".to_owned() });
            }
        }
    };
    let failed = async {
        match node.server() {
            Some(server) => given_up(server).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        error = followed => error,
        error = closed => error,
        error = failed => error,
    }
}

/// Ends the connection, and the server where it is this node's: only then is the cluster told that it is shut down.
async fn close(node: Node) -> Result<()> {
    if node.server().is_some() {
        let shutdown =
            ClusterShutdown::new(u64::try_from(CLOSING.as_millis()).unwrap_or(u64::MAX)).reason("the bus ends");
        if let Err(error) = node.client().publish(&subjects::CLUSTER_SHUTDOWN, &shutdown).await {
            tracing::info!(error = &error as &dyn std::error::Error, "the shutdown could not be announced");
        }
    }
    node.shutdown(CLOSING).await
}

async fn given_up(server: &EmbeddedServer) -> Error {
    let mut state = server.watch_state();
    loop {
        match &*state.borrow_and_update() {
            ServerState::Failed(error) => return Error::new(error.kind().clone()),
            ServerState::Stopped => {
                return Error::new(ErrorKind::Closed { reason: "the server was stopped".to_owned() });
            }
            _ => {}
        }
        if state.changed().await.is_err() {
            return Error::new(ErrorKind::Closed { reason: "the server is gone".to_owned() });
        }
    }
}
