//! The table kept up to date by the bus, shared by everyone who asks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::{WorkerId, subjects};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{broadcast, watch};

use super::beat::Beat;
use super::events::{Change, WorkerEvent, WorkerEvents, WorkerInfo};
use super::follow::{Sources, follow};
use super::table::Table;
use crate::client::Client;
use crate::connection::AbortOnDrop;
use crate::connection::ConnectionState;
use crate::pubsub::SubscribeOptions;
use crate::stream::Departure;

/// Events that a slow listener may fall behind before it misses some.
const EVENT_CAPACITY: usize = 1024;

/// Bytes of each kind of message that wait to be read: the heartbeats of 10,000 workers for half a minute.
const WAITING_BYTES: usize = 16 << 20;

/// The workers of the cluster, as their registrations, heartbeats and farewells tell. Clones share one table.
///
/// A worker is online from its first sign of life, and lost after [`offline_timeout`](crate::ClientOptions) of
/// silence, or as soon as the bus says twice that nobody listens for it any more: one whose heartbeat is late, or for which
/// a stream waits, is asked. Time that this process sleeps is nobody's silence. While the bus is down nobody is declared lost: after it everybody has the time to come back, which the longest
/// of their pauses between two attempts is (45 s after long outages, three times as long as a short one), and then a full
/// timeout to be heard again. Signs of life of an older incarnation (a lower `epoch`) are ignored, and so are those that a
/// worker sent before its farewell (by its `timestamp`); both also for an offline timeout after it left or was lost. A
/// farewell of an incarnation that begins in the future takes nobody out, unless the worker says that incarnation itself.
/// The table follows for as long as the client lives, which it does not keep alive by itself.
///
/// ```no_run
/// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
/// let workers = client.workers().await?;
/// for worker in workers.list() {
///     println!("{} is {:?}", worker.worker_id, worker.status);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Workers {
    pub(super) shared: Arc<Shared>,
    connection: watch::Receiver<ConnectionState>,
    /// Ends the follower with the last clone.
    _follower: Arc<AbortOnDrop>,
}

#[derive(Debug)]
pub(super) struct Shared {
    table: Mutex<Table>,
    /// Ticks at every sign of life, so that someone who waits for a worker looks again.
    pub(super) changes: watch::Sender<()>,
    events: broadcast::Sender<WorkerEvent>,
    /// Workers of which something was heard.
    updates: broadcast::Sender<WorkerId>,
    /// Workers whose streams are over: those that the events tell of, and those that were only expected.
    pub(super) departures: broadcast::Sender<(WorkerId, Departure)>,
    /// The server took a subscription away: nothing is heard of the workers any more, and none is declared lost.
    blind: OnceLock<ErrorKind>,
}

/// The workers that a client follows, once it does.
#[derive(Default)]
struct Followed(tokio::sync::Mutex<Option<Workers>>);

impl Client {
    /// Follows the workers of the cluster by their registrations and heartbeats; see [`Workers`].
    ///
    /// The first call subscribes; later ones share what it follows, unless the server has taken that away.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let workers = client.workers().await?;
    /// workers.wait_until(Duration::from_secs(30), |online| online.len() >= 3).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`subscribe`](Client::subscribe).
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    pub async fn workers(&self) -> Result<Workers> {
        let followed = self.room::<Followed>();
        let mut workers = followed.0.lock().await;
        match &*workers {
            Some(followed) if followed.check().is_ok() => Ok(followed.clone()),
            // In a box: it is large, and made once.
            _ => Ok(workers.insert(Box::pin(Workers::follow(self)).await?).clone()),
        }
    }
}

impl Workers {
    async fn follow(client: &Client) -> Result<Self> {
        let bounded = || SubscribeOptions {
            max_bytes: Some(client.options().subscription_bytes.min(WAITING_BYTES)),
            ..SubscribeOptions::default()
        };
        let beats = client.subscribe_with::<_, Beat>(subjects::WORKER_HEARTBEAT.as_str(), bounded());
        let sources = Sources {
            registrations: client.subscribe_with(&subjects::WORKER_REGISTER, bounded()).await?.without_client(),
            beats: beats.await?.without_client(),
            farewells: client.subscribe_with(&subjects::WORKER_DEREGISTER, bounded()).await?.without_client(),
            connection: client.watch_state(),
            client: Arc::downgrade(&client.inner),
        };
        let options = client.options();
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new(options.offline_timeout, options.heartbeat_interval)),
            changes: watch::Sender::new(()),
            events: broadcast::Sender::new(EVENT_CAPACITY),
            updates: broadcast::Sender::new(EVENT_CAPACITY),
            departures: broadcast::Sender::new(EVENT_CAPACITY),
            blind: OnceLock::new(),
        });
        let task = client.runtime().spawn(follow(Arc::clone(&shared), sources));
        Ok(Self { shared, connection: client.watch_state(), _follower: Arc::new(AbortOnDrop(task.abort_handle())) })
    }

    /// Whether the table is still kept up to date, as far as the server's permissions go.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let workers = client.workers().await?;
    /// workers.check()?; // the server has not taken away what it listens on
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Subscription`] when the server has taken one of its subscriptions away: the table stays as it was then,
    /// and no worker is declared lost any more. [`Client::workers`] follows them anew.
    pub fn check(&self) -> Result<()> {
        self.shared.blind.get().map_or(Ok(()), |kind| Err(Error::new(kind.clone())))
    }

    /// The workers that are online now, by id.
    pub fn list(&self) -> Vec<WorkerInfo> {
        self.shared.table().list()
    }

    /// What is known of one worker, if it is online.
    pub fn get(&self, id: WorkerId) -> Option<WorkerInfo> {
        self.shared.table().get(id).cloned()
    }

    /// Changes from now on.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// use mlx_nats::WorkerEvent;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let mut events = client.workers().await?.events();
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         WorkerEvent::Lost(id) | WorkerEvent::Left(id) => println!("{id} is gone"),
    ///         WorkerEvent::Missed(count) => println!("{count} events missed"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> WorkerEvents {
        WorkerEvents::of(self.shared.events.subscribe())
    }

    /// Waits until `ready` is satisfied with the workers that are online.
    ///
    /// ```no_run
    /// # async fn example(workers: mlx_nats::Workers) -> mlx_nats::Result<()> {
    /// use std::time::Duration;
    ///
    /// let ready = workers.wait_until(Duration::from_secs(30), |workers| workers.len() >= 2).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] after `timeout`, [`ErrorKind::Closed`] as soon as the client is closed, and at once those of
    /// [`check`](Self::check).
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn wait_until(
        &self,
        timeout: Duration,
        ready: impl Fn(&[WorkerInfo]) -> bool,
    ) -> Result<Vec<WorkerInfo>> {
        let mut changes = self.shared.changes.subscribe();
        let mut connection = self.connection.clone();
        let waiting = async {
            loop {
                let workers = self.list();
                if ready(&workers) {
                    return Ok(workers);
                }
                if let ConnectionState::Closed { reason } = &*connection.borrow_and_update() {
                    return Err(Error::new(ErrorKind::Closed { reason: reason.to_string() }));
                }
                self.check()?;
                tokio::select! {
                    _ = changes.changed() => {}
                    still_there = connection.changed() => if still_there.is_err() {
                        let reason = "its last handle was dropped".to_owned();
                        return Err(Error::new(ErrorKind::Closed { reason }));
                    },
                }
            }
        };
        let Ok(workers) = tokio::time::timeout(timeout, waiting).await else {
            let subject = format!("the right workers ({} are online)", self.list().len());
            return Err(Error::new(ErrorKind::Timeout { subject, timeout }));
        };
        workers
    }

    /// The workers of which something is heard from now on.
    pub(super) fn updates(&self) -> broadcast::Receiver<WorkerId> {
        self.shared.updates.subscribe()
    }

    /// The id in the case in which the worker says it, or as given where it was not heard of.
    pub(crate) fn said(&self, id: WorkerId) -> WorkerId {
        self.shared.table().said(id).unwrap_or(id)
    }
}

impl Shared {
    /// Something was heard of a worker, which may be a change.
    pub(super) fn tell_update(&self, id: WorkerId, heard: impl FnOnce(&mut Table) -> Option<Change>) {
        let change = heard(&mut self.table());
        self.tell(change);
        // Nobody listening is fine.
        let _ = self.updates.send(id);
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    pub(super) fn go_blind(&self, error: Error) {
        tracing::error!(error = &error as &dyn std::error::Error, "nothing is heard of the workers any more");
        let _ = self.blind.set(error.into_kind());
        self.changes.send_replace(());
    }

    /// Tells changes. `unmarked`: they are a farewell of a worker that does not say its incarnation.
    pub(super) fn tell_of(&self, changes: impl IntoIterator<Item = Change>, unmarked: bool) {
        for change in changes {
            // Nobody listening is fine, here and below.
            if let Some(id) = change.departed() {
                let how = match change {
                    Change::Dead { .. } => Departure::Dead,
                    Change::Event(WorkerEvent::Left(_)) | Change::Gone(_) if unmarked => Departure::LeftUnmarked,
                    _ => Departure::Gone,
                };
                let _ = self.departures.send((id, how));
            }
            let event = match change {
                Change::Event(event) => Some(event),
                Change::Gone(_) => None,
                Change::Dead { worker_id, heard } => heard.then_some(WorkerEvent::Lost(worker_id)),
            };
            if let Some(event) = event {
                tracing::info!(?event, "the cluster changed");
                let _ = self.events.send(event);
            }
        }
        self.changes.send_replace(());
    }
}

impl Shared {
    pub(super) fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        self.tell_of(changes, false);
    }
}
