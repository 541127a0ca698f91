//! From the queue to the tokens, and back out of the queue.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use mlx_errors::ErrorCode;
use mlx_nats::{Client, DurableOptions, InferenceOptions};
use mlx_tests::{ConfiguredServer, TestServer, eventually, eventually_async, millis, within};
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest, StreamingResponse};

use crate::support::{CONSUMER, MODEL, Server, drain, echo, frames, options, queued, request, serve, taken};

#[tokio::test]
async fn a_request_waits_for_a_worker_and_is_answered_by_it() {
    let server = Server::start().await;
    let (controller, worker) = (server.client().await, server.client().await);
    let stream = controller.infer_durable(&request("one two three")).await.unwrap();
    assert_eq!(stream.worker_id(), None);
    queued(&controller, 1).await;
    let (service, runs) = echo(&worker).await;
    let answer = drain(stream).await;
    assert_eq!(answer.tokens, ["one ", "two ", "three"]);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    queued(&controller, 0).await;
    service.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_fails_has_answered() {
    let server = Server::start().await;
    let client = server.client().await;
    let _service = serve(&client, |_, _| async { panic!("this handler panics on purpose") }).await;
    let error = drain(client.infer_durable(&request("p")).await.unwrap()).await.error.unwrap();
    assert_eq!(error.code(), ErrorCode::Internal);
    queued(&client, 0).await;
}

#[tokio::test]
async fn without_jetstream_the_error_says_how_to_switch_it_on() {
    let server = TestServer::start().await;
    let client = server.client_with(options()).await;
    let asked = within("the error", client.infer_durable(&request("p"))).await.unwrap_err();
    let serving = client
        .serve_durable(WorkerId::new(), ["m"], InferenceOptions::default(), |_, _| async { Ok(FinishReason::Stop) })
        .await
        .unwrap_err();
    for error in [asked, serving] {
        assert_eq!(error.code(), ErrorCode::NatsJetStream);
        assert!(error.to_string().contains("nats.embedded.jetstream.enabled"), "{error}");
    }
    let off = server.client().await.infer_durable(&request("p")).await.unwrap_err();
    assert_eq!(off.code(), ErrorCode::NatsJetStream);
    assert!(off.to_string().contains("requestRouting.durable.enabled"), "{off}");
}

#[tokio::test]
async fn two_requests_with_one_id_are_one_run_and_a_third_is_told() {
    let server = Server::start().await;
    let (first, second) = (server.client().await, server.client().await);
    let request = request("the same answer for both");
    let asked = first.infer_durable(&request).await.unwrap();
    let joined = second.infer_durable(&request).await.unwrap();
    queued(&first, 1).await;
    let (_service, runs) = echo(&first).await;
    assert_eq!(drain(asked).await.text(), request.prompt);
    assert_eq!(drain(joined).await.text(), request.prompt);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    queued(&first, 0).await;
    let late = second.infer_durable(&request).await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::RequestTaken);
    assert!(!late.is_retryable());
}

#[tokio::test]
async fn a_cancellation_does_not_outlive_the_window_in_which_its_id_is_known() {
    let server = Server::start().await;
    let window = |settings: &mut mlx_types::config::DurableConfig| settings.duplicate_window_ms = millis(200);
    let (client, worker) = (server.client_with(window).await, server.client_with(window).await);
    let (busy, request) = (request("busy"), request("asked again"));
    let (go_on, busy_id) = (std::sync::Arc::new(tokio::sync::Notify::new()), busy.request_id);
    let told = go_on.clone();
    let one = InferenceOptions::default().max_concurrent(1);
    let _service = worker
        .serve_durable(WorkerId::new(), [MODEL], one, move |request, mut tokens| {
            let told = told.clone();
            async move {
                if request.request_id == busy_id {
                    told.notified().await;
                }
                tokens.send(request.prompt).await?;
                Ok(FinishReason::Stop)
            }
        })
        .await
        .unwrap();
    let busy = client.infer_durable(&busy).await.unwrap();
    taken(&client, CONSUMER, 1).await;
    // The worker hears of it, and has never seen the request.
    client.infer_durable(&request).await.unwrap().kill().await.unwrap();
    let again = eventually_async("a new request of the same id", async || match client.infer_durable(&request).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::RequestTaken, "{error}");
            None
        }
    })
    .await;
    go_on.notify_one();
    assert_eq!(drain(busy).await.text(), "busy");
    assert_eq!(drain(again).await.text(), "asked again");
    queued(&client, 0).await;
}

#[tokio::test]
async fn s2_a_request_cancelled_before_it_was_taken_is_never_run() {
    let server = Server::start().await;
    let client = server.client().await;
    drop(client.infer_durable(&request("dropped")).await.unwrap());
    queued(&client, 0).await;
    let mut killed = client.infer_durable(&request("killed")).await.unwrap();
    killed.kill().await.unwrap();
    let stopped = client.infer_durable(&request("stopped")).await.unwrap();
    stopped.stop().await.unwrap();
    let ended = drain(stopped).await;
    assert!(ended.tokens.is_empty() && ended.error.is_none(), "{ended:?}");
    queued(&client, 0).await;
    let (_service, runs) = echo(&client).await;
    let answer = drain(client.infer_durable(&request("the next")).await.unwrap()).await;
    assert_eq!((answer.text().as_str(), runs.load(Ordering::Relaxed)), ("the next", 1));
}

#[tokio::test]
async fn s2_a_request_that_was_taken_is_cancelled_at_its_worker() {
    let server = Server::start().await;
    let (client, worker) = (server.client().await, server.client().await);
    let (sender, mut cancelled) = tokio::sync::mpsc::unbounded_channel();
    let _service = serve(&worker, move |request, mut tokens| {
        let sender = sender.clone();
        async move {
            if request.prompt == "begun" {
                tokens.send("a").await?;
            }
            sender.send("taken").unwrap();
            let error = tokens.cancelled().await;
            sender.send("cancelled").unwrap();
            Err(error)
        }
    })
    .await;
    for prompt in ["not begun", "begun"] {
        let stream = client.infer_durable(&request(prompt)).await.unwrap();
        assert_eq!(within("the request", cancelled.recv()).await, Some("taken"));
        stream.stop().await.unwrap();
        assert_eq!(within("the cancellation", cancelled.recv()).await, Some("cancelled"), "{prompt}");
        let answer = drain(stream).await;
        assert!(answer.error.is_none(), "{prompt}: {answer:?}");
        queued(&client, 0).await;
    }
}

#[tokio::test]
async fn c14_a_request_past_its_deadline_is_answered_and_not_run() {
    let server = Server::start().await;
    let (client, foreign) = (server.client().await, server.server.foreign_client().await);
    let past = DurableOptions::default().deadline(SystemTime::now() - Duration::from_secs(1));
    let error = client.infer_durable_with(&request("p"), past).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DeadlineExceeded);

    // The streams are there once one request went through them.
    let (_service, runs) = echo(&client).await;
    drain(client.infer_durable(&request("p")).await.unwrap()).await.text();
    let mut frames = frames(&client).await;
    let late = request("too late");
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Mlx-Deadline", "1");
    let subject = mlx_types::subjects::inference_queue(&late.model_id).unwrap().to_string();
    let json = serde_json::to_vec(&late).unwrap();
    foreign.publish_with_headers(subject, headers, json.into()).await.unwrap();
    let frame = within("the refusal", frames.next()).await.unwrap().unwrap();
    let StreamingResponse::Error { request_id, code, .. } = &*frame else { panic!("{frame:?}") };
    assert_eq!((*request_id, code.as_str()), (late.request_id, "DEADLINE_EXCEEDED"));
    queued(&client, 0).await;
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn c13_a_worker_without_room_takes_nothing_and_another_does() {
    let server = Server::start().await;
    let (client, busy, idle) = (server.client().await, server.client().await, server.client().await);
    let one = InferenceOptions::default().max_concurrent(1);
    let _busy = busy
        .serve_durable(WorkerId::new(), ["a", "b"], one.clone(), |_, mut tokens| async move {
            tokens.send("busy").await?;
            std::future::pending().await
        })
        .await
        .unwrap();
    let mut first = client.infer_durable(&InferenceRequest::new("a", "p")).await.unwrap();
    assert_eq!(within("the first token", first.next()).await.unwrap().unwrap().text, "busy");
    let second = client.infer_durable(&InferenceRequest::new("b", "p")).await.unwrap();
    queued(&client, 1).await;
    let _idle = idle
        .serve_durable(WorkerId::new(), ["a", "b"], one, |_, mut tokens| async move {
            tokens.send("idle").await?;
            Ok(FinishReason::Stop)
        })
        .await
        .unwrap();
    assert_eq!(drain(second).await.text(), "idle");
}

#[tokio::test]
async fn c11_what_is_asked_while_a_service_stops_waits_for_no_worker_that_left() {
    let server = Server::start().await;
    // Longer than the test: a request that went to one that left would not come back.
    let client = server.client_with(|settings| settings.ack_wait_ms = millis(3_600_000)).await;
    for round in 0..12 {
        let (service, _) = echo(&client).await;
        let asked = request(&format!("round {round}"));
        // Well within the second that a deadline often is.
        let stop = service.stop(Duration::from_millis(900));
        let (stream, stopped) = tokio::join!(client.infer_durable(&asked), stop);
        stopped.unwrap();
        let (next, _) = echo(&client).await;
        assert_eq!(drain(stream.unwrap()).await.text(), asked.prompt);
        next.stop(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_service_has_not_begun_goes_back_when_it_is_dropped() {
    let server = Server::start().await;
    // Longer than the test: only giving back can bring the request to the other worker.
    let hour = |settings: &mut mlx_types::config::DurableConfig| settings.ack_wait_ms = millis(3_600_000);
    let (client, worker) = (server.client_with(hour).await, server.client_with(hour).await);
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = taken.clone();
    let idle = serve(&worker, move |_, _| {
        flag.store(true, Ordering::Relaxed);
        std::future::pending()
    })
    .await;
    let stream = client.infer_durable(&request("back")).await.unwrap();
    eventually("the request is taken", || taken.load(Ordering::Relaxed)).await;
    drop(idle);
    let (_service, _) = echo(&client).await;
    assert_eq!(drain(stream).await.text(), "back");
}

#[tokio::test]
async fn s3_frames_of_a_second_run_never_mix_with_those_of_the_first() {
    let server = Server::start().await;
    let client = server.client().await;
    let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = go_on.clone();
    let _service = serve(&client, move |_, mut tokens| {
        let told = told.clone();
        async move {
            tokens.send("first ").await?;
            told.notified().await;
            tokens.send("run").await?;
            Ok(FinishReason::Stop)
        }
    })
    .await;
    let mut stream = client.infer_durable(&request("p")).await.unwrap();
    assert_eq!(within("the first token", stream.next()).await.unwrap().unwrap().text, "first ");
    let request_id = stream.request_id();
    let response = mlx_types::subjects::response(request_id);
    let mut headers = mlx_nats::Headers::new();
    headers.set("Mlx-Attempt", "2").unwrap();
    for frame in [
        StreamingResponse::Tokens { request_id, tokens: vec!["another ".to_owned(), "token".to_owned()], index: 0 },
        StreamingResponse::Done { request_id, total_tokens: 2, latency_ms: 1.0, finish_reason: None, usage: None },
    ] {
        client.publish_with_headers(&response, &frame, headers.clone()).await.unwrap();
    }
    client.flush(Duration::from_secs(5)).await.unwrap();
    go_on.notify_one();
    let rest = within("the next token", stream.next()).await.unwrap().unwrap();
    assert_eq!((rest.index, rest.text.as_str()), (1, "run"));
    assert!(within("the end", stream.next()).await.is_none());
    assert_eq!(stream.summary().unwrap().finish_reason, Some(FinishReason::Stop));
}

#[tokio::test]
async fn every_inbox_is_below_the_prefix_those_of_jetstream_too() {
    let folder = tempfile::tempdir().unwrap();
    let permissions = r#"publish: ">", subscribe: ["_INBOX_alice.>", "worker.>", "response.>", "inference.>"]"#;
    let server = ConfiguredServer::start(&format!(
        "jetstream {{ store_dir: \"{}\" }}\nauthorization {{ users: [ {{ user: alice, password: a, permissions: {{ {permissions} }} }} ] }}",
        folder.path().display()
    ))
    .await;
    let config = server.config("nats", "alice:a@").inbox_prefix("_INBOX_alice");
    let client = Client::connect_with(&config, options().discovery(None)).await.unwrap();
    let (_service, runs) = echo(&client).await;
    let answer = drain(client.infer_durable(&request("one two three")).await.unwrap()).await;
    assert_eq!(answer.tokens, ["one ", "two ", "three"]);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    queued(&client, 0).await;
    assert!(!server.log().contains("Subscription Violation"), "{}", server.log());
}
