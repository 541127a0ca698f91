//! The subject table and its parts say the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use mlx_types::subjects::{self, Parsed};
use mlx_types::{RequestId, WorkerId};

#[test]
fn every_subject_of_the_contract_is_in_the_table() {
    let rows = mlx_types::schema::contract();
    let shown: Vec<String> = rows
        .iter()
        .map(|row| {
            let reply = row.reply.map(|reply| format!(" -> {}", reply.name)).unwrap_or_default();
            format!("{} {:?} {}{reply}", row.address, row.sender, row.payload.name)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "worker.register Worker WorkerRegistration",
            "worker.heartbeat Worker WorkerHeartbeat",
            "worker.deregister Worker WorkerDeregistration",
            "worker.{workerId}.inference Controller InferenceRequest -> InferenceAcceptance",
            "response.{requestId} Worker StreamingResponse",
            "worker.{workerId}.cancel Controller InferenceCancel",
            "worker.{workerId}.embeddings Controller EmbeddingRequest -> EmbeddingResponse",
            "inference.queue.{model} Controller InferenceRequest",
            "inference.cancel Controller InferenceCancel",
            "inference.dead.{model} Worker InferenceRequest",
            "model.load Controller ModelCommand -> ModelStatus",
            "model.unload Controller ModelCommand -> ModelStatus",
            "model.status Worker ModelStatus",
            "health.check Controller HealthCheck -> HealthReport",
            "health.response Worker HealthReport",
            "metrics.report Worker WorkerMetricsReport",
            "cluster.announce Controller ClusterAnnouncement",
            "cluster.shutdown Controller ClusterShutdown",
        ]
    );
}

#[test]
fn every_row_is_read_back() {
    let id = "0F8FAD5B-D9CB-469F-A165-70867728950E";
    for row in mlx_types::schema::contract() {
        let subject = row.address.replace("{workerId}", id).replace("{requestId}", id).replace("{model}", "m");
        assert!(subjects::parse(&subject).is_some(), "{subject}");
        assert_eq!(subjects::parse(&format!("{subject}.x")), None);
        assert_eq!(subjects::parse(&format!("x.{subject}")), None);
    }
}

#[test]
fn ids_come_back_from_concrete_subjects() {
    let (worker, request) = (WorkerId::new(), RequestId::new());
    assert_eq!(subjects::parse(subjects::worker_inference(worker).as_str()), Some(Parsed::WorkerInference(worker)));
    assert_eq!(subjects::parse(subjects::worker_cancel(worker).as_str()), Some(Parsed::WorkerCancel(worker)));
    assert_eq!(subjects::parse(subjects::response(request).as_str()), Some(Parsed::Response(request)));
    for none in [
        "",
        "worker",
        "worker.register.",
        "worker..inference",
        "worker.*.inference",
        "response.x",
        "lab.test",
        "response.>",
    ] {
        assert_eq!(subjects::parse(none), None, "{none:?}");
    }
}

#[test]
fn the_asyncapi_document_resolves_in_itself() {
    let document = mlx_types::schema::asyncapi();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 100);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    assert_eq!(document.get("channels").unwrap().as_object().unwrap().len(), 23);
}

fn collect(value: &serde_json::Value, references: &mut Vec<String>) {
    if let Some(reference) = value.get("$ref").and_then(|reference| reference.as_str()) {
        references.push(reference.to_owned());
    }
    match value {
        serde_json::Value::Object(members) => members.values().for_each(|value| collect(value, references)),
        serde_json::Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}
