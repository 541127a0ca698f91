//! The largest payload that the server takes from this user: not always what its greeting says.
//!
//! An account may have a limit of its own, which a server tells behind CONNECT, in a second INFO; and a reload changes the
//! limit without a word to those who are connected. async-nats knows the greeting only. So each connection is accompanied by a
//! short second one that reads what the first does not pass on, and so is a payload that seems too large.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mlx_types::config::NatsConfig;
use parking_lot::Mutex;
use tokio::sync::Mutex as Turn;
use tokio::time::Instant;

use super::reconnect::Dispatcher;
use super::side::{self, Delivery};
use crate::wire::Headers;

/// How often a server is asked because of payloads that are too large.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Not asked, or not answered.
const UNKNOWN: usize = usize::MAX;

/// The limit in force, as far as it is known beyond the greeting.
#[derive(Debug)]
pub(crate) struct PayloadLimit {
    config: NatsConfig,
    dispatcher: Arc<Dispatcher>,
    told: AtomicUsize,
    /// The server has refused a payload that seemed to fit.
    doubted: AtomicBool,
    /// The server that the transport is connected to.
    server_id: Mutex<String>,
    /// Held while the server is asked; when it was asked last.
    asked: Turn<Option<Instant>>,
}

/// The limits of every client of this process, for servers of this process that change theirs.
static ALL: Mutex<Vec<Weak<PayloadLimit>>> = Mutex::new(Vec::new());

impl PayloadLimit {
    pub(super) fn new(config: &NatsConfig, dispatcher: Arc<Dispatcher>) -> Arc<Self> {
        let limit = Arc::new(Self {
            config: config.clone(),
            dispatcher,
            told: AtomicUsize::new(UNKNOWN),
            doubted: AtomicBool::new(false),
            server_id: Mutex::default(),
            asked: Turn::default(),
        });
        let mut all = ALL.lock();
        all.retain(|limit| limit.strong_count() > 0);
        all.push(Arc::downgrade(&limit));
        limit
    }

    /// The limit in force: what the server told this user, or else the greeting, of which the transport knows.
    pub(crate) fn in_force(&self, greeted: usize) -> usize {
        match self.told.load(Ordering::Relaxed) {
            UNKNOWN => greeted,
            told => told,
        }
    }

    /// The largest payload that the transport takes and that does not cost it its connection.
    #[inline]
    pub(crate) fn of_transport(&self, greeted: usize) -> usize {
        self.told.load(Ordering::Relaxed).min(greeted)
    }

    /// Sends one message by a connection of its own.
    pub(crate) async fn send_beside(
        &self,
        subject: &str,
        reply: Option<&str>,
        headers: Option<&Headers>,
        payload: &[u8],
        timeout: Duration,
    ) -> Delivery {
        let (server, server_id) = (self.dispatcher.current().0, self.server_id.lock().clone());
        let message = side::Message { subject, reply, headers, payload };
        let met = self.dispatcher.met();
        let place = side::Target { server: &server, server_id: &server_id, met: met.as_ref() };
        side::send(&self.config, &place, &message, timeout).await
    }

    /// Takes note of what the server says: after the refusal of a payload it is asked on every connection.
    pub(super) fn heard(&self, said: &str) {
        if said.to_ascii_lowercase().contains("maximum payload violation") {
            self.doubted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a payload was refused that seemed to fit.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Another connection: to the server `server_id`, of whose limit nothing is known beyond its greeting.
    pub(super) fn renewed(&self, server_id: String) {
        *self.server_id.lock() = server_id;
        self.told.store(UNKNOWN, Ordering::Relaxed);
    }

    /// Asks the server. Where it does not answer, what was known before stands.
    pub(crate) async fn refresh(&self) {
        let mut asked = self.asked.lock().await;
        self.ask().await;
        *asked = Some(Instant::now());
    }

    /// Asks the server, unless it was asked within the last second.
    pub(crate) async fn refresh_now_and_then(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_none_or(|asked| asked.elapsed() >= AT_MOST_EVERY) {
            self.ask().await;
            *asked = Some(Instant::now());
        }
    }

    async fn ask(&self) {
        let (server, server_id) = (self.dispatcher.current().0, self.server_id.lock().clone());
        let met = self.dispatcher.met();
        let place = side::Target { server: &server, server_id: &server_id, met: met.as_ref() };
        let Some(limit) = side::max_payload(&self.config, &place).await else { return };
        // The transport may have moved on in the meantime.
        if *self.server_id.lock() == server_id && self.told.swap(limit, Ordering::Relaxed) != limit {
            tracing::debug!(%server, max_payload = limit, "the NATS server told the limit of this user");
        }
    }
}

/// Has every client of this process ask its server anew for the largest payload, and returns when all know, or after two
/// seconds: a server tells nobody that its limit was changed by a reload.
///
/// A server that this process started does this after a reload. Call it where one that runs elsewhere was told to reload, and
/// this process knows; otherwise the clients learn of a lower limit when the server refuses a message and closes the
/// connection, and of a higher one at the first message that seems too large.
///
/// ```no_run
/// # async fn example() {
/// mlx_nats::refresh_limits().await;
/// # }
/// ```
///
/// # Cancel safety
/// Clients that have not heard yet keep what they knew.
pub async fn refresh_limits() {
    let all: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    futures_util::future::join_all(all.iter().map(|limit| limit.refresh())).await;
}
