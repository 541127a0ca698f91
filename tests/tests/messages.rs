//! Publishing, subscribing, asking and serving, against a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{ApplicationError, Error, ErrorCode, ErrorKind};
use mlx_nats::{Request, RequestManyOptions, RequestOptions, ServeOptions, SubscribeOptions};
use mlx_tests::{LIMIT, TestServer, arrived, eventually, within};
use mlx_types::messages::{
    HealthCheck, HealthReport, ModelCommand, ModelState, ModelStatus, WorkerHeartbeat, WorkerMetrics, WorkerStatus,
};
use mlx_types::{WorkerId, subjects};
use serde_json::{Value, json};

fn heartbeat(worker_id: WorkerId) -> WorkerHeartbeat {
    WorkerHeartbeat::new(
        worker_id,
        WorkerStatus::Online,
        WorkerMetrics::default()
            .cpu_usage_percent(1.5)
            .memory_used_gb(2.0)
            .gpu_utilization_percent(0.0)
            .active_requests(1)
            .total_requests_handled(2)
            .avg_latency_ms(3.0)
            .models_loaded(vec!["m".to_owned()]),
    )
}

fn health_check() -> HealthCheck {
    HealthCheck::new()
}

fn health_report(worker_id: WorkerId) -> HealthReport {
    HealthReport::new(worker_id, WorkerStatus::Online)
}

#[tokio::test]
async fn a_published_message_is_the_json_of_the_contract_and_nothing_else() {
    let server = TestServer::start().await;
    let mut wire = server.foreign_client().await.subscribe("worker.>").await.unwrap();
    let client = server.client().await;
    let beat = heartbeat(WorkerId::new());
    // The foreign subscription is not confirmed, so it is asked for until it is there.
    let message = loop {
        client.publish(&subjects::WORKER_HEARTBEAT, &beat).await.unwrap();
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(100), wire.next()).await {
            break message.unwrap();
        }
    };
    assert_eq!(message.subject.as_str(), "worker.heartbeat");
    assert!(message.headers.is_none() && message.reply.is_none());
    let expected = json!({
        "workerId": beat.worker_id.to_string(),
        "status": "online",
        "metrics": {
            "cpuUsagePercent": 1.5, "memoryUsedGB": 2.0, "gpuUtilizationPercent": 0.0, "activeRequests": 1,
            "totalRequestsHandled": 2, "avgLatencyMs": 3.0, "modelsLoaded": ["m"]
        },
        "timestamp": beat.timestamp.as_millis()
    });
    assert_eq!(serde_json::from_slice::<Value>(&message.payload).unwrap(), expected);
}

#[tokio::test]
async fn c1_a_request_that_nobody_listens_to_fails_at_once() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let started = Instant::now();
    let error = client.request(&subjects::HEALTH_CHECK, &health_check()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsNoResponders);
    // The promise is 5 ms; what a test can tell for sure is that no timeout was waited for.
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn c2_while_disconnected_publish_and_request_fail_at_once() {
    let server = TestServer::start().await;
    let client = server.client().await;
    server.stop().await;
    let mut state = client.watch_state();
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    let started = Instant::now();
    let publish = client.publish(&subjects::WORKER_HEARTBEAT, &heartbeat(WorkerId::new())).await.unwrap_err();
    let request = client.request(&subjects::HEALTH_CHECK, &health_check()).await.unwrap_err();
    assert_eq!(publish.code(), ErrorCode::NatsDisconnected);
    assert_eq!(request.code(), ErrorCode::NatsDisconnected);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn c3_a_request_in_flight_fails_when_the_connection_drops() {
    let server = TestServer::start().await;
    let client = server.client().await;
    // Someone listens and never answers.
    let other = server.client().await;
    let mut silent = other.subscribe::<_, HealthCheck>("health.check").await.unwrap();
    let check = health_check();
    let options = RequestOptions::default().timeout(LIMIT * 10);
    let request = client.request_with(&subjects::HEALTH_CHECK, &check, options);
    let stop = async {
        silent.next().await.unwrap().unwrap();
        server.stop().await;
    };
    let both = Box::pin(async { tokio::join!(request, stop) });
    let (answer, ()) = within("the failure", both).await;
    assert_eq!(answer.unwrap_err().code(), ErrorCode::NatsDisconnected);
}

#[tokio::test]
async fn c4_what_is_published_after_subscribe_returned_is_delivered() {
    let server = TestServer::start().await;
    let (publisher, subscriber) = (server.client().await, server.client().await);
    for round in 0..1000_u32 {
        let subject = format!("lab.round.{round}");
        let mut subscription = subscriber.subscribe::<_, u32>(&subject).await.unwrap();
        publisher.publish(&subject, &round).await.unwrap();
        let received = within("the message", subscription.next()).await.unwrap().unwrap();
        assert_eq!(received.payload, round);
    }
}

#[tokio::test]
async fn c5_flush_fails_when_the_server_is_gone() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.flush(LIMIT).await.unwrap();
    server.stop().await;
    let error = client.flush(LIMIT).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsDisconnected);
}

#[tokio::test]
async fn c9_a_payload_over_the_limit_fails_before_sending() {
    let server = TestServer::start_with(|config| config.embedded.max_payload_bytes = 1024).await;
    let client = server.client().await;
    let error = client.publish("lab.large", &"x".repeat(2000)).await.unwrap_err();
    let ErrorKind::PayloadTooLarge { size, limit, .. } = error.kind() else { panic!("{error}") };
    assert_eq!((*size, *limit), (2002, 1024));
    // The connection is none the worse for it.
    client.flush(LIMIT).await.unwrap();
}

#[tokio::test]
async fn c10_timed_out_and_dropped_requests_leave_no_subscription_behind() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let _silent = server.client().await.subscribe::<_, HealthCheck>("health.check").await.unwrap();
    let before = subscriptions(&server).await;
    let check = health_check();
    for _ in 0..200 {
        let options = RequestOptions::default().timeout(Duration::from_millis(1));
        let error = client.request_with(&subjects::HEALTH_CHECK, &check, options).await.unwrap_err();
        assert!(matches!(error.code(), ErrorCode::NatsTimeout | ErrorCode::NatsNoResponders), "{error}");
    }
    client.flush(LIMIT).await.unwrap();
    assert_eq!(subscriptions(&server).await, before);
}

#[test]
fn c10_handles_may_be_dropped_outside_the_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, client, subscription, stream) = runtime.block_on(async {
        let server = TestServer::start().await;
        let client = server.client().await;
        let subscription = client.subscribe::<_, Value>("lab.>").await.unwrap();
        let request = mlx_types::messages::InferenceRequest::new("m", "p");
        let stream = client.infer(WorkerId::new(), &request).await.unwrap();
        (server, client, subscription, stream)
    });
    std::thread::spawn(move || drop((stream, subscription, client))).join().unwrap();
    runtime.block_on(async { server.stop().await });
    drop(runtime);
}

async fn subscriptions(server: &TestServer) -> u64 {
    server.monitoring("/subsz").await["num_subscriptions"].as_u64().unwrap()
}

#[tokio::test]
async fn c13_beyond_the_limit_the_caller_is_told_at_once_and_a_panic_stays_in_its_handler() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let (started, mut running) = tokio::sync::mpsc::unbounded_channel();
    let id = WorkerId::new();
    let service = worker
        .serve_with(&subjects::HEALTH_CHECK, ServeOptions::default().max_concurrent(1), move |_check| {
            let (release, released) = tokio::sync::oneshot::channel::<bool>();
            started.send(release).unwrap();
            async move {
                assert!(released.await.unwrap(), "told to panic");
                Ok(health_report(id))
            }
        })
        .await
        .unwrap();

    let caller = server.client().await;
    let check = health_check();
    let first = caller.request(&subjects::HEALTH_CHECK, &check);
    let rest = async {
        let release = running.recv().await.unwrap();
        let refused = caller.request(&subjects::HEALTH_CHECK, &check).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Overloaded);
        assert!(refused.is_retryable());
        release.send(true).unwrap();
    };
    let (first, ()) = Box::pin(within("the answers", async { tokio::join!(first, rest) })).await;
    assert_eq!(first.unwrap().worker_id, id);

    let panicking = caller.request(&subjects::HEALTH_CHECK, &check);
    let panic = async { running.recv().await.unwrap().send(false).unwrap() };
    let (panicked, ()) = within("the panic", async { tokio::join!(panicking, panic) }).await;
    assert_eq!(panicked.unwrap_err().code(), ErrorCode::Internal);

    let again = caller.request(&subjects::HEALTH_CHECK, &check);
    let release = async { running.recv().await.unwrap().send(true).unwrap() };
    let (again, ()) = within("the service after it", async { tokio::join!(again, release) }).await;
    again.unwrap();
    service.stop(LIMIT).await.unwrap();
    let gone = caller.request(&subjects::HEALTH_CHECK, &check).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NatsNoResponders);
}

#[tokio::test]
async fn c14_a_handler_sees_how_long_it_has_and_work_past_its_deadline_is_refused() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let (seen, mut left) = tokio::sync::mpsc::unbounded_channel();
    let _service = worker
        .serve(&subjects::HEALTH_CHECK, move |check: mlx_nats::Request<HealthCheck>| {
            seen.send(check.time_left()).unwrap();
            async move { Ok(health_report(id)) }
        })
        .await
        .unwrap();
    let caller = server.client().await;
    let deadline = std::time::SystemTime::now() + Duration::from_mins(1);
    let options = RequestOptions::default().deadline(deadline);
    caller.request_with(&subjects::HEALTH_CHECK, &health_check(), options).await.unwrap();
    let left_of_it = left.recv().await.unwrap().unwrap();
    assert!(left_of_it > Duration::from_secs(50) && left_of_it <= Duration::from_mins(1), "{left_of_it:?}");

    // Past it on arrival: sent by a client that does not check.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Mlx-Deadline", "1700000000000");
    let body = serde_json::to_vec(&health_check()).unwrap().into();
    let reply = server.foreign_client().await.request_with_headers("health.check", headers, body).await.unwrap();
    let answer: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(answer["code"], "DEADLINE_EXCEEDED");
    assert!(left.try_recv().is_err(), "the handler ran all the same");
}

#[tokio::test]
async fn an_error_reply_is_one_typed_error_whoever_sends_it() {
    let server = TestServer::start().await;
    let foreign = server.foreign_client().await;
    let mut requests = foreign.subscribe("model.load").await.unwrap();
    arrived(&foreign).await;
    let answering = async move {
        // A TypeScript node: no header, no code.
        let plain = requests.next().await.unwrap().reply.unwrap();
        foreign.publish(plain, json!({ "error": "no such model" }).to_string().into()).await.unwrap();
        // Another service, by its convention.
        let conventional = requests.next().await.unwrap().reply.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Service-Error", "come back later");
        headers.insert("Nats-Service-Error-Code", "503");
        foreign.publish_with_headers(conventional, headers, "".into()).await.unwrap();
        // Ours.
        let ours = requests.next().await.unwrap().reply.unwrap();
        let body = json!({ "error": "full", "code": "OVERLOADED" });
        foreign.publish(ours, body.to_string().into()).await.unwrap();
        requests
    };
    let client = server.client().await;
    let command = ModelCommand::new("m");
    let asking = async {
        for (message, code) in [
            ("no such model", ErrorCode::Remote),
            ("come back later", ErrorCode::Remote),
            ("full", ErrorCode::Overloaded),
        ] {
            let error = client.request(&subjects::MODEL_LOAD, &command).await.unwrap_err();
            let ErrorKind::Remote(remote) = error.kind() else { panic!("{error}") };
            assert_eq!((remote.message(), error.code()), (message, code));
        }
    };
    within("the answers", async { tokio::join!(asking, answering) }).await;
}

#[tokio::test]
async fn a_status_that_tells_of_a_failure_is_an_answer_and_no_error() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let worker_id = WorkerId::new();
    let _service = worker
        .serve(&subjects::MODEL_LOAD, move |command: mlx_nats::Request<ModelCommand>| async move {
            Ok(ModelStatus::new(worker_id, command.payload.model_id, ModelState::Failed).error("out of memory"))
        })
        .await
        .unwrap();
    let command = ModelCommand::new("m");
    let status = server.client().await.request(&subjects::MODEL_LOAD, &command).await.unwrap();
    assert_eq!((status.state, status.error.as_deref()), (ModelState::Failed, Some("out of memory")));
}

#[tokio::test]
async fn a_malformed_message_is_one_error_item_and_the_subscription_goes_on() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut beats = client.subscribe(&subjects::WORKER_HEARTBEAT).await.unwrap();
    let foreign = server.foreign_client().await;
    foreign.publish("worker.heartbeat", "{\"workerId\": 7}".into()).await.unwrap();
    foreign.publish("worker.heartbeat", "not JSON".into()).await.unwrap();
    let good = heartbeat(WorkerId::new());
    foreign.publish("worker.heartbeat", serde_json::to_vec(&good).unwrap().into()).await.unwrap();

    let wrong = within("the first", beats.next()).await.unwrap().unwrap_err();
    assert_eq!(wrong.code(), ErrorCode::MessageDecode);
    assert!(wrong.to_string().contains("workerId"), "{wrong}");
    let garbage = within("the second", beats.next()).await.unwrap().unwrap_err();
    assert_eq!(garbage.code(), ErrorCode::MessageDecode);
    let received = within("the third", beats.next()).await.unwrap().unwrap();
    assert_eq!(received.worker_id, good.worker_id);
}

#[tokio::test]
async fn c12_a_slow_reader_is_told_how_much_it_missed_and_others_are_not_held_up() {
    const SENT: u64 = 5000;
    let server = TestServer::start().await;
    let client = server.client().await;
    let options = SubscribeOptions::default().capacity(100);
    let mut slow = client.subscribe_with::<_, u64>("lab.flood", options).await.unwrap();
    let mut quick = client.subscribe::<_, u64>("lab.flood").await.unwrap();
    let publisher = server.client().await;
    for number in 0..SENT {
        publisher.publish("lab.flood", &number).await.unwrap();
    }
    for number in 0..SENT {
        assert_eq!(within("the others' messages", quick.next()).await.unwrap().unwrap().payload, number);
    }
    eventually("all but what fits is dropped", || slow.dropped() == SENT - 100).await;
    let mut received = 0;
    let missed = loop {
        match within("the report", slow.next()).await.unwrap() {
            Ok(number) => {
                assert_eq!(number.payload, received);
                received += 1;
            }
            Err(error) => break error,
        }
    };
    let ErrorKind::SlowConsumer { dropped, .. } = missed.kind() else { panic!("{missed}") };
    assert_eq!((received, *dropped), (100, SENT - 100));
    // And it goes on.
    publisher.publish("lab.flood", &SENT).await.unwrap();
    assert_eq!(within("the next", slow.next()).await.unwrap().unwrap().payload, SENT);
}

#[tokio::test]
async fn a_subscription_can_end_after_so_many_messages_or_when_told() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut counted = client.subscribe::<_, u32>("lab.test").await.unwrap();
    counted.unsubscribe_after(2).await.unwrap();
    let mut told = client.subscribe::<_, u32>("lab.test").await.unwrap();
    for number in 0..3 {
        client.publish("lab.test", &number).await.unwrap();
    }
    for number in 0..2 {
        assert_eq!(within("a message", counted.next()).await.unwrap().unwrap().payload, number);
    }
    assert!(within("the end", counted.next()).await.is_none());
    client.flush(LIMIT).await.unwrap();
    assert_eq!(within("a message", told.next()).await.unwrap().unwrap().payload, 0);
    told.drain().await.unwrap();
    let rest: Vec<u32> = within("the end", told.map(|message| message.unwrap().payload).collect()).await;
    assert_eq!(rest, [1, 2]);
}

#[tokio::test]
async fn a_subject_made_from_bad_data_is_refused() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for bad in ["", "a..b", "a b", "worker.*", "worker.>", "a\r\nPUB x 0"] {
        let error = client.publish(bad, &1).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SubjectInvalid, "{bad:?}");
    }
    assert!(client.subscribe::<_, Value>("worker.*").await.is_ok());
}

#[tokio::test]
async fn c11_shutdown_returns_within_its_deadline_even_with_the_server_down() {
    let server = TestServer::start().await;
    let client = server.client().await;
    server.stop().await;
    let started = Instant::now();
    let _ = client.shutdown(Duration::from_secs(2)).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(client.state().is_closed());
    let error = client.publish("lab.late", &1).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsClosed);
}

#[tokio::test]
async fn a_subscription_keeps_its_connection_and_the_last_handle_closes_it() {
    let server = TestServer::start().await;
    let publisher = server.client().await;
    let mut subscription = server.client().await.subscribe::<_, u32>("lab.test").await.unwrap();
    publisher.publish("lab.test", &1).await.unwrap();
    assert_eq!(within("the message", subscription.next()).await.unwrap().unwrap().payload, 1);
    drop(subscription);
    let connections = async {
        while server.monitoring("/connz").await["num_connections"] != 1 {
            tokio::task::yield_now().await;
        }
    };
    within("the end of the connection", connections).await;
}

#[tokio::test]
async fn everyone_who_listens_can_be_asked_at_once() {
    let server = TestServer::start().await;
    let mut services = Vec::new();
    let mut ids: Vec<WorkerId> = (0..3).map(|_| WorkerId::new()).collect();
    for id in ids.clone() {
        let worker = server.client().await;
        let service = worker.serve(&subjects::HEALTH_CHECK, move |_| async move { Ok(health_report(id)) });
        services.push(service.await.unwrap());
    }
    let client = server.client().await;
    let enough = RequestManyOptions::default().max_responses(3).timeout(LIMIT);
    let answers = mlx_tests::ask_all(&client, &subjects::HEALTH_CHECK, &health_check(), enough).await.unwrap();
    let mut answered: Vec<WorkerId> = answers.into_iter().map(|answer| answer.unwrap().worker_id).collect();
    answered.sort();
    ids.sort();
    assert_eq!(answered, ids);

    let quiet = enough.stall(Duration::from_millis(300)).timeout(LIMIT);
    let quiet = quiet.max_responses(None);
    let answers = mlx_tests::ask_all(&client, &subjects::HEALTH_CHECK, &health_check(), quiet).await.unwrap();
    assert_eq!(answers.len(), 3);

    drop(services);
    let check = health_check();
    // Short, because a service that is just going may take a request and not answer it.
    let one = RequestManyOptions::default().max_responses(1).timeout(Duration::from_millis(100));
    let nobody = || mlx_tests::ask_all(&client, &subjects::HEALTH_CHECK, &check, one);
    // The unsubscriptions travel on other connections, so they are waited for.
    let error = within("the departure", async {
        loop {
            match nobody().await {
                Err(error) if error.code() == ErrorCode::NatsNoResponders => break error,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    assert!(error.await.is_retryable());
}

/// The first answer is there while others are still at work, and reading on brings those.
#[tokio::test]
async fn answers_of_many_are_read_as_they_come() {
    let server = TestServer::start().await;
    let (quick, slow) = (server.client().await, server.client().await);
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let _quick = quick.serve("lab.who", |_: Request<u8>| async { Ok("quick") }).await.unwrap();
    let released = release.clone();
    let _slow = slow
        .serve("lab.who", move |_: Request<u8>| {
            let released = released.clone();
            async move {
                released.notified().await;
                Err::<u8, _>(ApplicationError::new("TIRED", "not today").retryable(true).into())
            }
        })
        .await
        .unwrap();
    let client = server.client().await;
    let two = RequestManyOptions::default().max_responses(2).timeout(Duration::MAX);
    let mut answers = client.request_many_with::<_, _, String>("lab.who", &1_u8, two).await.unwrap();
    assert_eq!(within("the first", answers.next()).await.unwrap().unwrap(), "quick");
    release.notify_one();
    let error = within("the second", answers.next()).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Remote(remote) if remote.code() == "TIRED"), "{error:?}");
    for _ in 0..2 {
        assert!(within("the end", answers.next()).await.is_none());
    }

    let brief = RequestManyOptions::default().timeout(Duration::from_millis(50));
    let mut none = client.request_many_with::<_, _, String>("lab.nobody", &1_u8, brief).await.unwrap();
    assert_eq!(within("the word", none.next()).await.unwrap().unwrap_err().code(), ErrorCode::NatsNoResponders);
    assert!(none.next().await.is_none());
    let mut silent = client.subscribe::<_, u8>("lab.silent").await.unwrap();
    let mut late = client.request_many_with::<_, _, String>("lab.silent", &1_u8, brief).await.unwrap();
    assert_eq!(within("the end", late.next()).await.unwrap().unwrap_err().code(), ErrorCode::NatsTimeout);
    assert!(late.next().await.is_none());
    assert_eq!(*within("the question", silent.next()).await.unwrap().unwrap(), 1);
}

/// Code, message and retryability are the application's, at the requester too; its causes stay here.
#[tokio::test]
async fn an_error_of_an_application_arrives_as_it_was_made() {
    let server = TestServer::start().await;
    let (worker, caller) = (server.client().await, server.client().await);
    let _service = worker
        .serve("lab.admit", |request: Request<bool>| async move {
            let cause = std::io::Error::other("accounts.db is locked");
            let error = ApplicationError::new("ACCOUNTS BUSY\r\nX: y", "not now").retryable(*request);
            Err::<u8, _>(Error::with_source(error.into(), cause))
        })
        .await
        .unwrap();
    for retryable in [true, false] {
        let error = caller.request::<_, _, u8>("lab.admit", &retryable).await.unwrap_err();
        let ErrorKind::Remote(remote) = error.kind() else { panic!("{error:?}") };
        assert_eq!((remote.code(), remote.message()), ("ACCOUNTS_BUSY__X__y", "not now"));
        assert_eq!((error.code(), error.is_retryable()), (ErrorCode::Remote, retryable));
        assert!(!format!("{:#}", mlx_errors::report(&error)).contains("locked"));
    }
    let _internal = worker
        .serve("lab.read", |_: Request<u8>| async {
            let text = tokio::fs::read_to_string("/no/such/file").await.map_err(Error::internal)?;
            Ok(text)
        })
        .await
        .unwrap();
    let error = caller.request::<_, _, String>("lab.read", &1_u8).await.unwrap_err();
    let ErrorKind::Remote(remote) = error.kind() else { panic!("{error:?}") };
    assert_eq!((remote.code(), remote.message()), ("INTERNAL_ERROR", "internal error"));
}

#[tokio::test]
async fn many_messages_go_out_in_order() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut subscription = client.subscribe::<_, u32>("lab.test").await.unwrap();
    let numbers: Vec<u32> = (0..1000).collect();
    assert_eq!(client.publish_all("lab.test", &numbers).await.unwrap(), 1000);
    for number in numbers {
        assert_eq!(within("a message", subscription.next()).await.unwrap().unwrap().payload, number);
    }
}
