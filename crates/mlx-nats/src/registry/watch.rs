//! The table kept up to date by the bus, shared by everyone who asks.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::{WorkerDeregistration, WorkerHeartbeat, WorkerRegistration};
use mlx_types::{WorkerId, subjects};
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep_until, timeout};

use super::table::{News, Table};
use super::{WorkerEvent, WorkerInfo};
use crate::connection::ConnectionState;
use crate::task::AbortOnDrop;
use crate::{Client, Subscription};

/// Events that a slow listener may fall behind before it misses some.
const EVENT_CAPACITY: usize = 1024;

/// The workers of the cluster, as their registrations, heartbeats and farewells tell. Clones share one table.
///
/// A worker is online from its first sign of life, and lost after [`offline_timeout`](crate::ClientOptions) of
/// silence. While the bus is down nobody is declared lost: after it everybody has the time to come back, which the longest
/// of their pauses between two attempts is (45 s after long outages, three times as long as a short one), and then a full
/// timeout to be heard again. Signs of life of an older incarnation (a lower `epoch`) are ignored, and so are those that a
/// worker sent before its farewell (by its `timestamp`); both also for an offline timeout after it left or was lost. It
/// follows for as long as the client lives, which it does not keep alive by itself.
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
    shared: Arc<Shared>,
    /// Ends the follower with the last clone.
    _follower: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// Ticks at every sign of life, so that someone who waits for a worker looks again.
    changes: watch::Sender<()>,
    events: broadcast::Sender<WorkerEvent>,
    /// Workers whose streams are over: those that the events tell of, and those that were only expected.
    departures: broadcast::Sender<WorkerId>,
    /// The server took a subscription away: nothing is heard of the workers any more, and none is declared lost.
    blind: OnceLock<ErrorKind>,
}

impl Workers {
    pub(crate) async fn follow(client: &Client) -> Result<Self> {
        let sources = Sources {
            registrations: client.subscribe(&subjects::WORKER_REGISTER).await?.without_client(),
            beats: client.subscribe(&subjects::WORKER_HEARTBEAT).await?.without_client(),
            farewells: client.subscribe(&subjects::WORKER_DEREGISTER).await?.without_client(),
            connection: client.watch_state(),
        };
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new(client.options().offline_timeout)),
            changes: watch::Sender::new(()),
            events: broadcast::Sender::new(EVENT_CAPACITY),
            departures: broadcast::Sender::new(EVENT_CAPACITY),
            blind: OnceLock::new(),
        });
        let task = client.runtime().spawn(follow(Arc::clone(&shared), sources));
        Ok(Self { shared, _follower: Arc::new(AbortOnDrop(task.abort_handle())) })
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

    /// Changes from now on. A listener more than a thousand events behind is told how many it missed.
    ///
    /// ```no_run
    /// use mlx_nats::WorkerEvent;
    /// use tokio::sync::broadcast::error::RecvError;
    ///
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let mut events = client.workers().await?.events();
    /// loop {
    ///     match events.recv().await {
    ///         Ok(WorkerEvent::Lost(id) | WorkerEvent::Left(id)) => println!("{id} is gone"),
    ///         Ok(_) => {}
    ///         Err(RecvError::Lagged(missed)) => println!("{missed} events missed"),
    ///         Err(RecvError::Closed) => break,
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> broadcast::Receiver<WorkerEvent> {
        self.shared.events.subscribe()
    }

    /// Waits until `ready` is satisfied with the workers that are online.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] after `limit`, and at once those of [`check`](Self::check).
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn wait_until(&self, limit: Duration, ready: impl Fn(&[WorkerInfo]) -> bool) -> Result<Vec<WorkerInfo>> {
        let mut changes = self.shared.changes.subscribe();
        let waiting = async {
            loop {
                let workers = self.list();
                if ready(&workers) {
                    return Ok(workers);
                }
                self.check()?;
                if changes.changed().await.is_err() {
                    return Ok(workers);
                }
            }
        };
        match timeout(limit, waiting).await {
            Ok(workers) => workers,
            Err(_) => Err(Error::new(ErrorKind::Timeout { subject: "workers".to_owned(), timeout: limit })),
        }
    }

    /// Resolves when the worker leaves, falls silent or comes back as another process. From now on its silence counts,
    /// even if it was never heard of.
    pub(crate) fn departure(&self, id: WorkerId) -> impl Future<Output = ()> + Send + 'static {
        let mut departures = self.shared.departures.subscribe();
        self.shared.table().expect(id, Instant::now());
        // The follower may be asleep until a later expiry than this worker's, or for ever.
        self.shared.changes.send_replace(());
        let shared = Arc::clone(&self.shared);
        async move {
            loop {
                match departures.recv().await {
                    Ok(departed) if departed == id => return,
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) if shared.table().contains(id) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => return,
                    // The follower ended with the client; whoever waits learns that from the connection.
                    Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
                }
            }
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is a single step, so a poisoned one is whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_blind(&self, error: Error) {
        tracing::error!(error = &error as &dyn std::error::Error, "nothing is heard of the workers any more");
        let _ = self.blind.set(error.into_kind());
        self.changes.send_replace(());
    }

    fn tell(&self, news: impl IntoIterator<Item = News>) {
        for news in news {
            // Nobody listening is fine, here and below.
            if let Some(id) = news.departed() {
                let _ = self.departures.send(id);
            }
            if let News::Event(event) = news {
                tracing::info!(?event, "the cluster changed");
                let _ = self.events.send(event);
            }
        }
        self.changes.send_replace(());
    }
}

struct Sources {
    registrations: Subscription<WorkerRegistration>,
    beats: Subscription<WorkerHeartbeat>,
    farewells: Subscription<WorkerDeregistration>,
    connection: watch::Receiver<ConnectionState>,
}

async fn follow(shared: Arc<Shared>, mut sources: Sources) {
    let mut woken = shared.changes.subscribe();
    loop {
        let expiry = shared.table().next_expiry();
        tokio::select! {
            Some(registration) = sources.registrations.next() => match registration {
                Ok(registration) => {
                    let news = shared.table().registered(registration.into_payload(), Instant::now());
                    shared.tell(news);
                }
                Err(error) if is_refusal(&error) => return shared.go_blind(error),
                Err(error) => malformed(&error),
            },
            Some(beat) = sources.beats.next() => match beat {
                Ok(beat) => {
                    let news = shared.table().beat(beat.into_payload(), Instant::now());
                    shared.tell(news);
                }
                Err(error) if is_refusal(&error) => return shared.go_blind(error),
                Err(error) => malformed(&error),
            },
            Some(farewell) = sources.farewells.next() => match farewell {
                Ok(farewell) => {
                    let news = shared.table().left(&farewell, Instant::now());
                    shared.tell(news);
                }
                Err(error) if is_refusal(&error) => return shared.go_blind(error),
                Err(error) => malformed(&error),
            },
            changed = sources.connection.changed() => {
                if changed.is_err() {
                    return;
                }
                let up = sources.connection.borrow_and_update().is_connected();
                shared.table().bus(up, Instant::now());
            }
            () = wait(expiry) => {
                let lost = shared.table().expire(Instant::now());
                shared.tell(lost);
            }
            // A worker that is newly expected may be the next to expire.
            _ = woken.changed() => {}
        }
    }
}

async fn wait(until: Option<Instant>) {
    match until {
        // A little later than the moment itself, at which a silence is not yet too long.
        Some(until) => sleep_until((until + Duration::from_millis(1)).into()).await,
        None => std::future::pending().await,
    }
}

/// Whether the server has ended a subscription.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Subscription { .. })
}

fn malformed(error: &Error) {
    tracing::warn!(error = error as &dyn std::error::Error, "ignored a malformed message about a worker");
}
