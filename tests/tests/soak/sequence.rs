//! Messages that nobody may lose without saying so: numbers, published in batches, read by someone else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mlx_nats::{Client, ConnectionState, Subscription};
use mlx_tests::within;
use tokio::sync::watch;

use crate::chaos::pause;
use crate::cluster::Cluster;

const SUBJECT: &str = "lab.sequence";

/// Numbers in a batch.
const BATCH: u64 = 50;

/// How long a confirmation may take; longer than a stall, so that some batches survive one.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends one batch after another. When the sender's flush and the reader's say that nothing happened in between, every
/// number has to be there, once and in order; otherwise the loss was told, and the batch does not count.
pub async fn check(cluster: Arc<Cluster>, mut over: watch::Receiver<bool>) {
    let (sender, reader) = (cluster.controller(), cluster.observer());
    let mut numbers = reader.subscribe::<_, u64>(SUBJECT).await.unwrap();
    let mut next = 0;
    while !pause(&mut over, 50).await {
        cluster.figures().count("batches");
        let epoch = epoch(reader);
        let batch = next..next + BATCH;
        next = batch.end;
        let confirmed = match send(sender, batch.clone()).await {
            Ok(()) => reader.flush(TIMEOUT).await,
            Err(error) => Err(error),
        };
        match confirmed {
            Ok(()) if epoch.is_some() && self::epoch(reader) == epoch => {
                expect(&mut numbers, batch).await;
                cluster.figures().ended("batches", "well");
            }
            Ok(()) => cluster.figures().ended("batches", "over a reader's new connection"),
            Err(error) => cluster.figures().ended("batches", error.code().as_str()),
        }
    }
}

async fn send(sender: &Client, batch: std::ops::Range<u64>) -> mlx_errors::Result<()> {
    for number in batch {
        sender.publish(SUBJECT, &number).await?;
        tokio::time::sleep(Duration::from_millis(5)).await; // so that faults hit batches in their middle
    }
    sender.flush(TIMEOUT).await
}

/// Everything of the batch, behind what is left of those that do not count.
async fn expect(numbers: &mut Subscription<u64>, batch: std::ops::Range<u64>) {
    let mut left = Vec::new();
    for expected in batch.clone() {
        let number = loop {
            let number = within("a number", numbers.next()).await.expect("the reader goes on").unwrap().payload;
            if number >= batch.start {
                break number;
            }
            left.push(number);
        };
        assert_eq!(number, expected, "of {batch:?}, behind {left:?}");
    }
    assert!(numbers.next().now_or_never().is_none(), "a number came twice");
    assert!(left.is_sorted_by(|one, other| one < other), "out of order: {left:?}");
}

fn epoch(client: &Client) -> Option<u64> {
    match client.state() {
        ConnectionState::Connected { epoch } => Some(epoch),
        _ => None,
    }
}
