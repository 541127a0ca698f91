//! A controller reads the tokens of one stream far more slowly than they come.

use futures_util::StreamExt;
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_tests::{captured_log, resident, within};
use mlx_types::{WorkerId, subjects};

use crate::support::{Controller, QUICK, read};

/// A frame a token, so that frames can be counted.
const PLAIN: &str = "streaming: { coalesce: false }\n";

/// More frames than wait for a reader, which are 262,144.
const FLOOD: u64 = 270_000;

/// What a worker may have more of after thirty thousand tokens that nobody took yet; kept, they would be more than that.
const TOLERANCE: u64 = 6 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_loses_nothing_and_neither_other_streams_nor_workers_suffer() {
    const TOKENS: u64 = 30_000;
    let controller = Controller::start(&format!("{QUICK}{PLAIN}")).await;
    let (quick, steady) = (controller.worker(&["--pause-ms", "0"]).await, controller.worker(&[]).await);
    assert_eq!(controller.ask(quick.id(), 1_000).await.complete(), 1_000);

    let before = resident(quick.pid()).unwrap();
    let paused = controller.infer(quick.id(), TOKENS).await.unwrap();
    let other = controller.infer(steady.id(), 200).await.unwrap();
    // Meanwhile nobody reads the first stream.
    assert_eq!(read(other).await.complete(), 200);
    assert_eq!(read(paused).await.complete(), TOKENS);
    let after = resident(quick.pid()).unwrap();
    assert!(after < before + TOLERANCE, "the worker grew from {before} to {after} bytes");
    quick.stop().await;
    steady.stop().await;
    controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_a_reader_that_is_too_slow_is_told_so_and_other_streams_go_on() {
    let log = captured_log();
    let controller = Controller::start(&format!("{QUICK}{PLAIN}")).await;
    let steady = controller.worker(&[]).await;

    // A node that is not ours, since it has to be quicker than the tests' worker.
    let flooding = async_nats::connect(controller.url().as_str_without_credentials()).await.unwrap();
    let id = WorkerId::new();
    let mut asked = flooding.subscribe(subjects::worker_inference(id).to_string()).await.unwrap();
    mlx_tests::arrived(&flooding).await;
    let mut slow = controller.infer(id, FLOOD).await.unwrap();
    let request = slow.request_id();
    within("the request", asked.next()).await.unwrap();
    let subject = subjects::response(request).to_string();
    let to = subject.clone();
    let flood = tokio::spawn(async move {
        for index in 0..FLOOD {
            let frame = format!(r#"{{"requestId":"{request}","type":"token","token":"{index}","index":{index}}}"#);
            flooding.publish(to.clone(), frame.into()).await.unwrap();
        }
        flooding.flush().await.unwrap();
        flooding
    });
    assert_eq!(controller.ask(steady.id(), 100).await.complete(), 100);
    let flooding = flood.await.unwrap();
    controller.node().client().flush(4 * mlx_tests::LIMIT).await.unwrap(); // behind the last frame

    let mut received = 0;
    let last = format!(r#"{{"requestId":"{request}","type":"token","token":"x","index":{FLOOD}}}"#);
    let error = loop {
        match within("the next frame", slow.next()).await.expect("the stream has an end") {
            Ok(frame) => {
                assert_eq!(frame.index, received, "what was kept is whole");
                received += 1;
                if received == 1_000 {
                    // There is room again, so that this one is behind the gap.
                    flooding.publish(subject.clone(), last.clone().into()).await.unwrap();
                }
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), ErrorCode::SlowConsumer, "{error}");
    let ErrorKind::SlowConsumer { subject: told, dropped } = error.kind() else { panic!("{error}") };
    assert_eq!((told, *dropped), (&subject, FLOOD - received), "every frame was either read or is counted");
    assert!(slow.next().await.is_none(), "nothing follows the end");
    let log = log.text();
    assert!(log.lines().any(|line| line.starts_with("WARN") && line.contains("too slow") && line.contains(&subject)));
    assert_eq!(controller.ask(steady.id(), 20).await.complete(), 20);
    steady.stop().await;
    controller.shutdown().await;
}
