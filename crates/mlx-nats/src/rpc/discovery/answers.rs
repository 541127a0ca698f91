//! Questions and answers as the NATS services' protocol has them (ADR-32).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::Endpoint;
use super::endpoint::Counters;
use super::listing::Node;

/// What can be asked.
pub(super) const VERBS: [&str; 3] = ["PING", "INFO", "STATS"];

/// The answer to a question on `subject`; nothing, when it is not for this node.
pub(super) fn answer(node: &Node, subject: &str) -> Option<Bytes> {
    let mut tokens = subject.strip_prefix("$SRV.")?.split('.');
    let verb = tokens.next()?;
    if tokens.next().is_some_and(|name| name != node.about.name) || tokens.next().is_some_and(|id| id != node.id) {
        return None;
    }
    let json = match verb {
        "PING" => serde_json::to_vec(&head(node, "io.nats.micro.v1.ping_response")),
        "INFO" => serde_json::to_vec(&info(node)),
        "STATS" => serde_json::to_vec(&stats(node)),
        _ => return None,
    };
    json.ok().map(Bytes::from)
}

/// All of a ping's answer, and the beginning of any other.
#[derive(Serialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    id: &'a str,
    version: &'a str,
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Info<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    description: &'a str,
    endpoints: Vec<EndpointInfo>,
}

#[derive(Serialize)]
struct EndpointInfo {
    name: String,
    subject: String,
    /// Empty where every server answers.
    queue_group: String,
    metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Stats<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    started: &'a str,
    endpoints: Vec<EndpointStats>,
}

#[derive(Serialize)]
struct EndpointStats {
    name: String,
    subject: String,
    queue_group: String,
    num_requests: u64,
    num_errors: u64,
    /// Empty where there was none.
    last_error: String,
    /// In ns, like the next.
    processing_time: u64,
    average_processing_time: u64,
    /// What the protocol leaves to each service.
    data: Data,
}

#[derive(Serialize)]
struct Data {
    /// Requests under way.
    running: u64,
    /// How many may be.
    limit: usize,
}

fn head<'a>(node: &'a Node, kind: &'static str) -> Head<'a> {
    let about = &node.about;
    Head { kind, name: &about.name, id: &node.id, version: &about.version, metadata: &about.metadata }
}

fn info(node: &Node) -> Info<'_> {
    let describe = |endpoint: &Endpoint| EndpointInfo {
        name: endpoint.name.clone(),
        subject: endpoint.subject.clone(),
        queue_group: endpoint.queue_group.clone().unwrap_or_default(),
        metadata: endpoint.metadata.clone(),
    };
    Info {
        head: head(node, "io.nats.micro.v1.info_response"),
        description: &node.about.description,
        endpoints: node.endpoints().iter().map(|endpoint| describe(endpoint)).collect(),
    }
}

fn stats(node: &Node) -> Stats<'_> {
    let count = |endpoint: &Endpoint| {
        let Counters { running, requests, errors, nanos, last_error } = endpoint.stats();
        EndpointStats {
            name: endpoint.name.clone(),
            subject: endpoint.subject.clone(),
            queue_group: endpoint.queue_group.clone().unwrap_or_default(),
            num_requests: requests,
            num_errors: errors,
            last_error,
            processing_time: nanos,
            average_processing_time: nanos.checked_div(requests).unwrap_or_default(),
            data: Data { running, limit: endpoint.limit },
        }
    };
    Stats {
        head: head(node, "io.nats.micro.v1.stats_response"),
        started: &node.started,
        endpoints: node.endpoints().iter().map(|endpoint| count(endpoint)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::client::Discovery;

    fn node() -> Node {
        let about = Discovery::new("mlx-worker", "1.2.0").unwrap().describe("for tests").with("rack", "7");
        let group = Some("workers".to_owned());
        let endpoint = Endpoint::new("health.check", "health.check", group, 3, BTreeMap::new());
        Node::of(about, "ID1", vec![Arc::new(endpoint)])
    }

    fn answered(node: &Node, subject: &str) -> Option<Value> {
        answer(node, subject).map(|json| serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn answers_are_those_of_the_protocol() {
        let node = node();
        let head = |kind: &str| {
            json!({
                "type": format!("io.nats.micro.v1.{kind}_response"),
                "name": "mlx-worker", "id": "ID1", "version": "1.2.0", "metadata": { "rack": "7" }
            })
        };
        assert_eq!(answered(&node, "$SRV.PING"), Some(head("ping")));

        let mut info = head("info");
        info["description"] = json!("for tests");
        info["endpoints"] = json!([
            { "name": "health-check", "subject": "health.check", "queue_group": "workers", "metadata": {} }
        ]);
        assert_eq!(answered(&node, "$SRV.INFO.mlx-worker"), Some(info));

        let mut stats = head("stats");
        stats["started"] = json!("2026-01-02T03:04:05Z");
        stats["endpoints"] = json!([{
            "name": "health-check", "subject": "health.check", "queue_group": "workers",
            "num_requests": 0, "num_errors": 0, "last_error": "", "processing_time": 0, "average_processing_time": 0,
            "data": { "running": 0, "limit": 3 }
        }]);
        assert_eq!(answered(&node, "$SRV.STATS.mlx-worker.ID1"), Some(stats));
    }

    #[test]
    fn what_is_for_others_is_left_to_them() {
        let node = node();
        for subject in ["$SRV.PING.other", "$SRV.PING.mlx-worker.ID2", "$SRV.PING.other.ID1", "$SRV.SCHEMA", "PING"] {
            assert_eq!(answered(&node, subject), None, "{subject}");
        }
    }
}
