//! The controller restarts, and its workers stay.

use futures_util::future::join_all;
use mlx_tests::WorkerProcess;
use mlx_types::messages::{ClusterAnnouncement, ClusterEvent};
use mlx_types::subjects;

use crate::support::{Bus, ConfigFile, Controller, QUICK, free_port, start_worker};

#[tokio::test]
async fn a_new_controller_learns_the_workers_from_their_heartbeats_and_serves_again() {
    let bus = Bus::start().await;
    let file = ConfigFile::new(&bus.yaml());
    let workers = [(); 2].map(|()| start_worker(&file, &bus.url(), &[]));
    let ids = workers.each_ref().map(WorkerProcess::id);

    let first = Controller::start(&bus.yaml()).await;
    first.knows_all(&ids).await;
    assert_eq!(first.ask(ids[0], 20).await.complete(), 20);
    let under_way = first.infer(ids[1], 100_000).await.unwrap();
    // In the middle of an answer, and like a process that is killed: nobody is told anything.
    drop((first, under_way));

    let second = Controller::start(&bus.yaml()).await;
    // It announces nothing, so that nobody has a reason to register again.
    second.knows_all(&ids).await;
    for id in ids {
        assert!(second.workers().get(id).unwrap().metrics.is_some(), "{id} sends heartbeats");
        assert_eq!(second.ask(id, 20).await.complete(), 20);
    }
    // What else there is to know of the workers comes for the asking.
    announce(&second).await;
    join_all(workers.map(WorkerProcess::stop)).await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_controller_that_brings_the_bus_along_finds_its_workers_again_after_a_restart() {
    let yaml = QUICK.replace("port: 0,", &format!("port: {},", free_port()));
    let first = Controller::start(&yaml).await;
    let workers = [first.worker(&[]).await, first.worker(&[]).await];
    let ids = workers.each_ref().map(WorkerProcess::id);
    let epochs = ids.map(|id| first.workers().get(id).unwrap().epoch);
    first.shutdown().await;

    let second = Controller::start(&yaml).await;
    second.knows_all(&ids).await;
    announce(&second).await;
    for (id, epoch) in ids.into_iter().zip(epochs) {
        let worker = second.workers().get(id).unwrap();
        assert_eq!(worker.epoch, epoch, "{id} is the process that it was");
        assert_eq!(second.ask(id, 20).await.complete(), 20);
    }
    join_all(workers.map(WorkerProcess::stop)).await;
    second.shutdown().await;
}

/// Says that it is there, upon which everybody registers again.
async fn announce(controller: &Controller) {
    let announcement = ClusterAnnouncement::new(ClusterEvent::ControllerStarted);
    controller.node().client().publish(&subjects::CLUSTER_ANNOUNCE, &announcement).await.unwrap();
    controller.knows(|workers| workers.iter().all(|worker| worker.registration.is_some())).await;
}
