//! Services are listed for tools that speak the NATS services' protocol, and serving never depends on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode, ErrorKind, RemoteError};
use mlx_nats::{Client, ClientOptions, ConnectionState, Discovery, InferenceOptions, ServeOptions, Service};
use mlx_tests::{ConfiguredServer, LIMIT, TestServer, within};
use mlx_types::messages::{FinishReason, HealthCheck, HealthReport, InferenceRequest, WorkerStatus};
use mlx_types::{Timestamp, WorkerId, subjects};
use serde_json::{Value, json};

fn listed_as(name: &str) -> ClientOptions {
    let discovery = Discovery::new(name, "1.2.3").unwrap().describe("for tests").with("rack", "7");
    ClientOptions::default().discovery(discovery).name("node one")
}

async fn serve_health(client: &Client) -> Service {
    serve_health_with(client, ServeOptions::default()).await
}

/// Fails where the check's timestamp is 1.
async fn serve_health_with(client: &Client, options: ServeOptions) -> Service {
    let worker_id = WorkerId::new();
    let report = move |check: mlx_nats::Request<HealthCheck>| async move {
        if check.timestamp.as_millis() == 1 {
            let asleep = ErrorKind::Remote(RemoteError::new("the model is asleep", ErrorCode::Overloaded));
            return Err(Error::with_source(asleep, std::io::Error::other("a secret of the inside")));
        }
        Ok(HealthReport::new(worker_id, WorkerStatus::Online))
    };
    client.serve_with(&subjects::HEALTH_CHECK, options, report).await.unwrap()
}

/// What one node answers.
async fn ask(foreign: &async_nats::Client, subject: &str) -> Value {
    let answer = within("an answer", foreign.request(subject.to_owned(), "".into())).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Asks until nobody listens.
async fn nobody_answers(foreign: &async_nats::Client, subject: &str) {
    within("nobody listening", async {
        loop {
            // A question may still find the subscription of one that has stopped answering.
            let question = async_nats::Request::new().timeout(Some(Duration::from_millis(200)));
            let answer = foreign.send_request(subject.to_owned(), question).await;
            if answer.is_err_and(|error| error.kind() == async_nats::RequestErrorKind::NoResponders) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_is_listed_with_its_name_its_id_and_its_services() {
    let server = TestServer::start().await;
    let client = server.client_with(listed_as("mlx-worker")).await;
    let foreign = server.foreign_client().await;
    let id = WorkerId::new();
    // Whatever is served is listed once `serve` has returned.
    let group = ServeOptions::default().queue_group("workers");
    let _health = serve_health_with(&client, group).await;
    let ping = ask(&foreign, "$SRV.PING").await;
    let node = ping["id"].as_str().unwrap().to_owned();
    let head = json!({
        "type": "io.nats.micro.v1.ping_response", "name": "mlx-worker", "id": node, "version": "1.2.3",
        "metadata": { "rack": "7", "client": "node one" }
    });
    assert_eq!(ping, head);
    assert_eq!(ask(&foreign, "$SRV.PING.mlx-worker").await, head);
    assert_eq!(ask(&foreign, &format!("$SRV.PING.mlx-worker.{node}")).await, head);

    let _inference =
        client.serve_inference(id, InferenceOptions::default(), |_, _| async { Ok(FinishReason::Stop) }).await.unwrap();
    let mut info = head;
    info["type"] = json!("io.nats.micro.v1.info_response");
    info["description"] = json!("for tests");
    info["endpoints"] = json!([
        { "name": "health-check", "subject": "health.check", "queue_group": "workers", "metadata": {} },
        {
            "name": "inference", "subject": format!("worker.{id}.inference"), "queue_group": "",
            "metadata": { "workerId": id.to_string() }
        }
    ]);
    assert_eq!(ask(&foreign, "$SRV.INFO").await, info);

    // Others are asked in vain, and that is known at once.
    nobody_answers(&foreign, "$SRV.PING.another").await;
    nobody_answers(&foreign, "$SRV.PING.mlx-worker.another").await;
}

#[tokio::test]
async fn c13_stats_count_requests_errors_and_time_and_tell_nothing_of_the_inside() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let foreign = server.foreign_client().await;
    let service = serve_health(&client).await;
    let caller = server.client().await;
    for _ in 0..3 {
        caller.request(&subjects::HEALTH_CHECK, &HealthCheck::new()).await.unwrap();
    }
    let counted = stats_when(&foreign, |stats| stats["num_requests"] == 3).await;
    assert_eq!((&counted["num_errors"], &counted["last_error"]), (&json!(0), &json!("")));
    let (time, average) = (counted["processing_time"].as_u64().unwrap(), counted["average_processing_time"].as_u64());
    assert!(time > 0 && average == Some(time / 3), "{counted}");
    assert_eq!(counted["data"], json!({ "running": 0, "limit": 64 }));

    let failing = HealthCheck::new().timestamp(Timestamp::from_millis(1).unwrap());
    caller.request(&subjects::HEALTH_CHECK, &failing).await.unwrap_err();
    let counted = stats_when(&foreign, |stats| stats["num_requests"] == 4).await;
    assert_eq!(
        (&counted["num_errors"], &counted["last_error"]),
        (&json!(1), &json!("429:OVERLOADED the model is asleep"))
    );

    // What a requester sent is nobody else's business.
    let private = json!({ "requestId": "a private prompt", "timestamp": 1 });
    caller.request::<_, _, HealthReport>("health.check", &private).await.unwrap_err();
    let counted = stats_when(&foreign, |stats| stats["num_errors"] == 2).await;
    assert_eq!(counted["last_error"], "400:MESSAGE_DECODE_ERROR `requestId` (decode)");
    service.stop(LIMIT).await.unwrap();
}

/// The figures of the only service, once they are as expected: an answer may overtake its own counting.
async fn stats_when(foreign: &async_nats::Client, expected: impl Fn(&Value) -> bool) -> Value {
    within("the figures", async {
        loop {
            let stats = ask(foreign, "$SRV.STATS.mlx-node").await;
            assert_eq!(stats["endpoints"].as_array().unwrap().len(), 1, "{stats}");
            if expected(&stats["endpoints"][0]) {
                assert!(stats["started"].as_str().unwrap().ends_with('Z'), "{stats}");
                return stats["endpoints"][0].clone();
            }
        }
    })
    .await
}

#[tokio::test]
async fn s1_streams_are_counted_by_how_they_end() {
    let server = TestServer::start().await;
    let (client, foreign) = (server.client().await, server.foreign_client().await);
    let id = WorkerId::new();
    let options = InferenceOptions::default().max_concurrent(1);
    let _service = client
        .serve_inference(id, options, |request, mut tokens| async move {
            tokens.send("a token").await?;
            match request.prompt.as_str() {
                "fail" => Err(ErrorKind::Remote(RemoteError::new("no memory", ErrorCode::Internal)).into()),
                "wait" => Err(tokens.cancelled().await),
                _ => Ok(FinishReason::Stop),
            }
        })
        .await
        .unwrap();
    let controller = server.client().await;
    let mut waiting = controller.infer(id, &InferenceRequest::new("m", "wait")).await.unwrap();
    within("a token", waiting.next()).await.unwrap().unwrap();
    let counted = stats_when(&foreign, |stats| stats["data"]["running"] == 1).await;
    assert_eq!(counted["num_requests"], 0);
    // Refused, because the only place is taken.
    let mut refused = controller.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
    assert_eq!(within("the refusal", refused.next()).await.unwrap().unwrap_err().code(), ErrorCode::Overloaded);
    stats_when(&foreign, |stats| stats["num_requests"] == 1 && stats["num_errors"] == 1).await;
    // What the requester wants is no error.
    waiting.stop().await.unwrap();
    stats_when(&foreign, |stats| stats["num_requests"] == 2 && stats["num_errors"] == 1).await;
    let mut failed = controller.infer(id, &InferenceRequest::new("m", "fail")).await.unwrap();
    while within("the end", failed.next()).await.is_some() {}
    let counted = stats_when(&foreign, |stats| stats["num_requests"] == 3).await;
    assert_eq!((&counted["num_errors"], &counted["last_error"]), (&json!(2), &json!("500:INTERNAL_ERROR no memory")));
}

#[tokio::test]
async fn every_node_answers_for_itself() {
    let server = TestServer::start().await;
    let clients = [server.client().await, server.client().await, server.client().await];
    let mut services = Vec::new();
    for client in &clients {
        services.push(serve_health(client).await);
    }
    let foreign = server.foreign_client().await;
    let inbox = foreign.new_inbox();
    let mut answers = foreign.subscribe(inbox.clone()).await.unwrap();
    foreign.publish_with_reply("$SRV.PING", inbox, "".into()).await.unwrap();
    let mut ids = BTreeSet::new();
    for _ in 0..clients.len() {
        let answer = within("an answer", answers.next()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["name"], "mlx-node");
        ids.insert(answer["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), clients.len(), "each has an id of its own: {ids:?}");
}

#[tokio::test]
async fn c6_a_node_is_listed_again_after_a_crash_of_the_server_with_its_id_and_its_counters() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let _service = serve_health(&client).await;
    let before = ask(&server.foreign_client().await, "$SRV.PING").await;
    server.client().await.request(&subjects::HEALTH_CHECK, &HealthCheck::new()).await.unwrap();

    let mut state = client.watch_state();
    let pid = server.embedded().pid().expect("the server runs").to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
    let foreign = server.foreign_client().await;
    assert_eq!(ask(&foreign, "$SRV.PING").await, before);
    stats_when(&foreign, |stats| stats["num_requests"] == 1).await;
}

#[tokio::test]
async fn c10_a_service_leaves_the_list_with_its_handle_and_the_last_takes_the_subscriptions_along() {
    let server = TestServer::start().await;
    let (client, foreign) = (server.client().await, server.foreign_client().await);
    nobody_answers(&foreign, "$SRV.PING").await; // and the subscription for its answers is made
    let before = subscriptions(&server).await;
    for _ in 0..2 {
        let first = serve_health(&client).await;
        let second = client.serve("lab.echo", |text: mlx_nats::Request<String>| async move { Ok(text.payload) });
        let second = second.await.unwrap();
        assert_eq!(subscriptions(&server).await, before + 2 + 9, "nine for both");
        let names = |info: &Value| {
            let endpoints = info["endpoints"].as_array().unwrap();
            endpoints.iter().map(|endpoint| endpoint["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&ask(&foreign, "$SRV.INFO").await), ["health-check", "lab-echo"]);
        first.stop(LIMIT).await.unwrap();
        assert_eq!(names(&ask(&foreign, "$SRV.INFO").await), ["lab-echo"]);
        // On a thread without a runtime.
        std::thread::spawn(move || drop(second)).join().unwrap();
        nobody_answers(&foreign, "$SRV.INFO").await;
        within("the former count", async { while subscriptions(&server).await != before {} }).await;
    }
}

async fn subscriptions(server: &TestServer) -> u64 {
    server.embedded().subsz().await.unwrap().num_subscriptions
}

#[tokio::test]
async fn who_does_not_want_to_be_listed_is_not() {
    let server = TestServer::start().await;
    let foreign = server.foreign_client().await;
    let silent = ClientOptions::default().discovery(None);
    let silent = server.client_with(silent).await;
    let client = server.client().await;
    let before = subscriptions(&server).await;
    let hidden = ServeOptions::default().discoverable(false);
    let _services = [serve_health(&silent).await, serve_health_with(&client, hidden).await];
    assert_eq!(subscriptions(&server).await, before + 2, "and it costs nothing");
    nobody_answers(&foreign, "$SRV.PING").await;
    silent.request::<_, _, HealthReport>(&subjects::HEALTH_CHECK, &HealthCheck::new()).await.unwrap();
}

#[tokio::test]
async fn questions_that_cannot_be_answered_disturb_nobody() {
    // Room for a ping's answer, and none for the description.
    let server = TestServer::start_with(|config| config.embedded.max_payload_bytes = 1024).await;
    let discovery = Discovery::new("mlx-worker", "1.0.0").unwrap().describe("x".repeat(2000));
    let options = ClientOptions::default().discovery(discovery);
    let _service = serve_health(&server.client_with(options).await).await;
    let foreign = server.foreign_client().await;
    for subject in ["$SRV.INFO", "$SRV.SCHEMA"] {
        let inbox = foreign.new_inbox();
        foreign.publish_with_reply(subject, inbox, "".into()).await.unwrap();
    }
    foreign.publish("$SRV.PING", "to nowhere".into()).await.unwrap();
    assert_eq!(ask(&foreign, "$SRV.PING").await["name"], "mlx-worker");
    server.client().await.request(&subjects::HEALTH_CHECK, &HealthCheck::new()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_forbids_it_is_served_on_all_the_same() {
    let settings = r#"authorization { users = [
        { user: app, password: app, permissions: { subscribe: { deny: "$SRV.>" } } }, { user: tool, password: tool }
    ] }"#;
    let server = ConfiguredServer::start(settings).await;
    let client = Client::connect(&server.config("nats", "app:app@")).await.unwrap();
    let service = serve_health(&client).await;
    let caller = Client::connect(&server.config("nats", "tool:tool@")).await.unwrap();
    caller.request(&subjects::HEALTH_CHECK, &HealthCheck::new()).await.unwrap();
    let nobody = caller.request::<_, _, Value>("$SRV.PING", &()).await.unwrap_err();
    assert_eq!(nobody.code(), ErrorCode::NatsNoResponders);
    service.stop(Duration::from_secs(5)).await.unwrap();
    assert!(client.state().is_connected());
}
