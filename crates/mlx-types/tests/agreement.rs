//! The schema of a message and its type accept and refuse the same documents, and what is accepted survives a round trip.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "test data")]

#[path = "support/documents.rs"]
mod documents;

use std::fmt::Debug;

use mlx_types::messages::{
    ClusterAnnouncement, ClusterShutdown, EmbeddingRequest, EmbeddingResponse, HealthCheck, HealthReport,
    InferenceAcceptance, InferenceCancel, InferenceRequest, Message, ModelCommand, ModelStatus, StreamingResponse,
    WorkerDeregistration, WorkerHeartbeat, WorkerMetricsReport, WorkerRegistration,
};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde_json::Value;

use documents::{Choices, mutate, sample};

/// How often each message is tried.
const ROUNDS: u32 = 3000;

macro_rules! agreement {
    ($($test:ident: $message:ty,)+) => {
        $(#[test]
        fn $test() {
            agrees::<$message>();
        })+

        /// A message that nobody listed here would go untested.
        #[test]
        fn every_message_of_the_contract_is_tried() {
            let mut tried = [$(<$message>::NAME),+];
            let mut known: Vec<&str> = mlx_types::schema::messages().iter().map(|message| message.name).collect();
            tried.sort_unstable();
            known.sort_unstable();
            assert_eq!(tried, known.as_slice());
        }
    };
}

agreement! {
    worker_registration: WorkerRegistration,
    worker_heartbeat: WorkerHeartbeat,
    worker_deregistration: WorkerDeregistration,
    inference_request: InferenceRequest,
    inference_acceptance: InferenceAcceptance,
    streaming_response: StreamingResponse,
    inference_cancel: InferenceCancel,
    embedding_request: EmbeddingRequest,
    embedding_response: EmbeddingResponse,
    model_command: ModelCommand,
    model_status: ModelStatus,
    health_check: HealthCheck,
    health_report: HealthReport,
    worker_metrics_report: WorkerMetricsReport,
    cluster_announcement: ClusterAnnouncement,
    cluster_shutdown: ClusterShutdown,
}

fn agrees<M: Message + JsonSchema + PartialEq + Debug>() {
    let schema = mlx_types::schema::of::<M>();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    let seeds = any::<u64>();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(ROUNDS)
    });
    let outcome = runner.run(&seeds, |seed| {
        let mut choices = Choices::new(seed);
        let mut document = sample(&schema, &schema, &mut choices);
        mutate(&mut document, &mut choices);
        let by_type = accept::<M>(&document);
        let by_schema = validator.validate(&document).map_err(|error| error.to_string());
        prop_assert_eq!(by_type.is_ok(), by_schema.is_ok(), "{}\n{:?}\n{:?}", document, by_type, by_schema);
        let Ok(message) = by_type else { return Ok(()) };
        let text = serde_json::to_string(&message).unwrap();
        prop_assert_eq!(&accept::<M>(&serde_json::from_str(&text).unwrap()).unwrap(), &message);
        prop_assert!(!text.contains("null"), "an unset member is left out: {}", text);
        Ok(())
    });
    outcome.unwrap();
    no_array_passes_for_an_object::<M>(&schema, &validator);
    // A test that only ever sees one of both would prove nothing.
    for seed in 0..1000 {
        let mut choices = Choices::new(seed);
        let mut document = sample(&schema, &schema, &mut choices);
        mutate(&mut document, &mut choices);
        *if validator.is_valid(&document) { &mut accepted } else { &mut refused } += 1;
    }
    assert!(accepted > 20 && refused > 20, "{}: {accepted} accepted, {refused} refused", M::NAME);
}

/// serde reads any struct from an array of its members' values, wherever in a message it is: each object in turn.
fn no_array_passes_for_an_object<M: Message>(schema: &Value, validator: &jsonschema::Validator) {
    for seed in 0..200 {
        let document = sample(schema, schema, &mut Choices::new(seed));
        for place in objects(&document, "") {
            let members = document.pointer(&place).unwrap().as_object().unwrap();
            let values: Vec<Value> = members.values().cloned().collect();
            for array in [Vec::new(), vec![Value::Null; values.len()], values] {
                let mut document = document.clone();
                *document.pointer_mut(&place).unwrap() = Value::Array(array);
                assert_eq!(accept::<M>(&document).is_ok(), validator.is_valid(&document), "{place}: {document}");
            }
        }
    }
}

/// Where in a document there is an object.
fn objects(value: &Value, place: &str) -> Vec<String> {
    let within = |(name, value): (String, &Value)| objects(value, &format!("{place}/{name}"));
    match value {
        Value::Object(members) => {
            let deeper = members.iter().map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value));
            deeper.flat_map(within).chain([place.to_owned()]).collect()
        }
        Value::Array(values) => {
            (0..).zip(values).flat_map(|(index, value)| within((format!("{index}"), value))).collect()
        }
        _ => Vec::new(),
    }
}

fn accept<M: Message>(document: &Value) -> Result<M, String> {
    // As text, since that is how it comes in.
    let message: M = serde_json::from_str(&document.to_string()).map_err(|error| error.to_string())?;
    message.check().map_err(|violations| violations.to_string())?;
    Ok(message)
}

/// serde would read a struct from an array of its members' values.
#[test]
fn an_array_is_no_message() {
    let id = "\"0f8fad5b-d9cb-469f-a165-70867728950e\"";
    assert!(serde_json::from_str::<HealthCheck>(&format!("[{id}, 1]")).is_err());
    assert!(serde_json::from_str::<StreamingResponse>(&format!("[\"token\", {id}, \"t\", 0]")).is_err());
    let metrics = "[1, 1, 1, 1, 1, 1, []]";
    let report = format!("{{\"workerId\": {id}, \"metrics\": {metrics}, \"timestamp\": 1}}");
    assert!(serde_json::from_str::<WorkerMetricsReport>(&report).is_err());
}
