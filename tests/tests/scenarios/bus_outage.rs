//! The bus goes away for 20 s, four times what the shipped `cluster.yaml` takes for the silence of the dead.
//!
//! All times are a quarter of those, unless `MLX_TEST_FULL=1` asks for the real ones.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use mlx_errors::ErrorCode;
use mlx_nats::{Client, WorkerEvent};
use mlx_tests::{FaultProxy, LIMIT, WorkerProcess, number_from_env, shipped_config};
use mlx_types::{ClusterConfig, Millis, subjects};
use tokio::time::{Instant, sleep, timeout_at};

use crate::support::{Bus, ConfigFile, Controller, load, read, start_worker};

const OUTAGE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn after_an_outage_of_20_s_everybody_registers_again_and_nobody_was_declared_dead() {
    let part = if number_from_env("MLX_TEST_FULL", || 0) == 0 { 4 } else { 1 };
    let shipped = load(&shipped_config());
    let offline_timeout = shipped.discovery.offline_timeout_ms.as_duration() / part;
    let outage = OUTAGE / part;
    assert!(outage >= 4 * offline_timeout, "an outage that nobody would take for a death shows nothing");

    let mut bus = Bus::start().await;
    // Before the workers alone: they are let in again once someone listens who must not miss a registration.
    let door = FaultProxy::before(bus.address()).await;
    let yaml = quicker(&shipped, u64::from(part), bus.url().as_str_without_credentials());
    let file = ConfigFile::new(&yaml);
    let workers = [(); 4].map(|()| start_worker(&file, &door.url(), &[]));
    let ids = workers.each_ref().map(WorkerProcess::id);
    let controller = Controller::start(&yaml).await;
    controller.knows_all(&ids).await;
    let mut events = controller.workers().events();

    let under_way = controller.infer(ids[0], 100_000).await.unwrap();
    door.refuse(true);
    bus.go_away().await;
    let ended = read(under_way).await.error.expect("a stream does not survive its bus");
    assert_eq!(ended.code(), ErrorCode::StreamDisconnected, "{ended}");
    let refused = controller.infer(ids[0], 1).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NatsDisconnected, "{refused}");
    sleep(outage).await; // the outage itself
    controller.knows_all(&ids).await;
    bus.come_back().await;
    let observer = Client::connect(&bus.config()).await.unwrap();
    let mut registrations = observer.subscribe(&subjects::WORKER_REGISTER).await.unwrap();
    // Everybody is as unlucky as one may be: the next attempt is due when the controller has been back for longer than it
    // takes the silence of the dead.
    controller.node().client().wait_connected(3 * outage + LIMIT).await.unwrap();
    sleep(offline_timeout + offline_timeout / 4).await; // what is left of the pause between two attempts
    door.refuse(false);

    // The last one back is the one whose pause between two attempts had just begun.
    let deadline = Instant::now() + 3 * outage + LIMIT;
    let mut missing = BTreeSet::from(ids);
    while !missing.is_empty() {
        let registration = timeout_at(deadline, registrations.next()).await.expect("everybody registers again");
        missing.remove(&registration.unwrap().unwrap().worker_id);
    }
    // Whoever was taken for dead wrongly would be so by now.
    sleep(offline_timeout + offline_timeout / 2).await; // the time in which nothing must happen
    match events.next().now_or_never() {
        None => {}
        Some(Some(WorkerEvent::Lost(id))) => panic!("worker {id} was declared dead, and was only cut off"),
        other => panic!("nobody came or went: {other:?}"),
    }
    controller.knows_all(&ids).await;
    for id in ids {
        assert_eq!(controller.ask(id, 20).await.complete(), 20);
    }
    join_all(workers.map(WorkerProcess::stop)).await;
    controller.shutdown().await;
}

/// The times of `shipped`, divided.
fn quicker(shipped: &ClusterConfig, part: u64, url: &str) -> String {
    let divided = |time: Millis| time.as_duration().as_millis() / u128::from(part);
    format!(
        "
nats:
  mode: external
  serverUrl: {url}
  reconnectTimeWait: {}
  maxReconnectAttempts: {}
discovery: {{ heartbeatIntervalMs: {}, offlineTimeoutMs: {} }}
logging: {{ level: error, format: text }}
",
        divided(shipped.nats.reconnect_time_wait),
        shipped.nats.max_reconnect_attempts,
        divided(shipped.discovery.heartbeat_interval_ms),
        divided(shipped.discovery.offline_timeout_ms),
    )
}
