//! Whom a dispatcher asks: over a real server, with real workers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mlx_errors::{ApplicationError, Error, ErrorCode, ErrorKind, Result};
use mlx_nats::{
    Client, ClientOptions, DispatchOptions, Dispatcher, InferOptions, TokenSink, TokenStream, Worker, WorkerProfile,
};
use mlx_tests::{LIMIT, TestServer, arrived, eventually, eventually_async, within};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{SessionId, WorkerId};
use tokio::sync::Notify;

/// A cluster whose workers and controllers have a connection each.
struct Cluster {
    server: TestServer,
}

impl Cluster {
    async fn start() -> Self {
        Self { server: TestServer::start().await }
    }

    async fn client(&self) -> Client {
        self.server.client_with(ClientOptions::default().heartbeat_interval(Duration::from_millis(100))).await
    }

    async fn worker<H, F>(&self, places: usize, handler: H) -> Worker
    where
        H: Fn(InferenceRequest, TokenSink) -> F + Send + Sync + 'static,
        F: Future<Output = Result<FinishReason>> + Send + 'static,
    {
        let profile = WorkerProfile::new(WorkerId::new()).models(["m"]).max_concurrent(places);
        self.client().await.worker(profile).serve(handler).await.unwrap()
    }

    async fn dispatcher(&self, options: DispatchOptions, workers: &[&Worker]) -> Dispatcher {
        let client = self.client().await;
        // Known to the table that the dispatcher follows.
        let table = client.workers().await.unwrap();
        let dispatcher = client.dispatcher(options).await.unwrap();
        let registered = |worker: &mlx_nats::WorkerInfo| worker.registration.is_some();
        table
            .wait_until(LIMIT, |known| known.iter().filter(|known| registered(known)).count() == workers.len())
            .await
            .unwrap();
        if !workers.is_empty() {
            eventually("the models", || dispatcher.models() == ["m"]).await;
        }
        dispatcher
    }
}

fn request() -> InferenceRequest {
    InferenceRequest::new("m", "p")
}

async fn text(mut tokens: TokenStream) -> (String, Option<Error>) {
    let (mut text, mut end) = (String::new(), None);
    within("the end", async {
        while let Some(token) = tokens.next().await {
            match token {
                Ok(token) => text.push_str(&token.text),
                Err(error) => end = Some(error),
            }
        }
    })
    .await;
    (text, end)
}

/// Answers as soon as it is let.
fn when_let(
    gate: &Arc<Notify>,
) -> impl Fn(InferenceRequest, TokenSink) -> futures_util::future::BoxFuture<'static, Result<FinishReason>> + use<> {
    let gate = Arc::clone(gate);
    move |_, mut tokens| {
        let gate = Arc::clone(&gate);
        async move {
            tokens.send("begun").await?;
            tokio::select! {
                () = gate.notified() => {}
                cancelled = tokens.cancelled() => return Err(cancelled),
            }
            Ok(FinishReason::Stop)
        }
        .boxed()
    }
}

#[tokio::test]
async fn w3_a_worker_that_fails_before_its_first_token_is_replaced_and_never_asked_again() {
    let cluster = Cluster::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let failing = cluster
        .worker(4, move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Err(ApplicationError::new("GPU_HOT", "too warm").retryable(true).into()) }
        })
        .await;
    let good =
        cluster.worker(4, |_, mut tokens| async move { tokens.send("well").await.map(|()| FinishReason::Stop) }).await;
    let dispatcher = cluster.dispatcher(DispatchOptions::default(), &[&failing, &good]).await;
    for round in 0..6 {
        let tokens = within("an answer", dispatcher.infer(&request())).await.unwrap();
        assert_eq!(tokens.worker_id(), Some(good.id()), "the stream says who answers");
        let (said, error) = text(tokens).await;
        assert!(said == "well" && error.is_none(), "{said:?} {error:?}");
        assert!(asked.load(Ordering::Relaxed) <= round + 1, "once for each request");
    }
    assert!(asked.load(Ordering::Relaxed) > 0, "it was tried");
    good.drain(LIMIT).await.unwrap();
    eventually_async("the error of the only one", async || {
        let error = dispatcher.infer(&request()).await.unwrap_err();
        matches!(error.kind(), ErrorKind::Remote(remote) if remote.code() == "GPU_HOT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn w3_what_may_not_be_asked_again_is_not() {
    let cluster = Cluster::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for _ in 0..2 {
        let counted = Arc::clone(&asked);
        let handler = move |request: InferenceRequest, mut tokens: TokenSink| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                if request.prompt == "begin" {
                    tokens.send("a").await?;
                }
                Err(ApplicationError::new("NO", "no").retryable(request.prompt == "begin").into())
            }
        };
        workers.push(cluster.worker(4, handler).await);
    }
    let dispatcher = cluster.dispatcher(DispatchOptions::default(), &[&workers[0], &workers[1]]).await;
    let refused = dispatcher.infer(&request()).await.unwrap_err();
    assert!(!refused.is_retryable(), "final, for every worker");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let (begun, error) = text(dispatcher.infer(&InferenceRequest::new("m", "begin")).await.unwrap()).await;
    assert_eq!((begun.as_str(), error.unwrap().is_retryable()), ("a", false), "never after a token");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn w3_a_worker_that_dies_before_its_first_token_is_replaced_within_the_deadline() {
    let cluster = Cluster::start().await;
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let silent = |begun: tokio::sync::mpsc::UnboundedSender<()>| {
        move |_: InferenceRequest, _: TokenSink| {
            begun.send(()).unwrap();
            std::future::pending::<Result<FinishReason>>()
        }
    };
    let first = cluster.worker(4, silent(begun)).await;
    let dispatcher = cluster.dispatcher(DispatchOptions::default(), &[&first]).await;
    let asking = tokio::spawn({
        let dispatcher = dispatcher.clone();
        async move { dispatcher.infer(&request()).await }
    });
    within("the request", begins.recv()).await.unwrap();
    let second =
        cluster.worker(4, |_, mut tokens| async move { tokens.send("well").await.map(|()| FinishReason::Stop) }).await;
    second.control().set_models(["m", "n"]);
    eventually("the second worker", || dispatcher.models() == ["m", "n"]).await;
    drop(first);
    let tokens = within("an answer", asking).await.unwrap().unwrap();
    assert_eq!(tokens.worker_id(), Some(second.id()));
}

#[tokio::test]
async fn w6_while_all_are_full_requests_wait_in_order_and_know_their_place() {
    let cluster = Cluster::start().await;
    let gate = Arc::new(Notify::new());
    let worker = cluster.worker(1, when_let(&gate)).await;
    let options = DispatchOptions::default().max_waiting(3);
    let dispatcher = cluster.dispatcher(options, &[&worker]).await;
    let running = within("the first", dispatcher.infer(&request())).await.unwrap();
    let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let mut places = Vec::new();
    let mut tasks = Vec::new();
    for number in 0..3 {
        let pending = dispatcher.enqueue(&request(), InferOptions::default());
        places.push(pending.position());
        let answered = answered.clone();
        tasks.push(tokio::spawn(async move {
            let tokens = pending.answer().await.unwrap();
            answered.send(number).unwrap();
            text(tokens).await
        }));
        eventually("its place", || dispatcher.waiting() == number + 1).await;
        assert_eq!(places[number].get(), Some(number + 1));
    }
    let refused = dispatcher.infer(&request()).await.unwrap_err();
    assert_eq!((refused.code(), refused.is_retryable()), (ErrorCode::Overloaded, true), "no more than three wait");

    // One in the middle goes away: those behind it move up.
    tasks[1].abort();
    eventually("the place of the last one", || places[2].get() == Some(2)).await;
    drop(running); // cancelled: its place goes to the first
    assert_eq!(within("the first in the line", answers.recv()).await, Some(0));
    eventually("the place of the last one", || places[2].get() == Some(1)).await;
    assert_eq!(places[0].get(), None);
    gate.notify_one();
    assert_eq!(within("the last one", answers.recv()).await, Some(2));
    gate.notify_one();
    within("its end", tasks.pop().unwrap()).await.unwrap();
    assert_eq!(dispatcher.waiting(), 0);
    eventually("no request of it", || dispatcher.load(worker.id()).0 == 0).await;
}

#[tokio::test]
async fn w6_a_wait_ends_in_time_and_a_model_that_nobody_has_is_told() {
    let cluster = Cluster::start().await;
    let gate = Arc::new(Notify::new());
    let worker = cluster.worker(1, when_let(&gate)).await;
    let options = DispatchOptions::default().begin_timeout(Duration::from_millis(1_500));
    let dispatcher = cluster.dispatcher(options, &[&worker]).await;
    let _running = dispatcher.infer(&request()).await.unwrap();
    let late = within("the end of the wait", dispatcher.infer(&request())).await.unwrap_err();
    assert_eq!((late.code(), late.is_retryable()), (ErrorCode::Overloaded, true), "{late}");
    let patient = cluster.dispatcher(DispatchOptions::default(), &[&worker]).await;
    let in_time = InferOptions::default().deadline(std::time::SystemTime::now() + Duration::from_millis(100));
    let late = within("the deadline", patient.infer_with(&request(), in_time)).await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::DeadlineExceeded, "{late}");
    assert_eq!(dispatcher.waiting(), 0);
    let nobody = within("the word", dispatcher.infer(&InferenceRequest::new("n", "p"))).await.unwrap_err();
    assert_eq!(nobody.to_string(), "no worker has the model `n`; there are: `m`");
    assert_eq!(nobody.code(), ErrorCode::NoWorker);
}

/// With no worker at all nothing is heard that would have anybody look again: time alone ends the wait.
#[tokio::test]
async fn w6_without_any_worker_that_is_said_in_time() {
    let cluster = Cluster::start().await;
    let dispatcher = cluster.dispatcher(DispatchOptions::default(), &[]).await;
    // By then it has looked around, and rests.
    arrived(&cluster.server.foreign_client().await).await;
    let nobody = within("the word", dispatcher.infer(&request())).await.unwrap_err();
    assert_eq!(nobody.to_string(), "no worker has the model `m`, nor any other");
}

/// What another controller has at a worker is known by its heartbeats, and by its refusals before that.
#[tokio::test]
async fn w6_controllers_on_one_bus_see_each_others_load() {
    let cluster = Cluster::start().await;
    let gate = Arc::new(Notify::new());
    let (one, two) = (cluster.worker(2, when_let(&gate)).await, cluster.worker(2, when_let(&gate)).await);
    let first = cluster.dispatcher(DispatchOptions::default(), &[&one, &two]).await;
    let second = cluster.dispatcher(DispatchOptions::default(), &[&one, &two]).await;
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(within("a place", first.infer(&request())).await.unwrap());
    }
    eventually("the load of the other", || [&one, &two].iter().all(|worker| second.load(worker.id()) == (0, 2))).await;
    let waiting = tokio::spawn({
        let second = second.clone();
        async move { second.infer(&request()).await }
    });
    eventually("the wait", || second.waiting() == 1).await;
    let freed = running.pop().unwrap();
    let worker = freed.worker_id();
    drop(freed);
    let got = within("the place that became free", waiting).await.unwrap().unwrap();
    assert_eq!(got.worker_id(), worker);
}

#[tokio::test]
async fn w4_requests_of_a_session_go_to_one_worker_until_it_leaves() {
    let cluster = Cluster::start().await;
    let answer =
        |_: InferenceRequest, mut tokens: TokenSink| async move { tokens.send("a").await.map(|()| FinishReason::Stop) };
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(cluster.worker(4, answer).await);
    }
    let known: Vec<&Worker> = workers.iter().collect();
    let options = DispatchOptions::default().session_life(Duration::from_mins(1));
    let dispatcher = cluster.dispatcher(options, &known).await;
    let session = InferOptions::default().session(SessionId::new());
    let home = async || {
        let tokens = within("an answer", dispatcher.infer_with(&request(), session.clone())).await.unwrap();
        let worker = tokens.worker_id().unwrap();
        text(tokens).await;
        worker
    };
    let first = home().await;
    for _ in 0..10 {
        assert_eq!(home().await, first);
    }
    let leaves = workers.iter().position(|worker| worker.id() == first).unwrap();
    workers.swap_remove(leaves).drain(LIMIT).await.unwrap();
    let second = home().await;
    assert_ne!(second, first);
    assert_eq!(home().await, second);
}

#[tokio::test]
async fn w3_a_worker_that_fails_again_and_again_is_left_alone_for_a_while() {
    let cluster = Cluster::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let failing = cluster
        .worker(4, move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { panic!("a defect") }
        })
        .await;
    let options = DispatchOptions::default()
        .breaker_failures(2)
        .breaker_timeout(Duration::from_mins(10))
        .begin_timeout(Duration::from_millis(200));
    let dispatcher = cluster.dispatcher(options, &[&failing]).await;
    for _ in 0..2 {
        assert_eq!(dispatcher.infer(&request()).await.unwrap_err().code(), ErrorCode::Internal);
    }
    let left_alone = within("the end of the wait", dispatcher.infer(&request())).await.unwrap_err();
    assert_eq!(left_alone.code(), ErrorCode::Overloaded);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// Its future is dropped at every moment in turn: no place is lost, and no request stays.
#[tokio::test]
async fn w6_a_request_that_is_given_up_anywhere_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let gate = Arc::new(Notify::new());
    let worker = cluster.worker(1, when_let(&gate)).await;
    let dispatcher = cluster.dispatcher(DispatchOptions::default(), &[&worker]).await;
    for polls in 0..40 {
        let (one, two) = (
            dispatcher.enqueue(&request(), InferOptions::default()),
            dispatcher.enqueue(&request(), InferOptions::default()),
        );
        let mut both = (Box::pin(one.answer().fuse()), Box::pin(two.answer().fuse()));
        for _ in 0..polls {
            let _ = futures_util::poll!(&mut both.0);
            let _ = futures_util::poll!(&mut both.1);
            tokio::task::yield_now().await;
        }
        drop(both);
        eventually("nothing of them", || dispatcher.waiting() == 0 && dispatcher.load(worker.id()).0 == 0).await;
    }
    let tokens = within("a place", dispatcher.infer(&request())).await.unwrap();
    drop(tokens);
}
