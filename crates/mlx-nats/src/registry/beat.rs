//! A heartbeat as the table of workers reads it: a bad figure does not make it less of a sign of life.

use mlx_types::messages::{WorkerHeartbeat, WorkerMetrics, WorkerStatus};
use mlx_types::{Epoch, Timestamp, WorkerId};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A heartbeat, with its figures where they are right.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Beat {
    pub(super) worker_id: WorkerId,
    pub(super) status: WorkerStatus,
    #[serde(default, deserialize_with = "figures")]
    pub(super) metrics: Option<WorkerMetrics>,
    pub(super) timestamp: Timestamp,
    #[serde(default)]
    pub(super) epoch: Option<Epoch>,
}

impl From<WorkerHeartbeat> for Beat {
    fn from(beat: WorkerHeartbeat) -> Self {
        let WorkerHeartbeat { worker_id, status, metrics, timestamp, epoch, .. } = beat;
        Self { worker_id, status, metrics: Some(metrics), timestamp, epoch }
    }
}

fn figures<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WorkerMetrics>, D::Error> {
    let metrics = Option::<Value>::deserialize(deserializer)?;
    Ok(metrics.and_then(|metrics| serde_json::from_value(metrics).ok()).filter(metrics_hold))
}

/// By the bounds of a heartbeat, which are the only ones that look into its figures.
fn metrics_hold(metrics: &WorkerMetrics) -> bool {
    use mlx_types::messages::Message as _;
    WorkerHeartbeat::new(WorkerId::new(), WorkerStatus::Online, metrics.clone()).check().is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(cpu: &Value) -> Beat {
        let metrics = json!({
            "cpuUsagePercent": cpu, "memoryUsedGB": 1.0, "gpuUtilizationPercent": 1.0, "activeRequests": 0,
            "totalRequestsHandled": 0, "avgLatencyMs": 1.0, "modelsLoaded": []
        });
        let id = WorkerId::new();
        let beat = json!({ "workerId": id, "status": "online", "metrics": metrics, "timestamp": 1, "novelty": 1 });
        serde_json::from_value(beat).unwrap()
    }

    #[test]
    fn a_bad_figure_leaves_a_sign_of_life_without_figures() {
        assert!(read(&json!(50)).metrics.is_some());
        for bad in [json!(100.1), json!(-1), json!("high"), json!(null)] {
            assert!(read(&bad).metrics.is_none(), "{bad}");
        }
    }
}
