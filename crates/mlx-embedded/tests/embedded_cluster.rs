//! Three servers of one cluster, and what happens when one of them goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use mlx_embedded::{EmbeddedCluster, ServerState};
use serde_json::json;
use support::ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_share_messages_and_streams_and_survive_the_loss_of_one() {
    let mut cluster = EmbeddedCluster::start(3).await.unwrap();
    let urls: Vec<String> = cluster.client_urls().iter().map(ToString::to_string).collect();
    assert_eq!(cluster.client_config().servers.unwrap().len(), 3);
    let first = async_nats::connect(&urls[0]).await.unwrap();
    let third = async_nats::connect(&urls[2]).await.unwrap();

    // A message goes from one server to another.
    let mut heard = third.subscribe("beat").await.unwrap();
    third.flush().await.unwrap();
    let crossed = async {
        loop {
            first.publish("beat", "x".into()).await.unwrap();
            let next = futures_util::StreamExt::next(&mut heard);
            if tokio::time::timeout(Duration::from_millis(50), next).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), crossed).await.unwrap();

    // A stream is kept three times.
    let stream = json!({ "name": "KEPT", "subjects": ["kept"], "num_replicas": 3 });
    let created = ask(&first, "$JS.API.STREAM.CREATE.KEPT", &stream).await;
    assert!(created["error"].is_null(), "{created}");
    assert_eq!(ask(&first, "kept", &json!({})).await["seq"], 1);
    let meta = cluster.servers()[0].jsz().await.unwrap().meta_cluster.unwrap();
    assert_eq!(meta.cluster_size, 3);
    assert!(meta.leader.starts_with("node-"), "{meta:?}");

    // One is killed and comes back by itself; then one leaves for good.
    support::sigkill(cluster.servers()[1].pid().unwrap());
    support::until_state(&cluster.servers()[1], |state| matches!(state, ServerState::Restarting { .. })).await;
    assert_eq!(ask(&first, "kept", &json!({})).await["seq"], 2);
    support::until_state(&cluster.servers()[1], |state| matches!(state, ServerState::Ready)).await;
    cluster.take(1).unwrap().stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(ask(&third, "kept", &json!({})).await["seq"], 3);

    let pids: Vec<u32> = cluster.servers().iter().map(|server| server.pid().unwrap()).collect();
    assert_eq!(pids.len(), 2);
    // One that is taken keeps what it stores, for as long as it lives.
    let taken = cluster.take(0).unwrap();
    let stored = taken.client_config().embedded.jetstream.store_dir;
    cluster.stop(Duration::from_secs(10)).await.unwrap();
    assert!(stored.exists());
    taken.stop(Duration::from_secs(10)).await.unwrap();
    assert!(!stored.exists());
    assert!(pids.iter().all(|pid| !support::is_running(*pid)));
}

#[tokio::test]
async fn one_server_is_no_cluster() {
    for size in [0, 1] {
        let error = EmbeddedCluster::start(size).await.unwrap_err();
        assert!(error.to_string().contains("two servers"), "{error}");
    }
}
