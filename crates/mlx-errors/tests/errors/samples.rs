//! One error of each kind.

use std::time::Duration;

use mlx_errors::{ApplicationError, ConnectStep, ErrorKind, Location, RemoteError, TriedPath, Violation, Violations};

/// In the order of the table of codes.
pub(crate) fn samples() -> Vec<ErrorKind> {
    let subject = || "model.load".to_owned();
    let worker = || "6f1c0e0a-2f6b-4a0e-9a53-0c6f0d7b8a11".to_owned();
    vec![
        ErrorKind::Connection {
            server: "nats://127.0.0.1:4222".into(),
            step: ConnectStep::Connect,
            hint: "is the server running?".into(),
        },
        ErrorKind::Authentication { server: "nats://127.0.0.1:4222".into(), hint: String::new() },
        ErrorKind::Timeout { subject: subject(), timeout: Duration::from_secs(5) },
        ErrorKind::Publish { subject: subject(), reason: "permission denied".into() },
        ErrorKind::Subscription { subject: subject(), reason: "permission denied".into() },
        ErrorKind::NoResponders { subject: subject() },
        ErrorKind::PayloadTooLarge { subject: subject(), size: 9_000_000, limit: 8_388_608 },
        ErrorKind::Disconnected { during: "request on `model.load`".into() },
        ErrorKind::Closed { reason: "shut down".into() },
        ErrorKind::InvalidSubject { subject: "a..b".into(), reason: "a token is empty".into() },
        ErrorKind::InvalidHeader { name: "Tenant".into(), reason: "its value has a line break".into() },
        ErrorKind::DuplicateRequest { request: worker() },
        ErrorKind::DuplicateWorker { worker: worker() },
        ErrorKind::Remote(RemoteError::from_parts("no such model", Some("MODEL_NOT_FOUND".into()))),
        ApplicationError::new("QUOTA_USED_UP", "the tokens of this month are used up").into(),
        ErrorKind::NoWorker { model: "llama-3".into(), known: vec!["qwen-3".into()] },
        ErrorKind::Unsupported { model: "llama-3".into(), lacking: vec!["params".into(), "messages".into()] },
        ErrorKind::Poisonous { workers: 2 },
        ErrorKind::Overloaded { limit: 64 },
        ErrorKind::DeadlineExceeded { subject: subject() },
        ErrorKind::Decode {
            subject: subject(),
            violations: violations(&[Violation::new("requestId", "type", "is not a string")]),
        },
        ErrorKind::Validation {
            subject: "worker.heartbeat".into(),
            violations: violations(&[Violation::new("metrics.cpuUsagePercent", "range", "is over 100")]),
        },
        ErrorKind::StreamGap { expected: 7, got: 9 },
        ErrorKind::FirstTokenTimeout { timeout: Duration::from_mins(1) },
        ErrorKind::InterTokenTimeout { timeout: Duration::from_secs(30), tokens: 12 },
        ErrorKind::StreamDisconnected { tokens: 0 },
        ErrorKind::Cancelled { tokens: 12 },
        ErrorKind::WorkerLost { worker: worker(), tokens: 0 },
        ErrorKind::JetStream {
            action: "keep a request on `inference.queue.m`".into(),
            reason: "it is not enabled".into(),
            hint: "set `nats.embedded.jetstream.enabled: true`".into(),
        },
        ErrorKind::RequestTaken { request: worker() },
        ErrorKind::RequestDead {
            subject: "inference.dead.m".into(),
            deliveries: 6,
            reason: "no worker lived to its first token".into(),
        },
        ErrorKind::SlowConsumer { subject: subject(), dropped: 128 },
        ErrorKind::ConfigRead { path: "config/cluster.yaml".into(), hint: String::new() },
        ErrorKind::ConfigSyntax {
            violations: violations(&[placed(Violation::new("", "syntax", "a quote is not closed"))]),
        },
        ErrorKind::ConfigValidation { violations: violations(&[port()]) },
        ErrorKind::EmbeddedServer { reason: "its log cannot be read".into() },
        ErrorKind::ServerNotFound {
            tried: vec![TriedPath::new("target/tools/nats-server", "not found")],
            hint: "run `cargo xtask nats`".into(),
        },
        ErrorKind::ServerVersion {
            path: "/usr/bin/nats-server".into(),
            found: "2.9.25".into(),
            needed: "2.10.0".into(),
        },
        ErrorKind::ServerStart {
            reason: "port 4222 is in use; change `nats.embedded.port`".into(),
            exit: Some("exit status: 1".into()),
            last_lines: vec!["[FTL] listen tcp 127.0.0.1:4222: bind: address already in use".into()],
        },
        ErrorKind::ServerFailed { restarts: 5, reason: "signal: 9 (SIGKILL)".into(), last_lines: Vec::new() },
        ErrorKind::Listen { address: "127.0.0.1:8080".into(), hint: "`controller.port` says where".into() },
        ErrorKind::Log { reason: "cannot open logs/mlx.log".into() },
        ErrorKind::Internal { reason: "a handler panicked".into() },
    ]
}

pub(crate) fn violations(violations: &[Violation]) -> Violations {
    violations.iter().cloned().collect()
}

/// A violation with all of its fields.
pub(crate) fn port() -> Violation {
    placed(Violation::new("nats.embedded.port", "range", "is not a port"))
        .found("99".to_owned())
        .expected("1024 to 65535".to_owned())
        .suggestion("0 picks a free port".to_owned())
}

pub(crate) fn placed(violation: Violation) -> Violation {
    violation.location(Location::new("cluster.yaml", 3, 11))
}
