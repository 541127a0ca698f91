//! A worker process is killed in the middle of its answers.

use futures_util::StreamExt;
use futures_util::future::join;
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_tests::within;

use crate::support::{Controller, QUICK, read};

#[tokio::test]
async fn s4_a_killed_worker_is_reported_with_its_tokens_and_the_other_goes_on() {
    let controller = Controller::start(QUICK).await;
    let mut victim = controller.worker(&[]).await;
    let other = controller.worker(&[]).await;

    let mut cut_short = controller.infer(victim.id(), 100_000).await.unwrap();
    // Long enough to be under way when the loss of the other worker is noticed, 2 s after its last heartbeat.
    let goes_on = controller.infer(other.id(), 500).await.unwrap();
    for index in 0..3 {
        assert_eq!(within("a token", cut_short.next()).await.unwrap().unwrap().index, index);
    }
    victim.kill();
    let ended = async {
        let mut received = 3;
        loop {
            match within("the next frame", cut_short.next()).await.expect("the stream has an end") {
                Ok(frame) => {
                    assert_eq!(frame.index, received);
                    received += 1;
                }
                Err(error) => return (received, error),
            }
        }
    };
    let ((received, error), answer) = join(ended, read(goes_on)).await;

    assert_eq!(error.code(), ErrorCode::WorkerLost, "{error}");
    let ErrorKind::WorkerLost { worker, tokens } = error.kind() else { panic!("{error}") };
    assert_eq!((worker.as_str(), *tokens), (victim.id().to_string().as_str(), received));
    assert!(!error.is_retryable(), "an answer that has begun is not asked for again");
    assert_eq!(cut_short.next().await.transpose().unwrap(), None, "nothing follows the end");
    assert_eq!(answer.complete(), 500);

    assert_eq!(controller.workers().list().len(), 1);
    assert_eq!(controller.ask(other.id(), 10).await.complete(), 10);
    let refused = controller.ask(victim.id(), 10).await.error.unwrap();
    assert_eq!(refused.code(), ErrorCode::NatsNoResponders, "{refused}");
    assert!(refused.is_retryable(), "another worker can answer it");
    other.stop().await;
    controller.knows(<[_]>::is_empty).await;
    controller.shutdown().await;
}
