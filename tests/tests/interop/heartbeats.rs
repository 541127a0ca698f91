//! Signs of life.

use futures_util::StreamExt;
use mlx_errors::{ErrorKind, Violations};
use mlx_nats::Subscription;
use mlx_tests::{LIMIT, TestServer, within};
use mlx_types::messages::{WorkerHeartbeat, WorkerMetrics, WorkerStatus};
use mlx_types::{Epoch, WorkerId, subjects};
use serde_json::{Value, json};

use super::peer::Peer;

fn beat(id: &str, change: impl Fn(&mut Value)) -> Value {
    let mut beat = json!({
        "workerId": id,
        "status": "online",
        "metrics": {
            "cpuUsagePercent": 12.5, "memoryUsedGB": 3, "gpuUtilizationPercent": 80, "activeRequests": 1,
            "totalRequestsHandled": 7, "avgLatencyMs": 20.5, "modelsLoaded": ["llama-3"]
        },
        "timestamp": 1_700_000_000_000_u64
    });
    change(&mut beat);
    beat
}

async fn publish(peer: &mut Peer, beat: &Value) {
    peer.tell(json!({ "subject": "worker.heartbeat", "text": beat.to_string() })).await;
}

/// Each with the path and the rule that it breaks.
fn malformed(id: &str) -> Vec<(Value, &'static str, &'static str)> {
    let text = |text: String| json!({ "text": text });
    let changed = |change: fn(&mut Value)| text(beat(id, change).to_string());
    let broken_utf8 = {
        let json = beat(id, |beat| beat["metrics"]["modelsLoaded"] = json!(["@"])).to_string();
        json!({ "hex": json.bytes().fold(String::new(), |hex, byte| {
            hex + &format!("{:02x}", if byte == b'@' { 0xff } else { byte })
        }) })
    };
    vec![
        (changed(|beat| beat["metrics"]["activeRequests"] = json!("many")), "metrics.activeRequests", "decode"),
        (changed(|beat| beat["metrics"]["activeRequests"] = json!(-1)), "metrics.activeRequests", "decode"),
        (changed(|beat| drop(beat["metrics"].as_object_mut().unwrap().remove("avgLatencyMs"))), "metrics", "decode"),
        (changed(|beat| drop(beat.as_object_mut().unwrap().remove("timestamp"))), "", "decode"),
        (changed(|beat| beat["status"] = json!("asleep")), "status", "decode"),
        (changed(|beat| beat["workerId"] = json!("worker-1")), "workerId", "decode"),
        (changed(|beat| beat["timestamp"] = json!(0)), "timestamp", "decode"),
        (changed(|beat| beat["metrics"]["cpuUsagePercent"] = json!(100.5)), "metrics.cpuUsagePercent", "range"),
        (changed(|beat| beat["metrics"]["memoryUsedGB"] = json!(-1)), "metrics.memoryUsedGB", "range"),
        (broken_utf8, "metrics.modelsLoaded[0]", "decode"),
        (text(String::new()), "", "decode"),
        (text("tick".to_owned()), "", "decode"),
        (text("[1, 2]".to_owned()), "", "decode"),
        (text(beat(id, |_| {}).to_string() + "}"), "", "decode"),
    ]
}

async fn next(beats: &mut Subscription<WorkerHeartbeat>) -> Result<WorkerHeartbeat, mlx_errors::Error> {
    within("a heartbeat", beats.next()).await.unwrap().map(mlx_nats::Received::into_payload)
}

#[tokio::test]
async fn nats_py_beats_arrive_and_each_malformed_one_is_one_error() {
    let server = TestServer::start().await;
    let mut beats = server.client().await.subscribe(&subjects::WORKER_HEARTBEAT).await.unwrap();
    let mut peer = Peer::start(&server, "publish", &[]).await;
    let id = WorkerId::new();

    // Capitals, an optional member that is null, and members that nobody knows.
    let strange = beat(&id.to_string().to_uppercase(), |beat| {
        beat["epoch"] = Value::Null;
        beat["novelty"] = json!({ "deep": [1] });
        beat["metrics"]["fanSpeed"] = json!(900);
    });
    publish(&mut peer, &strange).await;
    let arrived = next(&mut beats).await.unwrap();
    assert_eq!((arrived.worker_id, arrived.epoch, arrived.status), (id, None, WorkerStatus::Online));
    assert_eq!(arrived.metrics.models_loaded, ["llama-3"]);

    for (number, (mut order, path, rule)) in malformed(&id.to_string()).into_iter().enumerate() {
        order["subject"] = json!("worker.heartbeat");
        peer.tell(order.clone()).await;
        // Right behind it, so that a second item for the malformed one would show.
        let good = beat(&id.to_string(), |beat| beat["timestamp"] = json!(number + 1));
        publish(&mut peer, &good).await;

        let error = next(&mut beats).await.unwrap_err();
        let (ErrorKind::Decode { subject, violations } | ErrorKind::Validation { subject, violations }) = error.kind()
        else {
            panic!("{order}: {error:?}")
        };
        assert_eq!(subject, "worker.heartbeat");
        assert_eq!(places(violations), [(path, rule)], "{order}: {error}");
        assert_eq!(next(&mut beats).await.unwrap().timestamp.as_millis(), number as u64 + 1, "{order}");
    }
    peer.leave().await;
}

fn places(violations: &Violations) -> Vec<(&str, &str)> {
    violations.iter().map(|violation| (violation.path.as_str(), violation.rule.as_str())).collect()
}

#[tokio::test]
async fn nats_py_beats_fill_our_table_of_workers_and_malformed_ones_do_not_disturb_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let workers = client.workers().await.unwrap();
    let mut peer = Peer::start(&server, "publish", &[]).await;
    let (first, second) = (WorkerId::new(), WorkerId::new());

    publish(&mut peer, &beat(&first.to_string(), |_| {})).await;
    for (mut order, ..) in malformed(&WorkerId::new().to_string()) {
        for subject in ["worker.heartbeat", "worker.register", "worker.deregister"] {
            order["subject"] = json!(subject);
            peer.tell(order.clone()).await;
        }
    }
    publish(&mut peer, &beat(&second.to_string(), |beat| beat["status"] = json!("degraded"))).await;
    workers.wait_until(LIMIT, |workers| workers.iter().any(|worker| worker.worker_id == second)).await.unwrap();
    let known: Vec<_> = workers.list().into_iter().map(|worker| worker.worker_id).collect();
    assert_eq!(known.len(), 2, "only those that beat properly: {known:?}");
    assert_eq!(workers.get(second).unwrap().status, WorkerStatus::Degraded);

    let farewell = json!({ "workerId": first.to_string(), "timestamp": 1_700_000_000_001_u64, "reason": null });
    peer.tell(json!({ "subject": "worker.deregister", "text": farewell.to_string() })).await;
    workers.wait_until(LIMIT, |workers| workers.len() == 1).await.unwrap();
    peer.leave().await;
}

#[tokio::test]
async fn nats_py_hears_our_heartbeats_as_the_contract_has_them() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut peer = Peer::start(&server, "listen", &["worker.>"]).await;
    let metrics = WorkerMetrics::default().models_loaded(vec!["llama-3".to_owned()]);
    let mut beat = WorkerHeartbeat::new(WorkerId::new(), WorkerStatus::Online, metrics);
    let mut expected = json!({
        "workerId": beat.worker_id.to_string(),
        "status": "online",
        "metrics": {
            "cpuUsagePercent": 0.0, "memoryUsedGB": 0.0, "gpuUtilizationPercent": 0.0, "activeRequests": 0,
            "totalRequestsHandled": 0, "avgLatencyMs": 0.0, "modelsLoaded": ["llama-3"]
        },
        "timestamp": beat.timestamp.as_millis()
    });
    client.publish(&subjects::WORKER_HEARTBEAT, &beat).await.unwrap();
    let (body, message) = peer.hears_json().await;
    assert_eq!(body, expected, "an unset member is left out");
    assert_eq!((&message["subject"], &message["headers"]), (&json!("worker.heartbeat"), &json!({})));

    beat.epoch = Some(Epoch::from_millis(5));
    expected["epoch"] = json!(5);
    client.publish(&subjects::WORKER_HEARTBEAT, &beat).await.unwrap();
    assert_eq!(peer.hears_json().await.0, expected);
    assert!(peer.leave().await.is_empty());
}
