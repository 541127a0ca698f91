//! Between the transport, which asks for a server before each attempt, and the roster, which knows one.
//!
//! The transport asks by a call and waits for the answer, so nothing of this is lost on the way, as its events may be.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{ReconnectToServer, Server, ServerAddr, ServerInfo};
use tokio::sync::mpsc;

use super::manager::Signal;
use super::roster::{Candidate, Next, Roster};
use super::{Backoff, Link};

/// Chooses servers. Shared by the transport, which asks, and the client, which wants to know where it is connected.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    backoff: Backoff,
    reconnect: bool,
    limit: u32,
    link: Arc<Link>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    roster: Roster,
    /// While the first connection is made: the place of the one server to try.
    first: Option<usize>,
    /// The last server that took us: its id and what it calls us. Another one means another connection.
    met: (String, u64),
}

/// What has to be done to answer the transport.
enum Answer {
    /// This server, after a pause.
    Connect(ServerAddr, Duration),
    /// None any more.
    End,
}

impl Dispatcher {
    /// One that gives up after `limit` failed attempts in a row.
    pub(super) fn new(backoff: Backoff, reconnect: bool, limit: u32, link: Arc<Link>) -> Self {
        let state = State { roster: Roster::new(limit), first: None, met: (String::new(), 0) };
        Self { backoff, reconnect, limit, link, state: Mutex::new(state) }
    }

    /// Has the next connection made to the server at `place`, and to no other.
    pub(super) fn first(&self, place: usize) {
        self.lock().first = Some(place);
    }

    /// Where we are connected, or try to be, and which attempt it is since the last connection.
    pub(crate) fn current(&self) -> (String, u32) {
        let state = self.lock();
        let (server, attempt) = state.roster.current();
        (server.to_owned(), attempt)
    }

    /// The transport's question. Answers when it is time, and at once when the client is gone.
    pub(super) fn next(
        &self,
        servers: &[Server],
        info: &ServerInfo,
        signals: &mpsc::UnboundedSender<Signal>,
    ) -> impl Future<Output = Option<ReconnectToServer>> + Send + Sync + use<> {
        let answer = self.answer(servers, info, signals);
        let limit = self.limit;
        let link = Arc::clone(&self.link);
        let signals = signals.clone();
        async move {
            let addr = match answer {
                Answer::Connect(addr, pause) => tokio::select! {
                    () = tokio::time::sleep(pause) => Some(addr), // what backing off means
                    () = signals.closed() => None,
                },
                Answer::End => {
                    signals.closed().await;
                    None
                }
            };
            let addr = match addr {
                Some(addr) => addr,
                // The transport ends only by failing as often as it may: here without any network, and with a turn for
                // others in between. Where that may be a million times, it is left waiting instead, and whoever waits for it
                // is told.
                None if limit > LARGE => {
                    link.strand();
                    std::future::pending().await
                }
                None => {
                    tokio::task::yield_now().await;
                    nowhere()?
                }
            };
            Some(ReconnectToServer { addr, delay: Some(Duration::ZERO) })
        }
    }

    fn answer(&self, servers: &[Server], info: &ServerInfo, signals: &mpsc::UnboundedSender<Signal>) -> Answer {
        let servers: Vec<&Server> = servers.iter().filter(|server| server.addr.port() != NOWHERE).collect();
        let names: Vec<String> = servers.iter().map(|server| name(&server.addr)).collect();
        let mut state = self.lock();
        let met = (info.server_id.clone(), info.client_id);
        if met.0.is_empty() {
            // The first connection, which is ours to repeat.
            let place = state.first.unwrap_or_default();
            let Some((server, name)) = servers.get(place).zip(names.get(place)) else { return Answer::End };
            state.roster.connected(name);
            return Answer::Connect(server.addr.clone(), Duration::ZERO);
        }
        if state.met != met {
            state.met = met;
            let server = state.roster.current().0.to_owned();
            state.roster.connected(&server);
        }
        if !self.reconnect {
            let _ = signals.send(Signal::Down);
            return Answer::End;
        }
        let candidates: Vec<Candidate<'_>> = servers
            .iter()
            .zip(&names)
            .map(|(server, name)| Candidate {
                address: name,
                failures: server.failed_attempts,
                error: server.last_error.as_deref(),
            })
            .collect();
        let (failure, next) = state.roster.next(&candidates, fastrand::f64());
        let pause = match next {
            Next::Try { attempt, .. } => Some(self.backoff.delay(attempt, fastrand::f64())),
            Next::Refused | Next::GiveUp { .. } => None,
        };
        // Whoever is gone need not be told.
        if let Some(failure) = failure {
            let _ = signals.send(Signal::AttemptFailed { failure, retry_in: pause });
        }
        let (signal, answer) = match next {
            Next::Try { place, attempt } => match servers.get(place).zip(pause) {
                Some((server, pause)) => (Signal::Attempt(attempt), Answer::Connect(server.addr.clone(), pause)),
                None => (Signal::Attempt(attempt), Answer::End),
            },
            Next::Refused => (Signal::Refused, Answer::End),
            Next::GiveUp { attempts } => (Signal::GaveUp { attempts }, Answer::End),
        };
        let _ = signals.send(signal);
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing inside the lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attempts that are made up at the end of a client without anyone noticing.
const LARGE: u32 = 1000;

/// No server can listen there.
const NOWHERE: u16 = 0;

/// An address to which every attempt fails at once, and which the transport knows beside the real ones.
pub(super) fn nowhere() -> Option<ServerAddr> {
    format!("nats://{}:{NOWHERE}", Ipv4Addr::LOCALHOST).parse().ok()
}

/// A server's address without credentials.
fn name(server: &ServerAddr) -> String {
    let (scheme, host, port) = (server.scheme(), server.host(), server.port());
    if host.contains(':') { format!("{scheme}://[{host}]:{port}") } else { format!("{scheme}://{host}:{port}") }
}
