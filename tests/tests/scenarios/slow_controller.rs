//! A controller reads the tokens of one stream far more slowly than they come.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_tests::{captured_log, resident, within};
use mlx_types::subjects;

use crate::support::{Controller, QUICK, read};

/// Frames that wait for a slow reader. The default is 65,536, which takes longer to fill.
const CAPACITY: usize = 256;

/// What a worker may have more of after a hundred thousand tokens that nobody took; kept, they would be twice that.
const TOLERANCE: u64 = 8 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_a_slow_reader_is_told_so_and_neither_other_streams_nor_workers_suffer() {
    let log = captured_log();
    let yaml = format!("{QUICK}streaming: {{ coalesce: false }}\n"); // a frame a token, so that frames can be counted
    let controller = Controller::start_with(&yaml, |options| options.subscription_capacity = CAPACITY).await;
    let flood = controller.worker(&["--pause-ms", "0"]).await;
    let steady = controller.worker(&[]).await;
    assert_eq!(controller.ask(flood.id(), 100).await.complete(), 100);

    let before = resident(flood.pid()).unwrap();
    let mut slow = controller.infer(flood.id(), 100_000).await.unwrap();
    let request = slow.request_id();
    let other = controller.infer(steady.id(), 300).await.unwrap();
    let began = Instant::now();
    let other = tokio::spawn(async move { (read(other).await, began.elapsed()) });

    let (mut received, mut largest) = (0, before);
    let error = loop {
        match within("the next frame", slow.next()).await.expect("the stream has an end") {
            Ok(frame) => {
                assert_eq!(frame.index, received, "what was kept is whole");
                received += 1;
            }
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(5)).await; // the slowness itself
        largest = largest.max(resident(flood.pid()).unwrap());
    };
    assert_eq!(error.code(), ErrorCode::SlowConsumer, "{error}");
    let ErrorKind::SlowConsumer { subject, dropped } = error.kind() else { panic!("{error}") };
    assert_eq!(subject, subjects::response(request).as_str());
    assert!(*dropped > 0, "{error}");
    assert!(received >= CAPACITY as u64, "what had arrived in time was still read: {received}");
    assert!(slow.next().await.is_none(), "nothing follows the end");
    let log = log.text();
    let line = log.lines().find(|line| line.contains("is too slow") && line.contains(subject.as_str()));
    assert!(line.is_some_and(|line| line.starts_with("WARN")), "the log says it too:\n{log}");
    assert!(largest < before + TOLERANCE, "the worker grew from {before} to {largest} bytes");

    let (answer, took) = other.await.unwrap();
    assert_eq!(answer.complete(), 300);
    // At a hundred tokens a second; the rest is for a busy machine.
    assert!(took < Duration::from_secs(9), "the other stream took {took:?}");
    assert_eq!(controller.ask(flood.id(), 100).await.complete(), 100);
    flood.stop().await;
    steady.stop().await;
    controller.shutdown().await;
}
