//! The table kept up to date by the bus, shared by everyone who asks.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::messages::{WorkerDeregistration, WorkerRegistration};
use mlx_types::{Timestamp, WorkerId, subjects};
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep_until, timeout};

use super::beat::Beat;
use super::news::{News, WorkerEvent, WorkerInfo};
use super::probe::{self, Outcome};
use super::table::Table;
use crate::client::Inner;
use crate::clock::{SleepClock, TICK};
use crate::connection::ConnectionState;
use crate::log_limit::LogLimit;
use crate::task::AbortOnDrop;
use crate::{Client, Headers, SubscribeOptions, Subscription};

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
    shared: Arc<Shared>,
    connection: watch::Receiver<ConnectionState>,
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
    departures: broadcast::Sender<(WorkerId, Departure)>,
    /// The server took a subscription away: nothing is heard of the workers any more, and none is declared lost.
    blind: OnceLock<ErrorKind>,
}

/// How a worker went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It said goodbye, and does not say its incarnation: such a worker finishes what it has begun.
    LeftUnmarked,
    /// It fell silent, said goodbye, or came back as another process: it may still be at work.
    Gone,
    /// Nobody listens for it any more: it is not there.
    Dead,
}

impl Workers {
    pub(crate) async fn follow(client: &Client) -> Result<Self> {
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
    /// [`ErrorKind::Timeout`] after `limit`, [`ErrorKind::Closed`] as soon as the client is closed, and at once those of
    /// [`check`](Self::check).
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn wait_until(&self, limit: Duration, ready: impl Fn(&[WorkerInfo]) -> bool) -> Result<Vec<WorkerInfo>> {
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
        let Ok(workers) = timeout(limit, waiting).await else {
            let subject = format!("the right workers ({} are online)", self.list().len());
            return Err(Error::new(ErrorKind::Timeout { subject, timeout: limit }));
        };
        workers
    }

    /// Resolves when the worker leaves, falls silent or comes back as another process. From now on its silence counts,
    /// even if it was never heard of.
    pub(crate) fn departure(&self, id: WorkerId) -> impl Future<Output = Departure> + Send + 'static {
        let mut departures = self.shared.departures.subscribe();
        self.shared.table().expect(id, Instant::now());
        // The follower may be asleep until a later expiry than this worker's, or for ever.
        self.shared.changes.send_replace(());
        let shared = Arc::clone(&self.shared);
        async move {
            loop {
                match departures.recv().await {
                    Ok((departed, how)) if departed == id => return how,
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) if shared.table().contains(id) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => return Departure::Gone,
                    // The follower ended with the client; whoever waits learns that from the connection.
                    Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
                }
            }
        }
    }

    /// The id in the case in which the worker says it, or as given where it was not heard of.
    pub(crate) fn said(&self, id: WorkerId) -> WorkerId {
        self.shared.table().said(id).unwrap_or(id)
    }

    /// The worker has shown that it answers when it is asked for a sign of life.
    pub(crate) fn answers(&self, id: WorkerId) {
        self.shared.table().answers(id, Instant::now());
        self.shared.changes.send_replace(());
    }

    /// Has the worker asked for signs of life, until what is returned is dropped.
    pub(crate) fn suspect(&self, id: WorkerId) -> Suspicion {
        let generation = self.shared.table().suspected(id, Instant::now());
        self.shared.changes.send_replace(());
        Suspicion { shared: Arc::clone(&self.shared), id, generation, heard: false }
    }
}

/// Somebody waits for a worker and hears nothing.
#[derive(Debug)]
pub(crate) struct Suspicion {
    shared: Arc<Shared>,
    id: WorkerId,
    /// Of its entry in the table, where it has one.
    generation: Option<u64>,
    heard: bool,
}

impl Suspicion {
    /// Something has come.
    pub(crate) fn refuted(mut self) {
        self.heard = true;
    }
}

impl Drop for Suspicion {
    fn drop(&mut self) {
        if let Some(generation) = self.generation {
            self.shared.table().trusted(self.id, generation, self.heard, Instant::now());
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

    /// Tells news. `unmarked`: they are a farewell of a worker that does not say its incarnation.
    fn tell_of(&self, news: impl IntoIterator<Item = News>, unmarked: bool) {
        for news in news {
            // Nobody listening is fine, here and below.
            if let Some(id) = news.departed() {
                let how = match news {
                    News::Dead { .. } => Departure::Dead,
                    News::Event(WorkerEvent::Left(_)) | News::Gone(_) if unmarked => Departure::LeftUnmarked,
                    _ => Departure::Gone,
                };
                let _ = self.departures.send((id, how));
            }
            let event = match news {
                News::Event(event) => Some(event),
                News::Gone(_) => None,
                News::Dead { worker_id, heard } => heard.then_some(WorkerEvent::Lost(worker_id)),
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
    fn tell(&self, news: impl IntoIterator<Item = News>) {
        self.tell_of(news, false);
    }
}

struct Sources {
    registrations: Subscription<WorkerRegistration>,
    beats: Subscription<Beat>,
    farewells: Subscription<WorkerDeregistration>,
    connection: watch::Receiver<ConnectionState>,
    /// Not kept open by what is a part of it.
    client: Weak<Inner>,
}

/// How long a round trip may take before a silence is judged, and after one that failed, until it is tried again.
const READING_TIMEOUT: Duration = Duration::from_secs(5);

/// After the round trip: for what has been read to come through this process.
const READING_GRACE: Duration = Duration::from_millis(50);

/// Questions without an answer yet, at the most: further ones wait for one of these to end.
const QUESTIONS_AT_ONCE: usize = 256;

type Question = Pin<Box<dyn Future<Output = (WorkerId, u64, Option<Outcome>)> + Send>>;

async fn follow(shared: Arc<Shared>, mut sources: Sources) {
    let mut woken = shared.changes.subscribe();
    let limits = [const { LogLimit::new() }; 4];
    let mut questions: FuturesUnordered<Question> = FuturesUnordered::new();
    // A silence is judged behind all that had come by then.
    let mut reading: Option<Pin<Box<dyn Future<Output = bool> + Send>>> = None;
    let mut not_before = Instant::now();
    let mut may_ask = true;
    let mut next_tick = Instant::now();
    loop {
        let (expiry, probe, idle) = {
            let table = shared.table();
            (
                table.next_expiry(),
                table.next_probe().filter(|_| may_ask && questions.len() < QUESTIONS_AT_ONCE),
                table.is_empty(),
            )
        };
        let expiry = expiry.filter(|_| reading.is_none()).map(|expiry| expiry.max(not_before));
        if idle {
            with(&sources.client, |client| client.link().clock().pause(Instant::now()));
        }
        tokio::select! {
            biased;
            changed = sources.connection.changed() => {
                if changed.is_err() {
                    return;
                }
                let state = sources.connection.borrow_and_update().clone();
                if state.is_closed() {
                    // What has come is of no use to anybody any more, and may take long to read.
                    shared.changes.send_replace(());
                    return;
                }
                may_ask = true;
                shared.table().bus(state.is_connected(), Instant::now());
            }
            Some(registration) = sources.registrations.next() => match registration {
                Ok(registration) => {
                    let news = shared.table().registered(registration.into_payload(), Instant::now(), Timestamp::now());
                    shared.tell(news);
                }
                Err(error) if is_refusal(&error) => return shared.go_blind(error),
                Err(error) => malformed(&error, &limits[0]),
            },
            Some(beat) = sources.beats.next() => match beat {
                Ok(beat) => {
                    let beat = beat.into_payload();
                    bad_figures(&beat, &limits[3]);
                    let news = shared.table().beat(beat, Instant::now(), Timestamp::now());
                    shared.tell(news);
                }
                Err(error) if is_refusal(&error) => return shared.go_blind(error),
                Err(error) => malformed(&error, &limits[1]),
            },
            Some(farewell) = sources.farewells.next() => match farewell {
                Ok(farewell) => {
                    let (news, unmarked) = {
                        let mut table = shared.table();
                        let unmarked = farewell.epoch.is_none() && !table.has_epoch(farewell.worker_id);
                        (table.left(&farewell, Instant::now(), Timestamp::now()), unmarked)
                    };
                    shared.tell_of(news, unmarked);
                }
                Err(error) if is_refusal(&error) => return shared.go_blind(error),
                Err(error) => malformed(&error, &limits[2]),
            },
            Some((id, number, outcome)) = questions.next(), if !questions.is_empty() => match outcome {
                Some(outcome) => shared.table().probed(id, number, outcome, Instant::now()),
                // The server does not let us ask; that is not going to change on this connection.
                None => may_ask = false,
            },
            () = wait(probe) => {
                let room = QUESTIONS_AT_ONCE.saturating_sub(questions.len());
                let due = |client: &Client| due(&mut shared.table(), client.link().clock(), Instant::now(), room);
                let (ask, dead) = with(&sources.client, due).unwrap_or_default();
                for (id, number) in ask {
                    questions.push(Box::pin(question(sources.client.clone(), id, number)));
                }
                if !dead.is_empty() {
                    shared.tell(dead);
                }
            }
            () = sleep_until(next_tick.into()), if !idle => {
                let now = Instant::now();
                with(&sources.client, |client| credit_sleep(&mut shared.table(), client.link().clock(), now));
                next_tick = now + TICK;
            }
            read = until_read(&mut reading) => {
                reading = None;
                if read {
                    let lost = shared.table().expire(Instant::now());
                    shared.tell(lost);
                } else {
                    not_before = Instant::now() + Duration::from_secs(1);
                }
            }
            () = wait(expiry) => reading = Some(Box::pin(read_everything(sources.client.clone()))),
            // A worker that is newly expected may be the next to expire.
            _ = woken.changed() => {}
        }
    }
}

/// Takes what this process slept off everybody's silence.
fn credit_sleep(table: &mut Table, clock: &SleepClock, now: Instant) {
    let slept = clock.tick(now);
    if !slept.is_zero() {
        tracing::debug!(?slept, "this process slept, which is nobody's silence");
        table.slept(slept);
    }
}

/// Whom to ask now, and who is dead: after a sleep has been noticed, through which everybody seemed silent.
fn due(table: &mut Table, clock: &SleepClock, now: Instant, room: usize) -> (Vec<(WorkerId, u64)>, Vec<News>) {
    credit_sleep(table, clock, now);
    table.probe(now, room)
}

fn with<T>(client: &Weak<Inner>, look: impl FnOnce(&Client) -> T) -> Option<T> {
    client.upgrade().map(|inner| look(&Client { inner }))
}

/// A round trip, behind everything that the server had for us; whether it succeeded.
async fn read_everything(client: Weak<Inner>) -> bool {
    let Some(client) = client.upgrade().map(|inner| Client { inner }) else { return false };
    let read = client.round_trip("looking for signs of life", READING_TIMEOUT).await.is_ok();
    drop(client);
    tokio::time::sleep(READING_GRACE).await;
    read
}

async fn until_read(reading: &mut Option<Pin<Box<dyn Future<Output = bool> + Send>>>) -> bool {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

/// Asks a worker for a sign of life. Nothing where the server does not let us.
async fn question(client: Weak<Inner>, id: WorkerId, number: u64) -> (WorkerId, u64, Option<Outcome>) {
    let Some(client) = client.upgrade().map(|inner| Client { inner }) else {
        return (id, number, Some(Outcome::Nothing));
    };
    let subject = probe::subject(id).into();
    let answer = client.one_answer(&subject, Headers::new(), bytes::Bytes::from_static(b"{}"), probe::INTERVAL).await;
    let outcome = match answer {
        Ok(message) if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) => Some(Outcome::NoResponders),
        Ok(message) if probe::is_sign_of_life(&message.payload) => Some(Outcome::Answered),
        Err(error) if matches!(error.kind(), ErrorKind::Publish { .. } | ErrorKind::Subscription { .. }) => None,
        Ok(_) | Err(_) => Some(Outcome::Nothing),
    };
    (id, number, outcome)
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

fn malformed(error: &Error, limit: &LogLimit) {
    if let Some(so_far) = limit.count(Instant::now()) {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, so_far, "ignored a malformed message about a worker");
    }
}

/// Says that figures are wrong, of which whoever looks at the worker would only see that there are none.
fn bad_figures(beat: &Beat, limit: &LogLimit) {
    if let Err(reason) = &beat.metrics
        && let Some(so_far) = limit.count(Instant::now())
    {
        tracing::warn!(worker_id = %beat.worker_id, reason, so_far, "a heartbeat has figures that cannot be; it counts without");
    }
}

#[cfg(test)]
mod tests {
    use mlx_types::Epoch;
    use mlx_types::messages::{WorkerHeartbeat, WorkerMetrics, WorkerStatus};

    use super::*;

    /// Workers that have said their epoch, so that each of them may be asked.
    fn table_of(count: usize, now: Instant) -> Table {
        let mut table = Table::new(Duration::from_secs(15), Duration::from_secs(5));
        for _ in 0..count {
            let mut beat = WorkerHeartbeat::new(WorkerId::new(), WorkerStatus::Online, WorkerMetrics::default());
            beat.epoch = Some(Epoch::from_millis(1));
            table.beat(beat, now, Timestamp::now());
        }
        table
    }

    #[test]
    fn d2_after_a_sleep_nobody_is_asked_for_what_was_slept_through() {
        let (clock, start) = (SleepClock::default(), Instant::now());
        let mut table = table_of(10, start);
        let (asked, _) = due(&mut table, &clock, start, QUESTIONS_AT_ONCE);
        assert_eq!(asked.len(), 10);
        for (id, number) in asked {
            table.probed(id, number, Outcome::Answered, start);
        }
        let woken = start + Duration::from_mins(1);
        let (asked, dead) = due(&mut table, &clock, woken, QUESTIONS_AT_ONCE);
        assert!(asked.is_empty() && dead.is_empty(), "{asked:?} {dead:?}");
        // Without a sleep all of them are late by then.
        let mut now = woken;
        while now < woken + Duration::from_secs(6) {
            now += TICK;
            clock.tick(now);
        }
        assert_eq!(due(&mut table, &clock, now, QUESTIONS_AT_ONCE).0.len(), 10);
    }

    #[test]
    fn no_more_workers_are_asked_than_there_is_room_for_and_the_others_in_their_turn() {
        let (clock, start) = (SleepClock::default(), Instant::now());
        let mut table = table_of(100, start);
        assert_eq!(due(&mut table, &clock, start, 0).0, []);
        assert!(table.next_probe().is_some_and(|next| next <= start), "they still have to be asked");
        let (first, _) = due(&mut table, &clock, start, 30);
        assert_eq!(first.len(), 30);
        let mut asked: Vec<_> = first.into_iter().map(|(id, _)| id).collect();
        while asked.len() < 100 {
            let (more, _) = due(&mut table, &clock, start, QUESTIONS_AT_ONCE);
            assert!(!more.is_empty());
            asked.extend(more.into_iter().map(|(id, _)| id));
        }
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), 100);
    }
}
