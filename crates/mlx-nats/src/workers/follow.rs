//! The task that keeps the table up to date.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mlx_errors::{Error, ErrorKind};
use mlx_types::messages::{WorkerDeregistration, WorkerRegistration};
use mlx_types::{Timestamp, WorkerId, subjects};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::beat::Beat;
use super::events::Change;
use super::probe::{self, Outcome};
use super::table::Table;
use super::watch::Shared;
use crate::client::{Client, Inner};
use crate::connection::ConnectionState;
use crate::connection::clock::{SleepClock, TICK};
use crate::pubsub::Subscription;
use crate::telemetry::log_limit::LogLimit;
use crate::wire::Headers;

pub(super) struct Sources {
    pub(super) registrations: Subscription<WorkerRegistration>,
    pub(super) beats: Subscription<Beat>,
    pub(super) farewells: Subscription<WorkerDeregistration>,
    pub(super) connection: watch::Receiver<ConnectionState>,
    /// Not kept open by what is a part of it.
    pub(super) client: Weak<Inner>,
}

/// How long a round trip may take before a silence is judged, and after one that failed, until it is tried again.
const READING_TIMEOUT: Duration = Duration::from_secs(5);

/// After the round trip: for what has been read to come through this process.
const READING_GRACE: Duration = Duration::from_millis(50);

/// Questions without an answer yet, at the most: further ones wait for one of these to end.
const QUESTIONS_AT_ONCE: usize = 256;

type Question = Pin<Box<dyn Future<Output = (WorkerId, u64, Option<Outcome>)> + Send>>;

pub(super) async fn follow(shared: Arc<Shared>, mut sources: Sources) {
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
                    let (id, registration) = (registration.worker_id, registration.into_payload());
                    shared.tell_update(id, |table| table.registered(registration, Instant::now(), Timestamp::now()));
                }
                Err(error) if is_refusal(&error) => return shared.go_blind(error),
                Err(error) => malformed(&error, &limits[0]),
            },
            Some(beat) = sources.beats.next() => match beat {
                Ok(beat) => {
                    let beat = beat.into_payload();
                    bad_figures(&beat, &limits[3]);
                    shared.tell_update(beat.worker_id, |table| table.beat(beat, Instant::now(), Timestamp::now()));
                }
                Err(error) if is_refusal(&error) => return shared.go_blind(error),
                Err(error) => malformed(&error, &limits[1]),
            },
            Some(farewell) = sources.farewells.next() => match farewell {
                Ok(farewell) => {
                    let (change, unmarked) = {
                        let mut table = shared.table();
                        let unmarked = farewell.epoch.is_none() && !table.has_epoch(farewell.worker_id);
                        (table.left(&farewell, Instant::now(), Timestamp::now()), unmarked)
                    };
                    shared.tell_of(change, unmarked);
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
fn due(table: &mut Table, clock: &SleepClock, now: Instant, room: usize) -> (Vec<(WorkerId, u64)>, Vec<Change>) {
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
    let subject = subjects::worker_ping(id).into();
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

/// Logs that figures are wrong: the table of workers shows only that they are missing.
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
