//! A storm over everything at once, and the proof that whatever it did to a message was reported.
//!
//! Publishers, readers, a queue group, requests and token streams run while connections are cut, stalled, delayed,
//! throttled, refused and garbled, and the server is frozen and killed. What has to hold for messages is said, and
//! decided, in [`mlx_tests::ledger`]; what for requests and streams, in [`asking`].
//!
//! `MLX_TEST_CHAOS_SECONDS` sets how long the storm lasts (5 s unless set), `MLX_TEST_SEED` repeats one, as far as the
//! order of its faults goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod asking;
mod messages;
mod node;
mod weather;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mlx_nats::SubscribeOptions;
use mlx_tests::ledger::{Book, Reader, Verdict, check_group, check_reader};
use mlx_tests::{TestServer, millis, number_from_env};
use mlx_types::config::{PublishWhileDisconnected, RestartConfig};
use tokio::sync::watch;

use crate::node::Node;

/// Messages that the slow reader's subscription holds.
const LITTLE: usize = 16;

/// What the slow reader takes for each message.
const SLOWNESS: Duration = Duration::from_millis(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_lost_repeated_or_reordered_unreported_in_a_storm() {
    let storm = Duration::from_secs(number_from_env("MLX_TEST_CHAOS_SECONDS", || 5));
    let seed = number_from_env("MLX_TEST_SEED", || fastrand::u64(..));
    println!("MLX_TEST_SEED={seed} MLX_TEST_CHAOS_SECONDS={}", storm.as_secs());

    let server = Arc::new(TestServer::start_with(|config| config.embedded.restart = often()).await);
    let over = Arc::new(AtomicBool::new(false));
    let (finish, finished) = watch::channel(false);

    let readers = vec![
        messages::Subscriber::start(&server, "all", None, SubscribeOptions::default(), None).await,
        messages::Subscriber::start(&server, "one subject", Some(0), SubscribeOptions::default(), None).await,
        messages::Subscriber::start(&server, "slow", None, held(LITTLE), Some((SLOWNESS, Arc::clone(&over)))).await,
    ];
    let mut group = Vec::new();
    for _ in 0..3 {
        group.push(messages::Subscriber::start(&server, "group", None, in_group(), None).await);
    }
    let mut publishers = Vec::new();
    for id in 0..3 {
        let buffering = id == 2;
        let kind = if buffering { PublishWhileDisconnected::Buffer } else { PublishWhileDisconnected::Fail };
        publishers.push(Node::start(&server, |config| config.publish_while_disconnected = kind).await);
    }
    let (asker, answerer) = (Node::start(&server, |_| {}).await, Node::start(&server, |_| {}).await);

    let all = readers.iter().chain(&group).map(|reader| reader.node.clone());
    let all: Vec<Node> = all.chain(publishers.iter().cloned()).chain([asker.clone(), answerer.clone()]).collect();
    let members = group.iter().map(|member| member.node.clone()).collect();
    let settled = tokio::spawn(messages::settled(Arc::clone(&server), members, finished.clone()));
    let reading: Vec<_> = readers.into_iter().map(|reader| reader.run(finished.clone())).collect();
    let grouped: Vec<_> = group.into_iter().map(|member| member.run(finished.clone())).collect();
    let publishing = (0..).zip(&publishers).map(|(id, node)| {
        let random = fastrand::Rng::with_seed(seed ^ (id as u64 + 1));
        tokio::spawn(messages::publish(id, node.clone(), random, Arc::clone(&over)))
    });
    let publishing: Vec<_> = publishing.collect();
    let asking = tokio::spawn(asking::run(asker, answerer, Arc::clone(&over), finished.clone()));

    // Bytes are garbled only on the way to a reader with a single subscription: without a checksum, a garbled number
    // could bring one request the answer of another, and nobody could tell.
    let faults = weather::storm(&server, &all, 1, storm, seed).await;
    over.store(true, Ordering::Relaxed);
    let books: Vec<Book> = join_all(publishing).await.into_iter().map(Result::unwrap).collect();
    let outcome = asking::settle(asking, &finish).await;

    let read: Vec<Reader> = join_all(reading).await;
    let members: Vec<Reader> = join_all(grouped).await;
    let windows = messages::group_windows(&settled.await.unwrap(), &members);
    println!("{faults:?}");
    let published: usize = books.iter().map(|book| book.publications().len()).sum();
    let confirmed = books.iter().flat_map(Book::publications).filter(|sent| sent.confirmed.is_some()).count();
    println!("{published} published, {confirmed} confirmed; {outcome:?}");
    let mut verdicts: Vec<(String, Verdict)> =
        read.iter().map(|reader| (reader.name.clone(), check_reader(&books, reader))).collect();
    verdicts.push(("group".to_owned(), check_group(&books, &members, &windows)));
    let mut violations = outcome.violations;
    for (name, verdict) in verdicts {
        let Verdict { owed, received, dropped, .. } = verdict;
        println!("{name}: {received} received, {owed} owed, {dropped} reported as dropped");
        assert!(owed > 0, "nothing was proved of {name}");
        violations.extend(verdict.violations.iter().map(|violation| format!("{violation:?}")));
    }
    let first: Vec<_> = violations.iter().take(20).collect();
    assert!(violations.is_empty(), "{} violations: {first:#?}", violations.len());
}

/// Restarts without end, and soon: those of the last half second alone make the next one wait.
fn often() -> RestartConfig {
    let mut often = RestartConfig::default();
    often.max_restarts = 100_000;
    often.window_ms = millis(500);
    often
}

fn held(capacity: usize) -> SubscribeOptions {
    SubscribeOptions::default().capacity(capacity)
}

fn in_group() -> SubscribeOptions {
    SubscribeOptions::default().queue_group(messages::GROUP.to_owned())
}
