//! Between the transport, which asks for a server before each attempt, and the pool of servers, which knows one.
//!
//! The transport asks by a call and waits for the answer, so nothing of this is lost on the way, as its events may be.

use std::collections::HashMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ReconnectToServer, Server, ServerAddr, ServerInfo};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Backoff;
use super::manager::Signal;
use super::scout::{self, Target};
use super::server_pool::{Candidate, Next, ServerPool};

/// Chooses servers. Shared by the transport, which asks, and the client, which wants to know where it is connected.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    backoff: Backoff,
    reconnect: bool,
    handshake_first: bool,
    /// Addresses of names, in the words of [`name`], and the names.
    names: HashMap<String, ServerAddr>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pool: ServerPool,
    /// While the first connection is made: the place of the one server to try.
    first: Option<usize>,
    /// The last server that took us: its id and what it calls us. Another one means another connection.
    met: (String, u64),
    /// The configured server that took us last.
    met_server: Option<ServerAddr>,
    /// Answers to the transport since the last connection.
    answers: u32,
}

/// What has to be done to answer the transport.
enum NextServer {
    /// This server, after a pause.
    Connect(ServerAddr, Duration),
    /// The first of these to answer, after a pause.
    Any(Vec<Choice>, Duration),
    /// None any more.
    End,
}

/// One of several servers.
#[derive(Clone, Debug)]
struct Choice {
    target: Target,
    /// What the transport has counted of it.
    failures: usize,
}

impl Dispatcher {
    /// One that gives up after `limit` failed attempts in a row. `names` are those of addresses that are tried in their place.
    pub(super) fn new(
        backoff: Backoff,
        reconnect: bool,
        limit: u32,
        handshake_first: bool,
        names: HashMap<String, ServerAddr>,
    ) -> Self {
        let state =
            State { pool: ServerPool::new(limit), first: None, met: (String::new(), 0), met_server: None, answers: 0 };
        Self { backoff, reconnect, handshake_first, names, state: Mutex::new(state) }
    }

    /// Has the next connection made to the server at `place`, and to no other.
    pub(super) fn first(&self, place: usize) {
        self.state.lock().first = Some(place);
    }

    /// Where we are connected, or try to be, and which attempt it is since the last connection.
    pub(crate) fn current(&self) -> (String, u32) {
        let state = self.state.lock();
        let (server, attempt) = state.pool.current();
        (self.shown(server), attempt)
    }

    /// The configured server that accepted us last. Servers that it tells of are shown its credentials.
    pub(crate) fn met(&self) -> Option<ServerAddr> {
        self.state.lock().met_server.clone()
    }

    /// The server of the attempt under way, by the name that is configured.
    pub(super) fn current_addr(&self) -> Option<ServerAddr> {
        let state = self.state.lock();
        let current = state.pool.current().0;
        self.names.get(current).cloned().or_else(|| current.parse().ok())
    }

    fn shown(&self, server: &str) -> String {
        self.names.get(server).map_or_else(|| server.to_owned(), name)
    }

    /// The transport's question. Answers when it is time, and at once when the client is gone.
    pub(super) fn next(
        self: &Arc<Self>,
        servers: &[Server],
        info: &ServerInfo,
        signals: &mpsc::UnboundedSender<Signal>,
    ) -> impl Future<Output = Option<ReconnectToServer>> + Send + Sync + use<> {
        let answer = self.answer(servers, info, signals);
        let (signals, dispatcher) = (signals.clone(), Arc::clone(self));
        async move {
            let chosen = async {
                match answer {
                    NextServer::Connect(addr, pause) => {
                        tokio::time::sleep(pause).await; // what backing off means
                        Some(addr)
                    }
                    NextServer::Any(choices, pause) => {
                        tokio::time::sleep(pause).await; // as above
                        // Nowhere, so that the transport asks again at once, and the failure is booked.
                        dispatcher.first_to_answer(&choices).await.or_else(nowhere)
                    }
                    NextServer::End => std::future::pending().await,
                }
            };
            // The transport ends only by failing as often as it may: here without any network, and with a turn for others in
            // between.
            let addr = tokio::select! {
                chosen = chosen => chosen?,
                () = signals.closed() => {
                    tokio::task::yield_now().await;
                    nowhere()?
                }
            };
            Some(ReconnectToServer { addr, delay: Some(Duration::ZERO) })
        }
    }

    async fn first_to_answer(&self, choices: &[Choice]) -> Option<ServerAddr> {
        let targets: Vec<Target> = choices.iter().map(|choice| choice.target.clone()).collect();
        let answered = scout::first_to_answer(&targets, self.handshake_first).await;
        let mut state = self.state.lock();
        match answered.map(|place| choices.get(place)) {
            Ok(Some(Choice { target, failures })) => {
                let address = &name(&target.addr);
                state.pool.turn_to(Candidate { address, failures: *failures, configured: true, error: None });
                Some(target.addr.clone())
            }
            Ok(None) => None,
            Err(why) => {
                state.pool.found_nobody(why);
                None
            }
        }
    }

    fn answer(&self, servers: &[Server], info: &ServerInfo, signals: &mpsc::UnboundedSender<Signal>) -> NextServer {
        let servers: Vec<&Server> = servers.iter().filter(|server| server.addr.port() != NOWHERE).collect();
        let names: Vec<String> = servers.iter().map(|server| name(&server.addr)).collect();
        let mut state = self.state.lock();
        let met = (info.server_id.clone(), info.client_id);
        if met.0.is_empty() {
            // The first connection, which is ours to repeat.
            let place = state.first.unwrap_or_default();
            let Some((server, name)) = servers.get(place).zip(names.get(place)) else { return NextServer::End };
            state.pool.connected(name);
            state.met_server = Some(self.names.get(name).unwrap_or(&server.addr).clone());
            return NextServer::Connect(server.addr.clone(), Duration::ZERO);
        }
        if state.met != met {
            state.met = met;
            let server = state.pool.current().0.to_owned();
            state.pool.connected(&server);
            state.answers = 0;
            if let Some(known) =
                servers.iter().zip(&names).find(|(known, name)| **name == server && !known.is_discovered)
            {
                state.met_server = Some(self.names.get(&server).unwrap_or(&known.0.addr).clone());
            }
        }
        if !self.reconnect {
            let _ = signals.send(Signal::Down);
            return NextServer::End;
        }
        let candidates: Vec<Candidate<'_>> = servers
            .iter()
            .zip(&names)
            .map(|(server, name)| Candidate {
                address: name,
                failures: server.failed_attempts,
                configured: !server.is_discovered,
                error: server.last_error.as_deref(),
            })
            .collect();
        let (failure, next) = state.pool.next(&candidates, fastrand::f64());
        let pause = match next {
            Next::Try { attempt, .. } => Some(self.pause(attempt)),
            Next::Refused | Next::GiveUp { .. } => None,
        };
        // A client that is gone need not be told.
        if let Some(mut failure) = failure {
            failure.server = self.shown(&failure.server);
            let _ = signals.send(Signal::AttemptFailed { failure, retry_in: pause });
        }
        state.answers = state.answers.saturating_add(1);
        let many = state.answers > LARGE / 2;
        let (signal, answer) = match next {
            Next::Try { place, attempt } => match servers.get(place).zip(pause) {
                Some((server, pause)) => {
                    let choices = self.choices(&servers, &names, &state.pool);
                    let answer = if choices.len() > 1 || many {
                        NextServer::Any(choices, pause)
                    } else {
                        NextServer::Connect(server.addr.clone(), pause)
                    };
                    (Signal::Attempt(attempt), answer)
                }
                None => (Signal::Attempt(attempt), NextServer::End),
            },
            Next::Refused => (Signal::Refused, NextServer::End),
            Next::GiveUp { attempts } => (Signal::GaveUp { attempts }, NextServer::End),
        };
        let _ = signals.send(signal);
        answer
    }

    /// The first attempt comes at once: as a rule only the connection has dropped, and others wait for this client. Not at the
    /// same moment for all clients of a server.
    fn pause(&self, attempt: u32) -> Duration {
        match attempt {
            0 | 1 => AT_ONCE.mul_f64(fastrand::f64()),
            later => self.backoff.delay(later, fastrand::f64()),
        }
    }

    /// Whom to ask, in this order: configured servers, by their addresses where names have several, and then those told of.
    fn choices(&self, servers: &[&Server], names: &[String], pool: &ServerPool) -> Vec<Choice> {
        let rank = |server: &Server, name: &String| {
            let has_addresses = self.names.values().any(|named| *named == server.addr);
            (server.is_discovered, has_addresses && !self.names.contains_key(name), server.failed_attempts)
        };
        let mut usable: Vec<_> = servers.iter().zip(names).filter(|(_, name)| !pool.is_hopeless(name)).collect();
        usable.sort_by_key(|(server, name)| rank(server, name));
        let choice = |(server, name): &(&&Server, &String)| Choice {
            target: Target {
                addr: server.addr.clone(),
                is_address_of_name: self.names.contains_key(*name),
                is_configured: !server.is_discovered,
            },
            failures: server.failed_attempts,
        };
        usable.iter().map(choice).collect()
    }
}

/// What the transport may try by itself. Of more attempts, it gets to know only those that find a server: it ends by failing as
/// often as it may, which is done in a moment.
pub(super) const LARGE: u32 = 1000;

/// The longest pause before the first attempt.
const AT_ONCE: Duration = Duration::from_millis(50);

/// No server can listen there.
const NOWHERE: u16 = 0;

/// An address to which every attempt fails at once, and which the transport knows beside the real ones.
pub(super) fn nowhere() -> Option<ServerAddr> {
    format!("nats://{}:{NOWHERE}", Ipv4Addr::LOCALHOST).parse().ok()
}

/// A server's address without credentials.
pub(super) fn name(server: &ServerAddr) -> String {
    let (scheme, host, port) = (server.scheme(), server.host(), server.port());
    if host.contains(':') { format!("{scheme}://[{host}]:{port}") } else { format!("{scheme}://{host}:{port}") }
}
