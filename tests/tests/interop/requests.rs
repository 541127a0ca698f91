//! Requests and their answers.

use std::future::ready;

use mlx_errors::{Error, ErrorCode, ErrorKind, RemoteError, Violations};
use mlx_nats::{Client, Request, Service};
use mlx_tests::{LIMIT, TestServer, within};
use mlx_types::messages::{HealthCheck, HealthReport, WorkerStatus};
use mlx_types::{WorkerId, subjects};
use serde_json::{Value, json};

use super::peer::Peer;

async fn check(client: &Client) -> Result<HealthReport, Error> {
    within("the answer", client.request(&subjects::HEALTH_CHECK, &HealthCheck::new())).await
}

#[tokio::test]
async fn nats_py_answers_a_request_of_ours() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut peer = Peer::start(&server, "answer", &["health.check"]).await;
    let (id, asked) = (WorkerId::new(), HealthCheck::new());

    // With an optional member that is null, one that nobody knows, and the id in capitals.
    peer.tell(json!({ "report": id.to_string().to_uppercase() })).await;
    let report: HealthReport = within("the answer", client.request(&subjects::HEALTH_CHECK, &asked)).await.unwrap();
    assert_eq!((report.worker_id, report.request_id), (id, Some(asked.request_id)));
    assert_eq!((report.status, report.metrics), (WorkerStatus::Degraded, None));

    let (body, message) = peer.hears_json().await;
    let sent = json!({ "requestId": asked.request_id.to_string(), "timestamp": asked.timestamp.as_millis() });
    assert_eq!(body, sent);
    assert_eq!(message["headers"], json!({}), "no header without a reason");
    peer.leave().await;
}

#[tokio::test]
async fn nats_py_fails_a_request_of_ours_with_a_typed_error() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut peer = Peer::start(&server, "answer", &["health.check"]).await;
    let cases = [
        // As a TypeScript node does it.
        (json!({ "text": r#"{"error": "no such model"}"# }), ("no such model", "REMOTE_ERROR")),
        (json!({ "text": r#"{"error": "busy", "code": "OVERLOADED"}"# }), ("busy", "OVERLOADED")),
        // As any NATS service does it.
        (
            json!({ "text": "", "headers": { "Nats-Service-Error": "no such thing", "Nats-Service-Error-Code": "404" } }),
            ("no such thing", "REMOTE_ERROR"),
        ),
        // With a code that only a newer node knows.
        (json!({ "text": r#"{"error": "no", "code": "FROM_THE_FUTURE"}"# }), ("no", "FROM_THE_FUTURE")),
    ];
    for (answer, expected) in cases {
        peer.tell(answer).await;
        let error = check(&client).await.unwrap_err();
        let ErrorKind::Remote(remote) = error.kind() else { panic!("{error:?}") };
        assert_eq!((remote.message(), remote.code()), expected);
        assert_eq!(error.is_retryable(), expected.1 == "OVERLOADED");
    }
    peer.leave().await;
}

#[tokio::test]
async fn nats_py_answers_garbage_which_is_an_error_that_names_the_place() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut peer = Peer::start(&server, "answer", &["health.check"]).await;
    let id = WorkerId::new();
    let cases = [
        ("<html>oops</html>".to_owned(), "", "expected value"),
        (String::new(), "", "EOF"),
        ("[]".to_owned(), "", "invalid type: sequence"),
        (json!({ "workerId": id, "status": "online" }).to_string(), "", "missing field `timestamp`"),
        (json!({ "workerId": id, "status": "fine", "timestamp": 1 }).to_string(), "status", "unknown variant `fine`"),
        (json!({ "workerId": 7, "status": "online", "timestamp": 1 }).to_string(), "workerId", "invalid type"),
    ];
    for (text, path, message) in cases {
        peer.tell(json!({ "text": text })).await;
        let error = check(&client).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::MessageDecode, "{text}: {error}");
        let ErrorKind::Decode { subject, violations } = error.kind() else { panic!("{error:?}") };
        assert_eq!(subject, "health.check");
        let violation = only(violations);
        assert_eq!((violation.0.as_str(), violation.1.as_str()), (path, "decode"), "{text}");
        assert!(violation.2.contains(message), "{text}: {error}");
    }
    peer.leave().await;
}

fn only(violations: &Violations) -> (String, String, String) {
    assert_eq!(violations.len(), 1, "{violations}");
    let violation = violations.iter().next().unwrap();
    (violation.path.clone(), violation.rule.clone(), violation.message.clone())
}

async fn serve_health(client: &Client, worker_id: WorkerId) -> Service {
    let report = move |check: Request<HealthCheck>| {
        // Told apart by what the test can choose.
        ready(match check.timestamp.as_millis() {
            1 => Err(Error::with_source(
                ErrorKind::Remote(RemoteError::new("the model is asleep\nsince noon", ErrorCode::Overloaded)),
                std::io::Error::other("a secret of the inside"),
            )),
            2 => panic!("the handler's own business"),
            _ => {
                let request_id = Some(check.request_id);
                Ok(HealthReport::new(worker_id, WorkerStatus::Online).request_id(request_id))
            }
        })
    };
    client.serve(&subjects::HEALTH_CHECK, report).await.unwrap()
}

#[tokio::test]
async fn nats_py_asks_our_service_and_reads_its_answers_and_errors() {
    let server = TestServer::start().await;
    let id = WorkerId::new();
    let service = serve_health(&server.client().await, id).await;
    let mut peer = Peer::start(&server, "ask", &[]).await;

    let asked = HealthCheck::new();
    let (body, message) = ask(&mut peer, &serde_json::to_string(&asked).unwrap()).await;
    assert_eq!(body["workerId"], id.to_string());
    assert_eq!(body["requestId"], asked.request_id.to_string());
    assert_eq!(body["status"], "online");
    assert!(body["timestamp"].is_u64() && body.get("metrics").is_none(), "{body}");
    assert_eq!(message["headers"], json!({}));

    let failing = |kind: u64| json!({ "requestId": asked.request_id.to_string(), "timestamp": kind }).to_string();
    let (body, message) = ask(&mut peer, &failing(1)).await;
    assert_eq!(body, json!({ "error": "the model is asleep\nsince noon", "code": "OVERLOADED" }));
    let headers = json!({
        "Nats-Service-Error": "the model is asleep", "Nats-Service-Error-Code": "429", "Mlx-Error-Code": "OVERLOADED"
    });
    assert_eq!(message["headers"], headers);

    let (body, message) = ask(&mut peer, &failing(2)).await;
    assert_eq!(body["code"], "INTERNAL_ERROR");
    assert!(!message.to_string().contains("own business"), "{message}");
    assert_eq!(message["headers"]["Nats-Service-Error-Code"], "500");

    let (body, message) = ask(&mut peer, "not JSON").await;
    assert_eq!(body["code"], "MESSAGE_DECODE_ERROR");
    assert_eq!(message["headers"]["Nats-Service-Error-Code"], "400");
    peer.leave().await;
    service.stop(LIMIT).await.unwrap();
}

async fn ask(peer: &mut Peer, text: &str) -> (Value, Value) {
    peer.tell(json!({ "subject": "health.check", "text": text })).await;
    peer.hears_json().await
}
