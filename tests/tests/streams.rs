//! Token streams against a real server, with workers of ours and workers that are not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use mlx_errors::{ApplicationError, Error, ErrorCode, ErrorKind};
use mlx_nats::{Client, ClientOptions, InferOptions, InferenceOptions, InferenceService, TokenStream};
use mlx_tests::{LIMIT, TestServer, within};
use mlx_types::messages::{
    CancelMode, FinishReason, InferenceCancel, InferenceRequest, StreamingResponse, WorkerHeartbeat, WorkerMetrics,
    WorkerStatus,
};
use mlx_types::{Epoch, WorkerId, subjects};
use serde_json::{Value, json};

/// Everything that a stream brought: its tokens, and the error that it ended with.
async fn drain(stream: &mut TokenStream) -> (Vec<String>, Option<Error>) {
    let (mut tokens, mut end) = (Vec::new(), None);
    within("the end of the stream", async {
        while let Some(frame) = stream.next().await {
            assert!(end.is_none(), "something came after the end: {frame:?}");
            match frame {
                Ok(frame) => {
                    assert_eq!(frame.index, tokens.len() as u64);
                    tokens.push(frame.text);
                }
                Err(error) => end = Some(error),
            }
        }
    })
    .await;
    assert!(stream.summary().is_some());
    assert!(within("staying ended", stream.next()).await.is_none());
    (tokens, end)
}

/// A worker that says `prompt` word by word.
async fn echo_worker(client: &Client, id: WorkerId) -> InferenceService {
    client
        .serve_inference(id, InferenceOptions::default(), |request, mut tokens| async move {
            for word in request.prompt.split_inclusive(' ') {
                tokens.send(word).await?;
            }
            Ok(FinishReason::Stop)
        })
        .await
        .unwrap()
}

/// A foreign worker: for each request it publishes the given frames, `requestId` filled in, and never acknowledges.
async fn foreign_worker(server: &TestServer, id: WorkerId, frames: Vec<Value>) {
    let client = server.foreign_client().await;
    let mut requests = client.subscribe(format!("worker.{id}.inference")).await.unwrap();
    client.flush().await.unwrap();
    // A round trip of async-nats: a request to nobody comes back as soon as the server has seen what was before it.
    client.request("nobody.listens.here", "".into()).await.unwrap_err();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let request: Value = serde_json::from_slice(&request.payload).unwrap();
            let request_id = request["requestId"].as_str().unwrap();
            for frame in &frames {
                let mut frame = frame.clone();
                frame["requestId"] = request_id.into();
                client.publish(format!("response.{request_id}"), frame.to_string().into()).await.unwrap();
            }
        }
    });
}

fn beat(worker_id: WorkerId, epoch: u64) -> WorkerHeartbeat {
    let metrics = WorkerMetrics::default()
        .cpu_usage_percent(0.0)
        .memory_used_gb(0.0)
        .gpu_utilization_percent(0.0)
        .active_requests(0)
        .total_requests_handled(0)
        .avg_latency_ms(0.0)
        .models_loaded(Vec::new());
    let epoch = Some(Epoch::from_millis(epoch));
    WorkerHeartbeat::new(worker_id, WorkerStatus::Online, metrics).epoch(epoch)
}

fn request(prompt: &str) -> InferenceRequest {
    InferenceRequest::new("m", prompt)
}

#[tokio::test]
async fn s1_a_stream_brings_its_tokens_in_order_and_ends_once() {
    let server = TestServer::start().await;
    let (controller, worker) = (server.client().await, server.client().await);
    let id = WorkerId::new();
    let _service = echo_worker(&worker, id).await;
    let mut stream = controller.infer(id, &request("one two three")).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    assert_eq!(tokens, ["one ", "two ", "three"]);
    assert!(error.is_none(), "{error:?}");
    let summary = stream.summary().unwrap();
    assert_eq!((summary.tokens, &summary.finish_reason), (3, &Some(FinishReason::Stop)));
    assert!(summary.time_to_first_token.unwrap() <= summary.duration);
}

#[tokio::test]
async fn s1_nobody_listening_ends_the_stream_at_once() {
    let server = TestServer::start().await;
    let mut stream = server.client().await.infer(WorkerId::new(), &request("p")).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    assert!(tokens.is_empty());
    assert_eq!(error.unwrap().code(), ErrorCode::NatsNoResponders);
}

#[tokio::test]
async fn s1_an_empty_completion_is_an_answer() {
    let server = TestServer::start().await;
    let id = WorkerId::new();
    foreign_worker(&server, id, vec![json!({ "type": "done", "totalTokens": 0, "latencyMs": 1 })]).await;
    let mut stream = server.client().await.infer(id, &request("p")).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    assert!(tokens.is_empty() && error.is_none(), "{error:?}");
}

#[tokio::test]
async fn s1_silence_before_the_first_token_and_between_two_is_bounded() {
    let server = TestServer::start().await;
    let patience = Duration::from_millis(200);
    let options = ClientOptions::default().first_token_timeout(patience).inter_token_timeout(patience);
    let client = server.client_with(options).await;
    let silent = WorkerId::new();
    foreign_worker(&server, silent, Vec::new()).await;
    let mut stream = client.infer(silent, &request("p")).await.unwrap();
    let (_, error) = drain(&mut stream).await;
    assert_eq!(error.unwrap().code(), ErrorCode::StreamFirstTokenTimeout);

    let stuck = WorkerId::new();
    foreign_worker(&server, stuck, vec![json!({ "type": "token", "token": "a", "index": 0 })]).await;
    let mut stream = client.infer(stuck, &request("p")).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    assert_eq!(tokens, ["a"]);
    assert!(matches!(error.unwrap().kind(), ErrorKind::InterTokenTimeout { tokens: 1, .. }));
}

#[tokio::test]
async fn s1_a_worker_that_fails_says_so_with_its_public_message_alone() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |request, mut tokens| async move {
            tokens.send("a").await?;
            assert_ne!(request.prompt, "panic", "as told");
            Err(Error::with_source(ErrorKind::Overloaded { limit: 3 }, "the secret path of a model"))
        })
        .await
        .unwrap();
    let controller = server.client().await;
    let mut stream = controller.infer(id, &request("fail")).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    assert_eq!(tokens, ["a"]);
    let error = error.unwrap();
    assert_eq!(error.code(), ErrorCode::Overloaded);
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");

    let mut stream = controller.infer(id, &request("panic")).await.unwrap();
    let (_, error) = drain(&mut stream).await;
    assert_eq!(error.unwrap().code(), ErrorCode::Internal);
    // And it goes on serving.
    let mut stream = controller.infer(id, &request("fail")).await.unwrap();
    assert_eq!(drain(&mut stream).await.0, ["a"]);
}

#[tokio::test]
async fn s1_a_full_worker_refuses_at_once() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default().max_concurrent(1), |_request, mut tokens| async move {
            tokens.send("a").await?;
            Err(tokens.cancelled().await)
        })
        .await
        .unwrap();
    let controller = server.client().await;
    let mut first = controller.infer(id, &request("p")).await.unwrap();
    within("the first token", first.next()).await.unwrap().unwrap();
    let mut second = controller.infer(id, &request("p")).await.unwrap();
    let (tokens, error) = drain(&mut second).await;
    let error = error.unwrap();
    assert!(tokens.is_empty());
    assert_eq!(error.code(), ErrorCode::Overloaded);
    assert!(error.is_retryable());
}

/// Before its first token a stream may be asked for again where the application says so; after it, never.
#[tokio::test]
async fn an_error_of_an_application_ends_a_stream_as_it_was_made() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |request, mut tokens| async move {
            if request.prompt == "begin" {
                tokens.send("a").await?;
            }
            Err(ApplicationError::new("GPU_HOT", "too warm").retryable(true).into())
        })
        .await
        .unwrap();
    let controller = server.client().await;
    for (prompt, retryable) in [("at once", true), ("begin", false)] {
        let mut tokens = controller.infer(id, &request(prompt)).await.unwrap();
        let error = drain(&mut tokens).await.1.unwrap();
        let ErrorKind::Remote(remote) = error.kind() else { panic!("{error:?}") };
        assert_eq!((remote.code(), remote.message()), ("GPU_HOT", "too warm"));
        assert_eq!(error.is_retryable(), retryable, "{prompt}");
    }
}

#[tokio::test]
async fn s2_dropping_a_stream_reaches_the_worker_before_the_first_token_too() {
    let server = TestServer::start().await;
    let (controller, worker) = (server.client().await, server.client().await);
    let id = WorkerId::new();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), move |_request, _tokens| {
            started.send(()).unwrap();
            let told = Told(ended.clone());
            async move {
                let _told = told;
                std::future::pending().await
            }
        })
        .await
        .unwrap();
    let stream = controller.infer(id, &request("p")).await.unwrap();
    within("the start", starts.recv()).await.unwrap();
    drop(stream);
    within("the cancellation", ends.recv()).await.unwrap();
}

#[tokio::test]
async fn s2_a_cancellation_that_overtakes_its_request_still_counts() {
    let server = TestServer::start().await;
    let (controller, worker) = (server.client().await, server.client().await);
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |_request, mut tokens| async move {
            Err(tokens.cancelled().await)
        })
        .await
        .unwrap();
    for _ in 0..20 {
        let request = request("p");
        let cancel = InferenceCancel::new(request.request_id, CancelMode::Stop);
        controller.publish(&subjects::worker_cancel(id), &cancel).await.unwrap();
        let mut stream = controller.infer(id, &request).await.unwrap();
        let (tokens, error) = drain(&mut stream).await;
        assert!(tokens.is_empty() && error.is_none(), "{error:?}");
        assert_eq!(stream.summary().unwrap().finish_reason, Some(FinishReason::Cancelled));
    }
}

/// Tells when the handler that holds it is dropped.
struct Told(tokio::sync::mpsc::UnboundedSender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn s2_stop_finishes_cleanly_and_kill_ends_at_once() {
    let server = TestServer::start().await;
    let (controller, worker) = (server.client().await, server.client().await);
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |_request, mut tokens| async move {
            tokens.send("a").await?;
            Err(tokens.cancelled().await)
        })
        .await
        .unwrap();
    let mut stopped = controller.infer(id, &request("p")).await.unwrap();
    within("the first token", stopped.next()).await.unwrap().unwrap();
    // From any task: what it needs of the stream, it takes along.
    within("the message", tokio::spawn(stopped.stop())).await.unwrap().unwrap();
    let end = within("the end", stopped.next()).await;
    assert!(end.is_none(), "{end:?}");
    let summary = stopped.summary().unwrap();
    assert_eq!((summary.tokens, &summary.finish_reason), (1, &Some(FinishReason::Cancelled)));

    let mut killed = controller.infer(id, &request("p")).await.unwrap();
    within("the first token", killed.next()).await.unwrap().unwrap();
    killed.kill().await.unwrap();
    assert!(within("the end", killed.next()).await.is_none());
}

#[tokio::test]
async fn s3_a_lost_repeated_or_unreadable_frame_is_never_silent() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let token = |index: u64| json!({ "type": "token", "token": index.to_string(), "index": index });
    let done = |total: u64| json!({ "type": "done", "totalTokens": total, "latencyMs": 1 });

    let repeating = WorkerId::new();
    foreign_worker(&server, repeating, vec![token(0), token(0), token(1), token(1), done(2)]).await;
    let mut stream = client.infer(repeating, &request("p")).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    assert_eq!(tokens, ["0", "1"]);
    assert!(error.is_none(), "{error:?}");

    let lossy = WorkerId::new();
    foreign_worker(&server, lossy, vec![token(0), token(2), done(3)]).await;
    let mut stream = client.infer(lossy, &request("p")).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    assert_eq!(tokens, ["0"]);
    assert!(matches!(error.unwrap().kind(), ErrorKind::StreamGap { expected: 1, got: 2 }));

    let truncated = WorkerId::new();
    foreign_worker(&server, truncated, vec![token(0), done(2)]).await;
    let mut stream = client.infer(truncated, &request("p")).await.unwrap();
    let (_, error) = drain(&mut stream).await;
    assert_eq!(error.unwrap().code(), ErrorCode::StreamGap);

    let garbled = WorkerId::new();
    foreign_worker(&server, garbled, vec![token(0), json!({ "type": "token", "token": 7, "index": 1 }), done(2)]).await;
    let mut stream = client.infer(garbled, &request("p")).await.unwrap();
    let (_, error) = drain(&mut stream).await;
    assert_eq!(error.unwrap().code(), ErrorCode::MessageDecode);
}

#[tokio::test]
async fn s4_a_silent_or_departed_worker_is_lost_and_the_error_tells_how_much_came() {
    let server = TestServer::start().await;
    let options = ClientOptions::default().offline_timeout(Duration::from_millis(300));
    let client = server.client_with(options).await;
    let id = WorkerId::new();
    foreign_worker(&server, id, vec![json!({ "type": "token", "token": "a", "index": 0 })]).await;
    let mut stream = client.infer(id, &request("p")).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    let error = error.unwrap();
    assert_eq!(tokens, ["a"]);
    assert!(matches!(error.kind(), ErrorKind::WorkerLost { tokens: 1, .. }), "{error}");
    assert!(!error.is_retryable());

    let mute = WorkerId::new();
    foreign_worker(&server, mute, Vec::new()).await;
    let mut stream = client.infer(mute, &request("p")).await.unwrap();
    let (_, error) = drain(&mut stream).await;
    let error = error.unwrap();
    assert!(matches!(error.kind(), ErrorKind::WorkerLost { tokens: 0, .. }), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn s6_a_new_incarnation_ends_the_streams_of_the_former_and_ghosts_are_ignored() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let workers = client.workers().await.unwrap();
    let id = WorkerId::new();
    client.publish(&subjects::WORKER_HEARTBEAT, &beat(id, 10)).await.unwrap();
    workers.wait_until(LIMIT, |online| online.len() == 1).await.unwrap();
    foreign_worker(&server, id, vec![json!({ "type": "token", "token": "a", "index": 0 })]).await;

    let mut stream = client.infer(id, &request("p")).await.unwrap();
    within("the first token", stream.next()).await.unwrap().unwrap();
    // A ghost of an older incarnation changes nothing.
    client.publish(&subjects::WORKER_HEARTBEAT, &beat(id, 9)).await.unwrap();
    client.publish(&subjects::WORKER_HEARTBEAT, &beat(id, 11)).await.unwrap();
    let error = within("the end", stream.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::WorkerLost);
    assert_eq!(workers.get(id).unwrap().epoch, Some(Epoch::from_millis(11)));
}

#[tokio::test]
async fn s1_a_stream_ends_as_disconnected_when_the_connection_drops() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let id = WorkerId::new();
    foreign_worker(&server, id, vec![json!({ "type": "token", "token": "a", "index": 0 })]).await;
    let mut stream = client.infer(id, &request("p")).await.unwrap();
    within("the first token", stream.next()).await.unwrap().unwrap();
    server.stop().await;
    let (_, error) = drain(&mut stream).await;
    let error = error.unwrap();
    assert!(matches!(error.kind(), ErrorKind::StreamDisconnected { tokens: 1 }), "{error}");
    assert!(error.code() == ErrorCode::StreamDisconnected && !error.is_retryable());
}

#[tokio::test]
async fn an_invalid_request_without_an_inbox_is_refused_on_the_stream() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let _service = echo_worker(&worker, id).await;
    let foreign = server.foreign_client().await;
    let request_id = mlx_types::RequestId::new();
    let mut frames = foreign.subscribe(format!("response.{request_id}")).await.unwrap();
    let body = json!({ "requestId": request_id.to_string(), "modelId": "m", "prompt": "p", "temperature": 9 });
    foreign.publish(format!("worker.{id}.inference"), body.to_string().into()).await.unwrap();
    let frame = within("the refusal", frames.next()).await.unwrap();
    let frame: Value = serde_json::from_slice(&frame.payload).unwrap();
    assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!("MESSAGE_VALIDATION_ERROR")));
}

#[tokio::test]
async fn s5_a_peer_that_reads_them_gets_frames_of_several_tokens_and_another_one_does_not() {
    const TOKENS: usize = 1000;
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |_request, mut tokens| async move {
            for index in 0..TOKENS {
                tokens.send(index.to_string()).await?;
            }
            Ok(FinishReason::Length)
        })
        .await
        .unwrap();
    let expected: Vec<String> = (0..TOKENS).map(|index| index.to_string()).collect();
    for coalesce in [true, false] {
        let mut wire = server.client().await.subscribe(&subjects::ANY_RESPONSE).await.unwrap();
        let controller = server.client_with(ClientOptions::default().coalesce(coalesce)).await;
        let mut stream = controller.infer(id, &request("p")).await.unwrap();
        let (tokens, error) = drain(&mut stream).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(tokens, expected);
        let mut messages = 0;
        loop {
            let frame = within("a frame", wire.next()).await.unwrap().unwrap();
            messages += 1;
            if messages == 1 {
                assert!(matches!(frame.payload, StreamingResponse::Token { index: 0, .. }), "the first goes alone");
            }
            if frame.is_terminal() {
                break;
            }
        }
        if coalesce {
            assert!(messages < TOKENS / 2, "{messages}");
        } else {
            assert_eq!(messages, TOKENS + 1);
        }
    }
}

#[tokio::test]
async fn s2_stop_keeps_every_token_that_the_worker_counted() {
    let server = TestServer::start().await;
    let worker = server.client().await;
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |_request, mut tokens| async move {
            loop {
                tokens.send("x").await?;
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    let controller = server.client().await;
    let mut stream = controller.infer(id, &request("p")).await.unwrap();
    within("the first token", stream.next()).await.unwrap().unwrap();
    stream.stop().await.unwrap();
    // `done` counts the tokens, so one that was lost on the way would end this as a gap.
    let mut last = Ok(());
    within("the end", async {
        while let Some(frame) = stream.next().await {
            last = frame.map(drop);
        }
    })
    .await;
    last.unwrap();
    assert_eq!(stream.summary().unwrap().finish_reason, Some(FinishReason::Cancelled));
}

/// Sets one option to a time from now.
type Set = fn(InferOptions, Duration) -> InferOptions;

#[tokio::test]
async fn s3_what_a_request_asks_for_holds_for_it_alone() {
    let server = TestServer::start().await;
    let (worker, client) = (server.client().await, server.client().await);
    let id = WorkerId::new();
    let (begun, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), move |request, mut tokens| {
            let begun = begun.clone();
            async move {
                begun.send(request.prompt.clone()).unwrap();
                if request.prompt == "begins" {
                    tokens.send("a").await?;
                }
                tokens.cancelled().await;
                Ok(FinishReason::Stop)
            }
        })
        .await
        .unwrap();
    let soon = Duration::from_millis(300);
    let options = InferOptions::default;
    let cases: [(_, Set, _); 4] = [
        ("silent", InferOptions::first_token_timeout, ErrorCode::StreamFirstTokenTimeout),
        ("begins", InferOptions::inter_token_timeout, ErrorCode::StreamInterTokenTimeout),
        ("silent", |options, soon| options.deadline(SystemTime::now() + soon), ErrorCode::DeadlineExceeded),
        ("begins", |options, soon| options.deadline(SystemTime::now() + soon), ErrorCode::DeadlineExceeded),
    ];
    for (prompt, set, code) in cases {
        let options = set(options(), soon);
        let mut stream = client.infer_with(id, &InferenceRequest::new("m", prompt), options).await.unwrap();
        let error = within("the end", async {
            loop {
                if let Err(error) = stream.next().await.expect("an end with an error") {
                    return error;
                }
            }
        });
        assert_eq!(error.await.code(), code, "{prompt}");
        assert!(stream.next().await.is_none());
        assert_eq!(within("the request", seen.recv()).await.as_deref(), Some(prompt));
    }
    let past = options().deadline(SystemTime::now() - soon);
    let refused = client.infer_with(id, &InferenceRequest::new("m", "late"), past).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DeadlineExceeded);
    assert!(seen.try_recv().is_err(), "nothing was sent");
}
