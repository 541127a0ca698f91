//! A worker joins the cluster, works, and leaves it.

use futures_util::StreamExt;
use mlx_errors::ErrorCode;
use mlx_nats::{WorkerEvent, WorkerEvents};
use mlx_tests::{TEST_MODEL, within};

use crate::support::{Controller, QUICK};

#[tokio::test]
async fn a_worker_gets_requests_from_its_registration_to_its_farewell_and_none_after() {
    let controller = Controller::start(QUICK).await;
    let mut events = controller.workers().events();
    assert!(controller.workers().list().is_empty());

    let (stays, leaves) = (controller.worker(&[]).await, controller.worker(&[]).await);
    assert_eq!(next(&mut events).await, WorkerEvent::Online(stays.id()));
    assert_eq!(next(&mut events).await, WorkerEvent::Online(leaves.id()));
    for worker in controller.workers().list() {
        let registration = worker.registration.expect("it has registered");
        assert_eq!(registration.skills.available_models, [TEST_MODEL]);
        assert_eq!(controller.ask(worker.worker_id, 20).await.complete(), 20);
    }

    // It is told to end in the middle of an answer, finishes that, and only then says goodbye.
    let id = leaves.id();
    let mut under_way = controller.infer(id, 50).await.unwrap();
    let first = within("the first token", under_way.next()).await;
    assert_eq!(first.unwrap().unwrap().index, 0);
    let stopped = tokio::spawn(leaves.stop());
    let mut received = 1;
    while let Some(frame) = within("the next frame", under_way.next()).await {
        assert_eq!(frame.unwrap().index, received);
        received += 1;
    }
    assert_eq!(received, 50);
    stopped.await.unwrap();
    assert_eq!(next(&mut events).await, WorkerEvent::Left(id));

    assert!(controller.workers().get(id).is_none());
    let refused = controller.ask(id, 20).await.error.expect("nobody is there");
    assert_eq!(refused.code(), ErrorCode::NatsNoResponders, "{refused}");
    assert_eq!(controller.ask(stays.id(), 20).await.complete(), 20);
    stays.stop().await;
    controller.shutdown().await;
}

async fn next(events: &mut WorkerEvents) -> WorkerEvent {
    within("a change of the cluster", events.next()).await.unwrap()
}
