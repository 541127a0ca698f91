//! A heartbeat as the table of workers reads it: a bad figure does not make it less of a sign of life.

use mlx_types::messages::{WorkerHeartbeat, WorkerMetrics, WorkerStatus};
use mlx_types::{Epoch, Timestamp, WorkerId};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The figures of a heartbeat, or what is wrong with them.
pub(crate) type Figures = Result<WorkerMetrics, String>;

/// As much of what is wrong is said: a peer may put what it likes there.
const REASON: usize = 200;

/// A heartbeat, with its figures where they are right.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Beat {
    pub(super) worker_id: WorkerId,
    pub(super) status: WorkerStatus,
    #[serde(default = "missing", deserialize_with = "figures")]
    pub(super) metrics: Figures,
    pub(super) timestamp: Timestamp,
    #[serde(default)]
    pub(super) epoch: Option<Epoch>,
}

impl From<WorkerHeartbeat> for Beat {
    fn from(beat: WorkerHeartbeat) -> Self {
        let WorkerHeartbeat { worker_id, status, metrics, timestamp, epoch, .. } = beat;
        Self { worker_id, status, metrics: Ok(metrics), timestamp, epoch }
    }
}

fn missing() -> Figures {
    Err("there are none".to_owned())
}

fn figures<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Figures, D::Error> {
    let Some(metrics) = Option::<Value>::deserialize(deserializer)? else { return Ok(missing()) };
    let metrics = serde_json::from_value(metrics).map_err(|error| error.to_string());
    Ok(metrics.and_then(checked).map_err(|reason| reason.chars().take(REASON).collect()))
}

/// By the bounds of a heartbeat, which are the only ones that look into its figures.
fn checked(metrics: WorkerMetrics) -> Figures {
    use mlx_types::messages::Message as _;
    let beat = WorkerHeartbeat::new(WorkerId::new(), WorkerStatus::Online, metrics);
    beat.check().map_err(|error| error.to_string())?;
    Ok(beat.metrics)
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
    fn a_bad_figure_leaves_a_sign_of_life_without_figures_and_says_why() {
        assert!(read(&json!(50)).metrics.is_ok());
        for bad in [json!(100.1), json!(-1), json!("high"), json!(null), json!("high".repeat(1000))] {
            let reason = read(&bad).metrics.unwrap_err();
            assert!(!reason.is_empty() && reason.chars().count() <= REASON, "{bad}: {reason}");
        }
        let none = json!({ "workerId": WorkerId::new(), "status": "online", "timestamp": 1 });
        assert!(serde_json::from_value::<Beat>(none).unwrap().metrics.is_err());
    }
}
