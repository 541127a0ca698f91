//! Numbered messages: those who publish them, and those who note what arrives.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join;
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_nats::{Received, Result, SubscribeOptions, Subscription};
use mlx_tests::TestServer;
use mlx_tests::ledger::{Book, Item, Reader, Window};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::node::{Node, TIMEOUT};

pub(crate) const GROUP: &str = "storm-group";

/// Subjects, over which each publisher scatters its messages.
const SUBJECTS: u8 = 3;

/// Messages that a publisher sends before it flushes.
const BATCH: u64 = 10;

#[derive(Debug, Serialize, Deserialize)]
struct Numbered {
    publisher: usize,
    number: u64,
    subject: u8,
    padding: String,
    /// Over all of the above.
    seal: u64,
}

impl Numbered {
    fn new(publisher: usize, number: u64, subject: u8, padding: usize) -> Self {
        let mut numbered = Self { publisher, number, subject, padding: "x".repeat(padding), seal: 0 };
        numbered.seal = numbered.expected_seal();
        numbered
    }

    fn expected_seal(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.publisher, self.number, self.subject, &self.padding).hash(&mut hasher);
        hasher.finish()
    }
}

fn subject(subject: u8) -> String {
    format!("storm.{subject}")
}

/// Publishes until it is over, and then once more on a calm network.
pub(crate) async fn publish(id: usize, node: Node, mut random: fastrand::Rng, over: Arc<AtomicBool>) -> Book {
    let mut book = Book::default();
    let mut last_epoch = 0;
    loop {
        let last = over.load(Ordering::Relaxed);
        if last {
            node.connected().await;
        }
        for _ in 0..random.u64(1..=BATCH) {
            // What is kept for the connection goes out on the next one, so that is where a flush proves something.
            let needed = node.epoch().inspect(|epoch| last_epoch = *epoch).unwrap_or(last_epoch + 1);
            let to = random.u8(..SUBJECTS);
            let number = book.publish(to, needed);
            let message = Numbered::new(id, number, to, random.usize(..200));
            if let Err(error) = node.client.publish(&subject(to), &message).await {
                assert_eq!(error.code(), ErrorCode::NatsDisconnected, "{error}");
                book.failed();
                break;
            }
        }
        let flushed = node.client.flush(TIMEOUT).await;
        if let (Ok(()), Some(epoch)) = (&flushed, node.epoch()) {
            book.flushed(epoch);
            if last {
                return book;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // the publishers' own pace
    }
}

/// A subscription that notes what it gets.
pub(crate) struct Subscriber {
    pub(crate) node: Node,
    reader: Reader,
    subscription: Subscription<Numbered>,
    slowness: Option<(Duration, Arc<AtomicBool>)>,
}

impl Subscriber {
    /// Subscribes to one subject or to all. One with slowness is slow until it is over.
    pub(crate) async fn start(
        server: &TestServer,
        name: &str,
        only: Option<u8>,
        options: SubscribeOptions,
        slowness: Option<(Duration, Arc<AtomicBool>)>,
    ) -> Self {
        let node = Node::start(server, |_| {}).await;
        let pattern = only.map_or_else(|| "storm.*".to_owned(), subject);
        let subscription = node.client.subscribe_with(&pattern, options).await.unwrap();
        let reader = Reader { name: name.to_owned(), subject: only, ..Reader::default() };
        Self { node, reader, subscription, slowness }
    }

    /// Reads until it is finished and everything under way has come.
    pub(crate) fn run(self, finished: watch::Receiver<bool>) -> impl Future<Output = Reader> {
        let Self { node, mut reader, subscription, slowness } = self;
        let proxy = Arc::clone(&node.proxy);
        let windows = tokio::spawn(node.windows(finished));
        let (ended, end) = oneshot::channel();
        let reading = tokio::spawn(read(subscription, slowness, end));
        async move {
            reader.windows = windows.await.unwrap();
            // Only now: what is owed has passed the last flush of the windows.
            let _ = ended.send(());
            reader.items = reading.await.unwrap();
            reader.garbled = proxy.dropped_bytes() > 0;
            reader
        }
    }
}

async fn read(
    mut subscription: Subscription<Numbered>,
    slowness: Option<(Duration, Arc<AtomicBool>)>,
    mut end: oneshot::Receiver<()>,
) -> Vec<Item> {
    let (mut items, mut dropped, mut ending) = (Vec::new(), 0, false);
    loop {
        tokio::select! {
            item = subscription.next() => match item {
                Some(item) => items.push(note(item, &mut dropped)),
                None => return items,
            },
            _ = &mut end, if !ending => {
                ending = true;
                subscription.drain().await.unwrap();
            }
        }
        if let Some((slowness, over)) = &slowness
            && !over.load(Ordering::Relaxed)
        {
            tokio::time::sleep(*slowness).await; // what makes the reader slow
        }
    }
}

fn note(item: Result<Received<Numbered>>, dropped: &mut u64) -> Item {
    match item {
        Ok(message) if message.seal == message.expected_seal() && message.subject() == subject(message.subject) => {
            Item::Message { publisher: message.publisher, number: message.number }
        }
        Ok(_) => Item::Unreadable,
        Err(error) => match error.kind() {
            ErrorKind::SlowConsumer { dropped: now, .. } => {
                let more = now - *dropped;
                *dropped = *now;
                Item::Dropped(more)
            }
            _ if error.code() == ErrorCode::MessageDecode => Item::Unreadable,
            _ => panic!("an unexpected item: {error}"),
        },
    }
}

/// The times between which the server was asked and knew of exactly one subscription for each member of the group, so of
/// none that is left over from a connection replaced.
pub(crate) async fn settled(
    server: Arc<TestServer>,
    members: Vec<Node>,
    finished: watch::Receiver<bool>,
) -> Vec<(Instant, Instant)> {
    let mut settled = Vec::new();
    let path = format!("/subsz?subs=1&test={}", subject(0));
    while !*finished.borrow() {
        let asked = Instant::now();
        // Nothing comes of it while the server is down or frozen.
        let pause = tokio::time::sleep(Duration::from_millis(50)); // how often it is asked
        let answer = tokio::time::timeout(Duration::from_secs(1), server.try_monitoring(&path));
        let (answer, ()) = join(answer, pause).await;
        let listed = answer.ok().and_then(std::result::Result::ok).map(|answer| {
            let list = answer["subscriptions_list"].as_array().cloned().unwrap_or_default();
            list.iter().filter(|subscription| subscription["qgroup"] == GROUP).count()
        });
        if listed == Some(members.len()) {
            settled.push((asked, Instant::now()));
        }
    }
    settled
}

/// When every member of a group was connected, and nobody else was a member.
pub(crate) fn group_windows(settled: &[(Instant, Instant)], members: &[Reader]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for (asked, answered) in settled {
        if windows.last().is_some_and(|window| *answered < window.until) {
            continue;
        }
        let steady = |member: &Reader| {
            member.windows.iter().find(|window| window.covers(*asked, *answered)).map(|window| window.until)
        };
        let ends: Option<Vec<Instant>> = members.iter().map(steady).collect();
        if let Some(until) = ends.and_then(|ends| ends.into_iter().min()) {
            windows.push(Window { from: *answered, until, garbled: false });
        }
    }
    windows
}
