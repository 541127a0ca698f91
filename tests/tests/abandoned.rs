//! What streams leave behind at their worker and at the server, when nobody reads them any more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mlx_errors::ErrorCode;
use mlx_nats::{Client, ClientOptions, InferenceOptions, InferenceService};
use mlx_tests::{FaultProxy, LIMIT, TestServer, eventually_async, within};
use mlx_types::messages::{FinishReason, InferenceCancel, InferenceRequest};
use mlx_types::{WorkerId, subjects};
use tokio::sync::mpsc;

/// A worker, and a controller behind a proxy.
struct Scene {
    proxy: FaultProxy,
    controller: Client,
    worker: Client,
    id: WorkerId,
    server: TestServer,
}

impl Scene {
    async fn set() -> Self {
        let server = TestServer::start().await;
        let proxy = FaultProxy::start(&server).await;
        let mut config = proxy.in_front(server.config());
        config.max_reconnect_attempts = 100_000;
        let controller = Client::connect(&config).await.unwrap();
        Self { proxy, controller, worker: server.client().await, id: WorkerId::new(), server }
    }

    /// Serves one token and then nothing for ever. Tells when a handler is dropped.
    async fn serve(&self) -> (InferenceService, mpsc::UnboundedReceiver<()>) {
        let (ended, ends) = mpsc::unbounded_channel();
        let handler = move |_request, mut tokens: mlx_nats::TokenSink| {
            let told = Told(ended.clone());
            async move {
                let _told = told;
                tokens.send("a").await?;
                std::future::pending().await
            }
        };
        (self.worker.serve_inference(self.id, InferenceOptions::default(), handler).await.unwrap(), ends)
    }

    /// Takes the controller's connection away, and keeps it away.
    async fn cut_off(&self) {
        let mut state = self.controller.watch_state();
        self.proxy.refuse(true);
        self.proxy.cut();
        within("the outage", state.wait_for(|state| !state.is_connected())).await.unwrap();
    }

    async fn subscriptions(&self) -> u64 {
        self.server.monitoring("/subsz").await["num_subscriptions"].as_u64().unwrap()
    }
}

/// Tells when the handler that holds it is dropped.
struct Told(mpsc::UnboundedSender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

fn request() -> InferenceRequest {
    InferenceRequest::new("m", "p")
}

#[tokio::test]
async fn s2_a_requester_that_was_cut_off_calls_its_request_off_when_it_is_back() {
    let scene = Scene::set().await;
    let (_service, mut ends) = scene.serve().await;
    // One learns of the outage, another is dropped during it.
    let mut read = scene.controller.infer(scene.id, &request()).await.unwrap();
    let mut dropped = scene.controller.infer(scene.id, &request()).await.unwrap();
    for stream in [&mut read, &mut dropped] {
        within("the first token", stream.next()).await.unwrap().unwrap();
    }
    scene.cut_off().await;
    drop(dropped);
    let error = within("the end", read.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::StreamDisconnected);
    assert!(ends.recv().now_or_never().is_none(), "nobody could have told the worker");
    scene.proxy.refuse(false);
    for _ in 0..2 {
        within("the end of a handler", ends.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn s2_a_request_that_is_made_again_is_not_called_off() {
    let scene = Scene::set().await;
    // No worker of ours, which would not take a request twice.
    let inferences = scene.worker.subscribe(&subjects::worker_inference(scene.id)).await.unwrap();
    let mut cancels = scene.worker.subscribe::<_, InferenceCancel>(&subjects::worker_cancel(scene.id)).await.unwrap();
    let requests = [request(), request(), request()];
    let mut streams = Vec::new();
    for request in &requests {
        streams.push(scene.controller.infer(scene.id, request).await.unwrap());
    }
    scene.cut_off().await;
    drop(streams);
    scene.proxy.refuse(false);
    scene.controller.wait_connected(LIMIT).await.unwrap();
    let stream = scene.controller.infer(scene.id, &requests[1]).await.unwrap();
    // The cancellations were to go out one after the other; whichever of the two ends comes first, the middle is left out.
    let mut cancelled = Vec::new();
    for _ in 0..2 {
        cancelled.push(within("a cancellation", cancels.next()).await.unwrap().unwrap().request_id);
    }
    assert!(!cancelled.contains(&requests[1].request_id));
    drop((stream, inferences));
}

#[tokio::test]
async fn c10_what_is_still_to_be_called_off_does_not_keep_its_client() {
    let scene = Scene::set().await;
    let (_service, _ends) = scene.serve().await;
    let stream = scene.controller.infer(scene.id, &request()).await.unwrap();
    scene.cut_off().await;
    let mut state = scene.controller.watch_state();
    drop((stream, scene.controller));
    // Closed, or gone.
    let _ = within("the end of the client", state.wait_for(mlx_nats::ConnectionState::is_closed)).await;
}

#[tokio::test]
async fn c10_a_stream_kept_for_its_summary_holds_nothing_at_the_server() {
    let scene = Scene::set().await;
    let handler = |_request, mut tokens: mlx_nats::TokenSink| async move {
        tokens.send("a").await?;
        Ok(FinishReason::Stop)
    };
    let _service = scene.worker.serve_inference(scene.id, InferenceOptions::default(), handler).await.unwrap();
    let _workers = scene.controller.workers().await.unwrap();
    let before = scene.subscriptions().await;
    let mut stream = scene.controller.infer(scene.id, &request()).await.unwrap();
    while let Some(frame) = within("a frame", stream.next()).await {
        frame.unwrap();
    }
    // The end of the subscription travels behind the end of the stream.
    eventually_async("the former count", async || (scene.subscriptions().await == before).then_some(())).await;
    assert_eq!(stream.summary().unwrap().tokens, 1);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn s1_timeouts_without_end_never_end_a_stream() {
    let scene = Scene::set().await;
    let options = ClientOptions::default()
        .first_token_timeout(Duration::from_secs(1))
        .inter_token_timeout(Duration::MAX)
        .offline_timeout(Duration::MAX);
    let controller = scene.server.client_with(options.clone()).await;
    let handler = |_request, mut tokens: mlx_nats::TokenSink| async move {
        tokens.send("a").await?;
        tokio::time::sleep(Duration::from_millis(1_200)).await; // past the first timeout, at which the next one is set
        tokens.send("b").await?;
        Ok(FinishReason::Stop)
    };
    let _service = scene.worker.serve_inference(scene.id, InferenceOptions::default(), handler).await.unwrap();
    let mut stream = controller.infer(scene.id, &request()).await.unwrap();
    while let Some(frame) = within("a frame", stream.next()).await {
        frame.unwrap();
    }
    assert_eq!(stream.summary().unwrap().tokens, 2);
}

#[tokio::test]
async fn a_gathering_without_end_ends_with_the_answers_that_were_wanted() {
    let scene = Scene::set().await;
    let _service = scene.worker.serve("lab.one", |_: mlx_nats::Request<u32>| async { Ok(1) }).await.unwrap();
    let options = mlx_nats::RequestManyOptions::default().max_responses(1).stall(Duration::MAX).timeout(Duration::MAX);
    let gathered =
        within("the answer", mlx_tests::ask_all::<_, _, u32>(&scene.controller, "lab.one", &1, options)).await;
    assert_eq!(gathered.unwrap().len(), 1);
}
