//! Two clusters on one machine.

use futures_util::StreamExt;
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_tests::{LIMIT, within};
use mlx_types::messages::{ClusterAnnouncement, ClusterEvent};
use mlx_types::{WorkerId, subjects};

use crate::support::{ConfigFile, Controller, QUICK, free_port, read};

#[tokio::test]
async fn two_clusters_on_one_machine_do_not_hear_each_other() {
    let (one, other) = (Controller::start(QUICK).await, Controller::start(QUICK).await);
    assert_ne!(one.url(), other.url());
    // The same id on both sides, as a configuration that was copied would have it.
    let id = WorkerId::new();
    let of_one = one.worker_with_id(id, &[]).await;
    let mut heard = other.node().client().subscribe(&subjects::CLUSTER_ANNOUNCE).await.unwrap();
    assert!(other.workers().list().is_empty());
    let refused = other.ask(id, 10).await.error.expect("the other cluster has no worker");
    assert_eq!(refused.code(), ErrorCode::NatsNoResponders, "{refused}");

    let of_other = other.worker_with_id(id, &[]).await;
    let epoch = |controller: &Controller| controller.workers().get(id).unwrap().epoch;
    assert_ne!(epoch(&one), epoch(&other), "each knows its own");
    let announcement = ClusterAnnouncement::new(ClusterEvent::ControllerStarted);
    one.node().client().publish(&subjects::CLUSTER_ANNOUNCE, &announcement).await.unwrap();
    one.node().client().flush(LIMIT).await.unwrap();

    // Both answer, and what ends in one goes on in the other.
    let goes_on = other.infer(id, 100).await.unwrap();
    assert_eq!(one.ask(id, 20).await.complete(), 20);
    of_one.stop().await;
    one.knows(<[_]>::is_empty).await;
    assert_eq!(read(goes_on).await.complete(), 100);
    assert_eq!(other.workers().list().len(), 1);

    let own = ClusterAnnouncement::new(ClusterEvent::WorkerOnline);
    other.node().client().publish(&subjects::CLUSTER_ANNOUNCE, &own).await.unwrap();
    let first = within("an announcement", heard.next()).await.unwrap().unwrap();
    assert_eq!(first.event, ClusterEvent::WorkerOnline, "that of the other cluster did not come here");
    of_other.stop().await;
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test]
async fn m4_a_second_cluster_on_the_same_port_says_which_setting_to_change() {
    let port = free_port();
    let yaml = QUICK.replace("port: 0,", &format!("port: {port},"));
    let first = Controller::start(&yaml).await;
    let worker = first.worker(&[]).await;

    let config = ConfigFile::new(&yaml).load();
    let error = mlx_embedded::connect(&config).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::EmbeddedServerStart, "{error}");
    let ErrorKind::ServerStart { reason, .. } = error.kind() else { panic!("{error}") };
    assert!(reason.contains(&port.to_string()) && reason.contains("nats.embedded.port"), "{reason}");

    // M2: the first one was neither stopped nor joined.
    assert_eq!(first.ask(worker.id(), 20).await.complete(), 20);
    worker.stop().await;
    first.shutdown().await;
}
