//! Token streams whose worker loses its own connection: the requester hears of it as soon as the worker is back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::future::Future;
use std::sync::Arc;

use futures_util::StreamExt;
use mlx_errors::ErrorKind;
use mlx_nats::{Client, ClientOptions, ConnectionState, InferenceOptions, InferenceService, TokenSink, TokenStream};
use mlx_tests::{FaultProxy, LIMIT, TestServer, eventually, within};
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest};
use tokio::sync::Notify;

/// A requester that would wait far longer than these tests do, and a worker behind a proxy.
struct Scene {
    proxy: FaultProxy,
    worker: Client,
    requester: Client,
    id: WorkerId,
    /// Lets the handler go on.
    go: Arc<Notify>,
    _server: TestServer,
}

impl Scene {
    async fn set() -> Self {
        let server = TestServer::start().await;
        let proxy = FaultProxy::start(&server).await;
        let patient = ClientOptions::default()
            .first_token_timeout(LIMIT * 10)
            .inter_token_timeout(LIMIT * 10)
            .offline_timeout(LIMIT * 10);
        let requester = server.client_with(patient).await;
        let worker = Client::connect(&proxy.in_front(server.config())).await.unwrap();
        Self { proxy, worker, requester, id: WorkerId::new(), go: Arc::default(), _server: server }
    }

    /// Serves with `before` tokens sent at once, and `after` of them when it may go on.
    async fn serve(&self, before: u64, after: u64) -> InferenceService {
        let go = Arc::clone(&self.go);
        let handler = move |_request, mut tokens: TokenSink| {
            let go = Arc::clone(&go);
            async move {
                for index in 0..before {
                    tokens.send(index.to_string()).await?;
                }
                go.notified().await;
                for index in before..before + after {
                    tokens.send(index.to_string()).await?;
                }
                Ok(FinishReason::Stop)
            }
        };
        self.worker.serve_inference(self.id, InferenceOptions::default(), handler).await.unwrap()
    }

    async fn ask(&self) -> TokenStream {
        self.requester.infer(self.id, &InferenceRequest::new("m", "p")).await.unwrap()
    }

    /// Cuts the worker's connection and waits for the next one.
    fn cut(&self) -> impl Future<Output = ()> {
        let mut state = self.worker.watch_state();
        let ConnectionState::Connected { epoch } = self.worker.state() else { panic!("{}", self.worker.state()) };
        self.proxy.cut();
        let later =
            move |state: &ConnectionState| matches!(state, ConnectionState::Connected { epoch: now } if *now > epoch);
        async move {
            within("the return", state.wait_for(later)).await.unwrap();
        }
    }
}

async fn tokens(stream: &mut TokenStream, count: u64) {
    for index in 0..count {
        assert_eq!(within("a token", stream.next()).await.unwrap().unwrap().index, index);
    }
}

async fn ends_as_disconnected(stream: &mut TokenStream, after: u64) {
    let error = within("the end", stream.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::StreamDisconnected { tokens: after });
    assert!(!error.is_retryable(), "tokens have been shown to somebody");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn s1_a_worker_that_lost_its_connection_ends_its_streams_when_it_is_back() {
    let scene = Scene::set().await;
    let _service = scene.serve(3, 1).await;
    let mut stream = scene.ask().await;
    tokens(&mut stream, 3).await;
    // The handler is never let go: it is the service that notices.
    scene.cut().await;
    ends_as_disconnected(&mut stream, 3).await;
    assert!(Arc::strong_count(&scene.go) <= 2, "the handler is still there");
}

#[tokio::test]
async fn s3_an_end_that_is_lost_with_the_connection_is_followed_by_an_error_on_the_next() {
    let scene = Scene::set().await;
    let _service = scene.serve(2, 0).await;
    let mut stream = scene.ask().await;
    tokens(&mut stream, 2).await;
    // From here on the end goes as far as the proxy.
    scene.proxy.stall();
    let sent = scene.proxy.sent_bytes();
    scene.go.notify_one();
    eventually("the end on its way", || scene.proxy.sent_bytes() > sent).await;
    let cut = scene.cut();
    scene.proxy.resume();
    cut.await;
    ends_as_disconnected(&mut stream, 2).await;
}

#[tokio::test]
async fn s1_a_stream_without_any_token_yet_survives_its_workers_reconnection() {
    let scene = Scene::set().await;
    let _service = scene.serve(0, 3).await;
    let mut stream = scene.ask().await;
    // Nobody can tell from outside when the handler waits, so the request makes a round trip first.
    scene.requester.flush(LIMIT).await.unwrap();
    scene.worker.flush(LIMIT).await.unwrap();
    scene.cut().await;
    scene.go.notify_one();
    tokens(&mut stream, 3).await;
    assert!(within("the end", stream.next()).await.is_none());
    assert_eq!(stream.summary().unwrap().finish_reason, Some(FinishReason::Stop));
}
