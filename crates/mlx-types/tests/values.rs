//! Ids, times, secrets and subjects as values; messages as their constructors make them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::time::Duration;

use mlx_types::config::EmbeddedConfig;
use mlx_types::messages::{
    CancelMode, ChatMessage, ClusterAnnouncement, ClusterEvent, ClusterShutdown, FinishReason, HealthCheck,
    HealthReport, InferenceCancel, InferenceRequest, Message, ModelCommand, ModelState, ModelStatus, StreamingResponse,
    WorkerDeregistration, WorkerHeartbeat, WorkerMetrics, WorkerMetricsReport, WorkerStatus,
};
use mlx_types::{
    ClusterConfig, Epoch, Millis, Pattern, RequestId, RequestSubject, Secret, SessionId, Subject, Timestamp, WorkerId,
};
use uuid::Uuid;

const UPPER: &str = "0F8FAD5B-D9CB-469F-A165-70867728950E";
const LOWER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

#[test]
fn ids_are_read_in_any_case_and_written_in_lower_case() {
    let id: WorkerId = UPPER.parse().unwrap();
    assert_eq!((id.to_string().as_str(), format!("{id:?}").as_str()), (LOWER, format!("WorkerId({LOWER})").as_str()));
    assert_eq!(serde_json::from_str::<WorkerId>(&format!("\"{UPPER}\"")).unwrap(), id);
    assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{LOWER}\""));
    assert_eq!(WorkerId::from_uuid(*id.as_uuid()), WorkerId::from(*id.as_uuid()));
    assert_eq!(format!("{id:>38}"), format!("  {LOWER}"));
    for form in [
        "0f8fad5bd9cb469fa16570867728950e",
        "{0f8fad5b-d9cb-469f-a165-70867728950e}",
        "",
        "0f8fad5b-d9cb-469f-a165-70867728950x",
    ] {
        let error = form.parse::<RequestId>().unwrap_err();
        assert_eq!(error.to_string(), "not a UUID; expected 32 hexadecimal digits as 8-4-4-4-12");
        assert!(serde_json::from_str::<SessionId>(&format!("\"{form}\"")).is_err());
    }
    assert!(serde_json::from_str::<SessionId>("1").unwrap_err().to_string().contains("a UUID as 8-4-4-4-12"));
    let many: HashSet<RequestId> = (0..100).map(|_| RequestId::new()).collect();
    assert_eq!(many.len(), 100);
    assert_ne!(SessionId::new(), SessionId::from_uuid(Uuid::nil()));
}

#[test]
fn times_are_whole_milliseconds() {
    assert_eq!(Timestamp::from_millis(0), None);
    let stamp = Timestamp::from_millis(1_700_000_000_000).unwrap();
    assert!(Timestamp::now() > stamp && Epoch::now() > Epoch::from_millis(stamp.as_millis()));
    assert_eq!((stamp.to_string().as_str(), Epoch::from_millis(7).to_string().as_str()), ("1700000000000", "7"));
    assert_eq!(serde_json::from_str::<Timestamp>("1700000000000").unwrap(), stamp);
    assert!(serde_json::from_str::<Timestamp>("0").is_err() && serde_json::from_str::<Timestamp>("-1").is_err());
    assert_eq!(serde_json::from_str::<Epoch>("0").unwrap().as_millis(), 0);
    assert_eq!(Millis::new(0), None);
    let span = Millis::new(1500).unwrap();
    assert_eq!(
        (span.get(), span.as_duration(), Duration::from(span)),
        (1500, Duration::from_millis(1500), Duration::from_millis(1500))
    );
    assert_eq!(span.to_string(), "1500 ms");
}

#[test]
fn x1_a_secret_shows_itself_to_who_asks_alone() {
    let secret = Secret::from("canary");
    assert_eq!(secret, Secret::from("canary".to_owned()));
    let shown = format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap());
    assert_eq!(shown, "[redacted] [redacted] \"[redacted]\"");
    assert_eq!(serde_json::from_str::<Secret<String>>("\"canary\"").unwrap(), secret);
    assert_eq!((secret.expose().as_str(), secret.clone().into_exposed().as_str()), ("canary", "canary"));
    assert_eq!(Secret::<u8>::default(), Secret::new(0));
}

#[test]
fn a_chat_is_optional_and_has_its_bounds() {
    let plain = InferenceRequest::new("llama-3", "Hi");
    assert!(!serde_json::to_string(&plain).unwrap().contains("messages"));
    let text = format!(r#"{{"requestId": "{LOWER}", "modelId": "m", "prompt": "p", "messages": null}}"#);
    assert_eq!(serde_json::from_str::<InferenceRequest>(&text).unwrap().messages, None);

    let chat = |messages| plain.clone().messages(messages);
    let said = vec![ChatMessage::new("system", ""), ChatMessage::new("user", "Hi")];
    let text = serde_json::to_string(&chat(said.clone())).unwrap();
    assert!(text.contains(r#""messages":[{"role":"system","content":""},{"role":"user","content":"Hi"}]"#), "{text}");
    assert_eq!(serde_json::from_str::<InferenceRequest>(&text).unwrap().messages, Some(said));

    let broken = |messages| chat(messages).check().unwrap_err().to_string();
    assert!(chat(vec![ChatMessage::new("é".repeat(64), "Hi")]).check().is_ok());
    assert!(broken(vec![ChatMessage::new("é".repeat(65), "Hi")]).contains("messages[0].role"));
    assert!(broken(vec![ChatMessage::new("user", "Hi"), ChatMessage::new("", "Hi")]).contains("messages[1].role"));
    assert!(broken(vec![]).contains("messages: must have a length of at least 1"), "{}", broken(vec![]));
    assert!(broken(vec![ChatMessage::new("user", "Hi"); 4097]).contains("at most 4096"));
}

#[test]
fn subjects_are_values() {
    let own = Subject::<HealthCheck>::new("lab.health").unwrap();
    let fixed = Subject::<HealthCheck>::from_static("lab.health");
    assert_eq!((own.as_static(), fixed.as_static()), (None, Some("lab.health")));
    assert!(own == fixed && own.clone() == own && HashSet::from([own.clone()]).contains(&fixed));
    assert_eq!((own.to_string().as_str(), format!("{own:?}").as_str()), ("lab.health", "Subject(\"lab.health\")"));
    assert_eq!(own.as_ref(), "lab.health");

    let pattern = Pattern::<HealthCheck>::new("lab.*").unwrap();
    assert_eq!((pattern.as_static(), pattern.to_string().as_str()), (None, "lab.*"));
    assert_eq!(Pattern::from(own).as_str(), "lab.health");
    assert_eq!(Pattern::<HealthCheck>::from_static("lab.>").as_static(), Some("lab.>"));

    let request = RequestSubject::<HealthCheck, HealthReport>::new("lab.ask").unwrap();
    assert_eq!((request.as_str(), request.as_subject().as_str(), request.as_static()), ("lab.ask", "lab.ask", None));
    assert_eq!(request, RequestSubject::from_static("lab.ask"));
    assert!(RequestSubject::<HealthCheck, HealthReport>::new("lab.>").is_err());
}

#[test]
#[should_panic(expected = "not a concrete subject")]
fn a_static_subject_with_a_wildcard_is_refused() {
    let _ = Subject::<HealthCheck>::from_static("lab.*");
}

#[test]
#[should_panic(expected = "not a valid pattern")]
fn a_static_pattern_that_is_none_is_refused() {
    let _ = Pattern::<HealthCheck>::from_static("lab.>.x");
}

/// What a constructor makes is valid, and written as the contract has it.
#[test]
fn constructors_make_valid_messages() {
    fn json<M: Message>(message: &M) -> serde_json::Value {
        assert!(message.check().is_ok(), "{}", M::NAME);
        serde_json::to_value(message).unwrap()
    }
    let (worker, request) = (WorkerId::new(), RequestId::new());
    assert_eq!(json(&WorkerHeartbeat::new(worker, WorkerStatus::Online, WorkerMetrics::default()))["status"], "online");
    assert_eq!(json(&WorkerDeregistration::new(worker))["workerId"], worker.to_string());
    assert_eq!(json(&InferenceRequest::new("llama-3", "Hi"))["modelId"], "llama-3");
    assert_eq!(json(&InferenceCancel::new(request, CancelMode::Kill))["mode"], "kill");
    assert_eq!(json(&ModelCommand::new("llama-3")).as_object().unwrap().len(), 2);
    assert_eq!(json(&ModelStatus::new(worker, "llama-3", ModelState::Loading))["state"], "loading");
    assert!(json(&HealthCheck::new())["timestamp"].is_u64());
    assert_eq!(json(&HealthReport::new(worker, WorkerStatus::Degraded))["status"], "degraded");
    assert!(json(&WorkerMetricsReport::new(worker, WorkerMetrics::default()))["metrics"]["memoryUsedGB"].is_number());
    assert_eq!(json(&ClusterAnnouncement::new(ClusterEvent::ControllerStarted))["event"], "controllerStarted");
    assert_eq!(json(&ClusterShutdown::new(0))["gracePeriodMs"], 0);
}

#[test]
fn what_a_newer_peer_adds_is_kept() {
    let status = format!(
        "{{\"workerId\": \"{LOWER}\", \"modelId\": \"m\", \"state\": \"quantizing\", \"timestamp\": 1, \"new\": []}}"
    );
    let status: ModelStatus = serde_json::from_str(&status).unwrap();
    assert_eq!(status.state, ModelState::Unknown("quantizing".into()));
    assert_eq!(
        (status.state.to_string().as_str(), serde_json::to_string(&status.state).unwrap().as_str()),
        ("quantizing", "\"quantizing\"")
    );
    assert_eq!(FinishReason::from("length"), FinishReason::Length);
    assert_eq!(ClusterEvent::WorkerOffline.as_str(), "workerOffline");
}

#[test]
fn numbers_that_json_cannot_write_are_refused_before_they_are_sent() {
    let metrics = WorkerMetrics::default().avg_latency_ms(f64::NAN).memory_used_gb(f64::INFINITY);
    let violations = WorkerMetricsReport::new(WorkerId::new(), metrics).check().unwrap_err();
    assert_eq!(
        violations.to_string(),
        "metrics.avgLatencyMs: must be a finite number; metrics.memoryUsedGB: must be a finite number"
    );
}

#[test]
fn a_frame_knows_its_request_and_whether_it_is_the_last() {
    let request_id = RequestId::new();
    let frames = [
        (StreamingResponse::Token { request_id, token: "t".into(), index: 0 }, false),
        (StreamingResponse::Tokens { request_id, tokens: vec!["t".into()], index: 1 }, false),
        (
            StreamingResponse::Done { request_id, total_tokens: 2, latency_ms: 1.5, finish_reason: None, usage: None },
            true,
        ),
        (StreamingResponse::Error { request_id, error: "e".into(), code: "C".into(), retryable: None }, true),
    ];
    for (frame, terminal) in frames {
        assert_eq!((frame.request_id(), frame.is_terminal()), (request_id, terminal));
        assert!(frame.check().is_ok());
    }
    let empty = StreamingResponse::Tokens { request_id, tokens: Vec::new(), index: 0 };
    assert_eq!(empty.check().unwrap_err().to_string(), "tokens: must have a length of at least 1");
}

#[test]
fn defaults_are_loopback_and_valid() {
    let config = ClusterConfig::default();
    assert!(config.check().is_ok() && config.nats.check().is_ok());
    assert!(config.nats.urls().is_empty() && config.nats.embedded.is_loopback());
    for (host, loopback) in
        [("localhost", true), ("::1", true), ("::ffff:127.0.0.1", true), ("0.0.0.0", false), ("h", false)]
    {
        let mut embedded = EmbeddedConfig::default();
        embedded.host = host.into();
        assert_eq!(embedded.is_loopback(), loopback, "{host}");
    }
    let mut nats = config.nats;
    nats.embedded.port = 80;
    let violations = nats.check().unwrap_err();
    assert_eq!(violations.to_string(), "embedded.port: must be a port from 1024 to 65535, or 0 for a free one");
}

#[test]
fn every_generated_file_has_a_name_and_a_schema() {
    let files = mlx_types::schema::all();
    assert_eq!(files.len(), 3 + 16);
    for (name, contents) in files {
        assert!(contents.get("$schema").is_some() || contents.get("asyncapi").is_some(), "{name}");
    }
}
