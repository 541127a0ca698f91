//! Whose frames are text: those of one request, one incarnation and one attempt. And what becomes of a stream whose worker
//! behaves oddly: a TypeScript worker, a twin, one that goes silent or repeats itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorCode};
use mlx_nats::{Client, ClientOptions, InferenceOptions, InferenceService, TokenStream};
use mlx_tests::{LIMIT, TestServer, arrived, eventually, within};
use mlx_types::messages::{CancelMode, FinishReason, InferenceCancel, InferenceRequest};
use mlx_types::{RequestId, WorkerId, subjects};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(10);

fn patient() -> ClientOptions {
    ClientOptions::default().first_token_timeout(LONG).inter_token_timeout(LONG).offline_timeout(LONG)
}

fn request() -> InferenceRequest {
    InferenceRequest::new("m", "p")
}

/// A worker of another make, which says what the test has it say.
struct Foreign {
    nats: async_nats::Client,
    id: WorkerId,
    requests: async_nats::Subscriber,
    cancels: async_nats::Subscriber,
}

impl Foreign {
    async fn start(server: &TestServer) -> Self {
        let (nats, id) = (server.foreign_client().await, WorkerId::new());
        let requests = nats.subscribe(format!("worker.{id}.inference")).await.unwrap();
        let cancels = nats.subscribe(format!("worker.{id}.cancel")).await.unwrap();
        arrived(&nats).await;
        Self { nats, id, requests, cancels }
    }

    async fn asked(&mut self) -> String {
        let request = within("a request", self.requests.next()).await.unwrap();
        let request: Value = serde_json::from_slice(&request.payload).unwrap();
        request["requestId"].as_str().unwrap().to_owned()
    }

    /// The request, and its reply inbox.
    async fn asked_by(&mut self) -> (String, String) {
        let request = within("a request", self.requests.next()).await.unwrap();
        let asked: Value = serde_json::from_slice(&request.payload).unwrap();
        (asked["requestId"].as_str().unwrap().to_owned(), request.reply.unwrap().to_string())
    }

    /// Answers in a reply inbox.
    async fn reply(&self, inbox: &str, epoch: Option<u64>, body: &Value) {
        let mut headers = async_nats::HeaderMap::new();
        if let Some(epoch) = epoch {
            headers.insert("Mlx-Epoch", epoch.to_string());
        }
        self.nats.publish_with_headers(inbox.to_owned(), headers, body.to_string().into()).await.unwrap();
        arrived(&self.nats).await;
    }

    async fn say(&self, to: &str, frame: &str) {
        self.nats.publish(format!("response.{to}"), frame.to_owned().into()).await.unwrap();
        arrived(&self.nats).await;
    }

    async fn token(&self, id: &str, index: u64) {
        self.say(
            id,
            &json!({ "requestId": id, "type": "token", "token": index.to_string(), "index": index }).to_string(),
        )
        .await;
    }

    async fn done(&self, id: &str) {
        self.say(id, &json!({ "requestId": id, "type": "done", "totalTokens": 0, "latencyMs": 1 }).to_string()).await;
    }

    async fn cancelled(&mut self) -> Value {
        serde_json::from_slice(&within("a cancellation", self.cancels.next()).await.unwrap().payload).unwrap()
    }
}

async fn next(stream: &mut TokenStream) -> Option<Result<String, Error>> {
    within("the next item", stream.next()).await.map(|item| item.map(|frame| frame.text))
}

/// The text up to the end, and the error that it ended with, if it did.
async fn whole(stream: &mut TokenStream) -> (String, Option<Error>) {
    let mut text = String::new();
    loop {
        match next(stream).await {
            Some(Ok(token)) => text.push_str(&token),
            Some(Err(error)) => return (text, Some(error)),
            None => return (text, None),
        }
    }
}

/// Answers with its own letter, ten times.
async fn twin(client: &Client, id: WorkerId, letter: &'static str) -> InferenceService {
    let answer = move |_, mut tokens: mlx_nats::TokenSink| async move {
        for _ in 0..10 {
            tokens.send(letter).await?;
            tokio::time::sleep(Duration::from_millis(2)).await; // the model's own time
        }
        Ok(FinishReason::Stop)
    };
    client.serve_inference(id, InferenceOptions::default(), answer).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_two_workers_with_one_id_never_mix_their_words() {
    let server = TestServer::start().await;
    let (several, plain) = (patient(), patient().coalesce(false));
    let controllers = [server.client_with(several).await, server.client_with(plain).await];
    for controller in controllers.iter().cycle().take(40) {
        let id = WorkerId::new();
        let (first, second) = (server.client().await, server.client().await);
        let (_a, _b) = tokio::join!(twin(&first, id, "a"), twin(&second, id, "b"));
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(controller.infer(id, &request()).await.unwrap());
        }
        for mut stream in streams {
            let (text, error) = whole(&mut stream).await;
            assert!(error.is_none(), "{error:?}");
            assert!(text == "a".repeat(10) || text == "b".repeat(10), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_the_older_of_two_workers_with_one_id_stops_and_says_why() {
    let server = TestServer::start().await;
    let (controller, id) = (server.client_with(patient()).await, WorkerId::new());
    let (first, second) = (server.client().await, server.client().await);
    let mut older = twin(&first, id, "a").await;
    let mut newer = twin(&second, id, "b").await;
    let error = within("the end of the older one", older.ended()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WorkerDuplicate);
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    assert_eq!(whole(&mut controller.infer(id, &request()).await.unwrap()).await.0, "b".repeat(10));
    let goes_on = tokio::time::timeout(Duration::from_millis(100), newer.ended()).await;
    assert!(goes_on.is_err());
    // The one that came first is told again when it comes back, and its successor is not disturbed by that.
    drop(newer);
    let mut third = twin(&first, id, "c").await;
    let goes_on = tokio::time::timeout(Duration::from_millis(100), third.ended()).await;
    assert!(goes_on.is_err(), "its former self has ended");
    assert_eq!(whole(&mut controller.infer(id, &request()).await.unwrap()).await.0, "c".repeat(10));
}

#[tokio::test]
async fn s3_frames_of_another_request_are_never_text_and_end_nothing() {
    let server = TestServer::start().await;
    let (controller, mut worker) = (server.client_with(patient()).await, Foreign::start(&server).await);
    let mut stream = controller.infer(worker.id, &request()).await.unwrap();
    let id = worker.asked().await;
    let other = RequestId::new();
    worker.token(&id, 0).await;
    for foreign in [
        json!({ "requestId": other, "type": "token", "token": "foreign", "index": 1 }),
        json!({ "requestId": other, "type": "tokens", "tokens": ["foreign"], "index": 1 }),
        json!({ "requestId": other, "type": "done", "totalTokens": 1, "latencyMs": 1 }),
        json!({ "requestId": other, "type": "error", "error": "foreign", "code": "X" }),
    ] {
        worker.say(&id, &foreign.to_string()).await;
    }
    worker.token(&id, 1).await;
    worker.done(&id).await;
    let (text, error) = whole(&mut stream).await;
    assert_eq!((text.as_str(), error.is_none()), ("01", true));
}

/// Whoever accepted is one run, whoever sends the frames may be another: no two of them make one text.
#[tokio::test]
async fn s3_behind_an_acceptance_frames_with_and_without_an_incarnation_are_never_mixed() {
    let server = TestServer::start().await;
    let (controller, mut worker) = (server.client_with(patient()).await, Foreign::start(&server).await);
    // The first frame decides, and the others of its kind make the text.
    for (first, expected) in [(None, "aaa"), (Some(5), "bbb")] {
        let mut stream = controller.infer(worker.id, &request()).await.unwrap();
        let (id, inbox) = worker.asked_by().await;
        worker.reply(&inbox, Some(5), &json!({ "requestId": id, "workerId": worker.id })).await;
        // Read before the frames come.
        assert!(tokio::time::timeout(Duration::from_millis(50), stream.next()).await.is_err());
        let frame = |epoch: Option<u64>, index: u64| {
            let token = if epoch.is_none() { "a" } else { "b" };
            let frame = json!({ "requestId": id, "type": "token", "token": token, "index": index, "epoch": epoch });
            frame.to_string()
        };
        let second = if first.is_none() { Some(5) } else { None };
        for index in 0..3 {
            for epoch in [first, second] {
                worker.say(&id, &frame(epoch, index)).await;
            }
        }
        let done = json!({ "requestId": id, "type": "done", "totalTokens": 3, "latencyMs": 1, "epoch": first });
        worker.say(&id, &done.to_string()).await;
        let (text, error) = whole(&mut stream).await;
        assert_eq!((text.as_str(), error.is_none()), (expected, true), "{error:?}");
    }
}

/// A second worker of the same id refuses what the first one answers already.
#[tokio::test]
async fn w2_a_refusal_by_a_twin_does_not_end_an_answer_that_has_begun() {
    let server = TestServer::start().await;
    let (controller, mut worker) = (server.client_with(patient()).await, Foreign::start(&server).await);
    let mut stream = controller.infer(worker.id, &request()).await.unwrap();
    let (id, inbox) = worker.asked_by().await;
    worker.token(&id, 0).await;
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "0");
    worker.reply(&inbox, None, &json!({ "error": "full", "code": "OVERLOADED" })).await;
    // Read before the next token comes.
    assert!(tokio::time::timeout(Duration::from_millis(50), stream.next()).await.is_err());
    worker.token(&id, 1).await;
    worker.done(&id).await;
    let (text, error) = whole(&mut stream).await;
    assert_eq!((text.as_str(), error.is_none()), ("1", true), "{error:?}");
}

/// Only a worker that is there can say twice that it is.
#[tokio::test]
async fn w2_one_word_of_a_later_incarnation_takes_no_worker_out() {
    let server = TestServer::start().await;
    let (client, foreign) = (server.client().await, server.foreign_client().await);
    let id = WorkerId::new();
    let mut service = twin(&client, id, "a").await;
    let mut heard = foreign.subscribe(format!("worker.{id}.ping")).await.unwrap();
    let future = json!({ "epoch": 9_007_199_254_740_991_u64, "run": 0 }).to_string();
    foreign.publish(format!("worker.{id}.ping"), future.clone().into()).await.unwrap();
    // It asks by saying who it is itself.
    loop {
        let said = within("its question", heard.next()).await.unwrap();
        if said.payload != future.as_bytes() {
            break;
        }
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), service.ended()).await.is_err());
    // One that says so again is there.
    foreign.publish(format!("worker.{id}.ping"), future.into()).await.unwrap();
    let error = within("its end", service.ended()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WorkerDuplicate);
}

/// Whatever ends a stream on this side, its worker is told to stop, and which request is meant.
#[tokio::test]
async fn s2_a_stream_that_ends_on_this_side_is_cancelled_by_its_mark() {
    let server = TestServer::start().await;
    let (controller, mut worker) = (server.client_with(patient()).await, Foreign::start(&server).await);
    for (end, code) in [("gap", ErrorCode::StreamGap), ("unreadable", ErrorCode::MessageDecode)] {
        let mut stream = controller.infer(worker.id, &request()).await.unwrap();
        let (id, inbox) = worker.asked_by().await;
        worker.token(&id, 0).await;
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "0", "{end}");
        match end {
            "gap" => worker.token(&id, 7).await,
            _ => worker.say(&id, "{").await,
        }
        let (_, error) = whole(&mut stream).await;
        assert_eq!(error.unwrap().code(), code, "{end}");
        let cancel = within("a cancellation", worker.cancels.next()).await.unwrap();
        let body: Value = serde_json::from_slice(&cancel.payload).unwrap();
        assert_eq!((&body["requestId"], &body["mode"]), (&json!(id), &json!("kill")), "{end}");
        let mark = cancel.headers.as_ref().and_then(|headers| headers.get("Mlx-Reply")).map(ToString::to_string);
        assert_eq!(mark, Some(inbox), "{end}");
    }
}

/// Two requests with one id, by two askers: the cancellation of one does not reach the other.
#[tokio::test]
async fn s2_a_cancellation_with_another_mark_means_another_request() {
    let server = TestServer::start().await;
    let (controller, foreign) = (server.client_with(patient()).await, server.foreign_client().await);
    let (worker, id) = (server.client().await, WorkerId::new());
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |_, mut tokens| async move {
            tokens.send("a").await?;
            Err(tokens.cancelled().await)
        })
        .await
        .unwrap();
    let asked = request();
    let mut stream = controller.infer(id, &asked).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "a");
    let body = json!({ "requestId": asked.request_id, "mode": "stop" }).to_string();
    let cancel = async |mark: Option<&str>| {
        let mut headers = async_nats::HeaderMap::new();
        if let Some(mark) = mark {
            headers.insert("Mlx-Reply", mark);
        }
        foreign.publish_with_headers(format!("worker.{id}.cancel"), headers, body.clone().into()).await.unwrap();
        arrived(&foreign).await;
    };
    cancel(Some("_INBOX.of.another")).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), stream.next()).await.is_err());
    // One without a mark means whatever is under way.
    cancel(None).await;
    let (_, error) = whole(&mut stream).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(stream.summary().unwrap().finish_reason, Some(FinishReason::Cancelled));
}

#[tokio::test]
async fn s1_a_stall_after_the_first_token_is_noticed_by_the_timeout_between_tokens() {
    let server = TestServer::start().await;
    let options = patient().inter_token_timeout(Duration::from_millis(300));
    let (controller, mut worker) = (server.client_with(options).await, Foreign::start(&server).await);
    let mut stream = controller.infer(worker.id, &request()).await.unwrap();
    let id = worker.asked().await;
    worker.token(&id, 0).await;
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "0");
    let began = Instant::now();
    // A worker that repeats itself makes no progress.
    let repeating = async {
        loop {
            worker.token(&id, 0).await;
            tokio::time::sleep(Duration::from_millis(20)).await; // between two repetitions
        }
    };
    let error = tokio::select! {
        error = next(&mut stream) => error.unwrap().unwrap_err(),
        () = repeating => unreachable!(),
    };
    assert_eq!(error.code(), ErrorCode::StreamInterTokenTimeout, "{error}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(worker.cancelled().await["requestId"], id, "it may still be at work");
}

#[tokio::test]
async fn s2_a_worker_that_only_fell_silent_is_told_to_stop() {
    let server = TestServer::start().await;
    let options = patient().offline_timeout(Duration::from_millis(300));
    let (controller, mut worker) = (server.client_with(options).await, Foreign::start(&server).await);
    let mut stream = controller.infer(worker.id, &request()).await.unwrap();
    let id = worker.asked().await;
    worker.token(&id, 0).await;
    let (_, error) = whole(&mut stream).await;
    assert_eq!(error.unwrap().code(), ErrorCode::WorkerLost);
    assert_eq!(worker.cancelled().await["requestId"], id);
}

#[tokio::test]
async fn s4_an_error_of_the_worker_is_not_retryable_once_a_token_has_come() {
    let server = TestServer::start().await;
    let (controller, mut worker) = (server.client_with(patient()).await, Foreign::start(&server).await);
    for tokens in 0..2 {
        let mut stream = controller.infer(worker.id, &request()).await.unwrap();
        let id = worker.asked().await;
        for index in 0..tokens {
            worker.token(&id, index).await;
        }
        worker
            .say(&id, &json!({ "requestId": id, "type": "error", "error": "full", "code": "OVERLOADED" }).to_string())
            .await;
        let (_, error) = whole(&mut stream).await;
        let error = error.unwrap();
        assert_eq!(error.code(), ErrorCode::Overloaded);
        assert_eq!(error.is_retryable(), tokens == 0, "after {tokens} tokens");
    }
}

#[tokio::test]
async fn half_characters_are_joined_across_frames_or_replaced() {
    let server = TestServer::start().await;
    let (controller, mut worker) = (server.client_with(patient()).await, Foreign::start(&server).await);
    let mut stream = controller.infer(worker.id, &request()).await.unwrap();
    let id = worker.asked().await;
    let texts = [r"a\ud83d", r"\ude00b", r"\ud83d", "c", r"\ude00", "d", r"e\ud83d"];
    for (index, text) in texts.iter().enumerate() {
        worker.say(&id, &format!(r#"{{"requestId":"{id}","type":"token","token":"{text}","index":{index}}}"#)).await;
    }
    worker.done(&id).await;
    let (text, error) = whole(&mut stream).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text, "a😀b\u{FFFD}c\u{FFFD}de\u{FFFD}");
    assert_eq!(stream.summary().unwrap().tokens, 7);
}

#[tokio::test]
async fn half_characters_in_an_error_are_replaced() {
    let server = TestServer::start().await;
    let (controller, mut worker) = (server.client_with(patient()).await, Foreign::start(&server).await);
    let mut stream = controller.infer(worker.id, &request()).await.unwrap();
    let id = worker.asked().await;
    worker.say(&id, &format!(r#"{{"requestId":"{id}","type":"error","error":"bad \ud83d","code":"X"}}"#)).await;
    let error = next(&mut stream).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("bad \u{FFFD}"), "{error}");
}

#[tokio::test]
async fn a_worker_that_does_not_say_its_incarnation_finishes_after_its_farewell() {
    let server = TestServer::start().await;
    let (controller, mut worker) = (server.client_with(patient()).await, Foreign::start(&server).await);
    let workers = controller.workers().await.unwrap();
    let now = || u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let mut stream = controller.infer(worker.id, &request()).await.unwrap();
    let id = worker.asked().await;
    worker.token(&id, 0).await;
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "0");
    let metrics = json!({ "cpuUsagePercent": 1, "memoryUsedGB": 1, "gpuUtilizationPercent": 1, "activeRequests": 1,
        "totalRequestsHandled": 1, "avgLatencyMs": 1, "modelsLoaded": [] });
    let beat = json!({ "workerId": worker.id, "status": "online", "metrics": metrics, "timestamp": now() });
    worker.nats.publish("worker.heartbeat", beat.to_string().into()).await.unwrap();
    eventually("the worker", || workers.get(worker.id).is_some()).await;
    let farewell = json!({ "workerId": worker.id, "timestamp": now() + 1 });
    worker.nats.publish("worker.deregister", farewell.to_string().into()).await.unwrap();
    eventually("the farewell", || workers.get(worker.id).is_none()).await;
    worker.token(&id, 1).await;
    worker.done(&id).await;
    let (text, error) = whole(&mut stream).await;
    assert_eq!((text.as_str(), error.is_none()), ("1", true), "{error:?}");
}

#[tokio::test]
async fn a_request_without_a_reply_inbox_is_not_answered_before_its_asker_listens() {
    let server = TestServer::start().await;
    let (client, foreign) = (server.client().await, server.foreign_client().await);
    let id = WorkerId::new();
    let _full = client
        .serve_inference(id, InferenceOptions::default().max_concurrent(1), |request, mut tokens| async move {
            tokens.send("a").await?;
            if request.prompt == "stay" {
                return Err(tokens.cancelled().await);
            }
            Ok(FinishReason::Stop)
        })
        .await
        .unwrap();
    // A short answer, and then a refusal, since there is only one place.
    for (prompt, kinds) in [("short", vec!["token", "done"]), ("stay", vec!["token"]), ("refused", vec!["error"])] {
        let asked = RequestId::new();
        let payload = json!({ "requestId": asked, "modelId": "m", "prompt": prompt });
        foreign.publish(format!("worker.{id}.inference"), payload.to_string().into()).await.unwrap();
        arrived(&foreign).await;
        // As TypeScript controllers do, with a little time between.
        tokio::time::sleep(Duration::from_millis(15)).await;
        let mut frames = foreign.subscribe(format!("response.{asked}")).await.unwrap();
        for kind in kinds {
            let frame = within("a frame", frames.next()).await.unwrap();
            let frame: Value = serde_json::from_slice(&frame.payload).unwrap();
            assert_eq!(frame["type"], kind, "{prompt}");
        }
    }
}

#[tokio::test]
async fn ids_are_found_in_the_case_in_which_they_are_said() {
    let server = TestServer::start().await;
    let (controller, foreign) = (server.client_with(patient()).await, server.foreign_client().await);
    // A worker whose id is in upper case.
    let said = WorkerId::new().to_string().to_uppercase();
    let mut requests = foreign.subscribe(format!("worker.{said}.inference")).await.unwrap();
    arrived(&foreign).await;
    let workers = controller.workers().await.unwrap();
    let metrics = json!({ "cpuUsagePercent": 1, "memoryUsedGB": 1, "gpuUtilizationPercent": 1, "activeRequests": 1,
        "totalRequestsHandled": 1, "avgLatencyMs": 1, "modelsLoaded": [] });
    let beat = json!({ "workerId": said, "status": "online", "metrics": metrics, "timestamp": 1_700_000_000_000_u64 });
    foreign.publish("worker.heartbeat", beat.to_string().into()).await.unwrap();
    let in_lower_case: WorkerId = said.to_lowercase().parse().unwrap();
    eventually("the worker", || workers.get(in_lower_case).is_some()).await;
    for id in [workers.get(in_lower_case).unwrap().worker_id, in_lower_case] {
        let _stream = controller.infer(id, &request()).await.unwrap();
        within("a request", requests.next()).await.unwrap();
    }
    // A controller whose request has an id in upper case.
    let worker = server.client().await;
    let id = WorkerId::new();
    let _service = twin(&worker, id, "a").await;
    let asked = RequestId::new().to_string().to_uppercase();
    let mut frames = foreign.subscribe(format!("response.{asked}")).await.unwrap();
    let payload = json!({ "requestId": asked, "modelId": "m", "prompt": "p" });
    foreign.publish(format!("worker.{id}.inference"), payload.to_string().into()).await.unwrap();
    within("a frame", frames.next()).await.unwrap();
}

#[tokio::test]
async fn s2_a_late_cancellation_does_not_reach_the_next_request_of_the_same_id() {
    let server = TestServer::start().await;
    let (controller, worker) = (server.client_with(patient()).await, server.client().await);
    let id = WorkerId::new();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), |_, mut tokens| async move {
            tokens.send("a").await?;
            Ok(FinishReason::Stop)
        })
        .await
        .unwrap();
    for _ in 0..50 {
        let asked = request();
        let mut stream = controller.infer(id, &asked).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "a");
        drop(stream);
        let mut again = controller.infer(id, &asked).await.unwrap();
        let (text, error) = whole(&mut again).await;
        match error {
            None => assert_eq!(text, "a"),
            // The first one may still be under way.
            Some(error) => assert_eq!(error.code(), ErrorCode::RequestDuplicate, "{error}"),
        }
    }
    // One without a mark, behind an end, means nobody any more.
    let asked = request();
    assert_eq!(whole(&mut controller.infer(id, &asked).await.unwrap()).await.0, "a");
    let cancel = InferenceCancel::new(asked.request_id, CancelMode::Kill);
    server.client().await.publish(&subjects::worker_cancel(id), &cancel).await.unwrap();
    controller.flush(LIMIT).await.unwrap();
    assert_eq!(whole(&mut controller.infer(id, &asked).await.unwrap()).await.0, "a");
}
