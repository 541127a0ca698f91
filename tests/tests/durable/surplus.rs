//! Requests that come to a worker which has no room for them, because a pull that it gave up was answered late.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use mlx_nats::{Client, InferenceOptions, InferenceService};
use mlx_tests::{millis, within};
use mlx_types::WorkerId;
use mlx_types::messages::FinishReason;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::{CONSUMER, MODEL, Server, drain, handed_out, queued, request, taken};

/// Far more than these tests hold a worker up, so that nothing comes to it a second time.
fn patient(settings: &mut mlx_types::config::DurableConfig) {
    settings.ack_wait_ms = millis(3_600_000);
}

/// What workers pull with, and so the place where requests come to them.
struct Pulls {
    foreign: async_nats::Client,
    seen: Subscriber,
}

impl Pulls {
    async fn watch(server: &Server) -> Self {
        let foreign = server.server.foreign_client().await;
        let seen = foreign.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
        Self { foreign, seen }
    }

    /// Has the worker be handed one more request than it asked for.
    async fn one_more(&mut self) {
        let pull = within("a pull", self.seen.next()).await.unwrap();
        let inbox = pull.reply.unwrap();
        let late = format!("{}.late", inbox.rsplit_once('.').unwrap().0);
        let ask = r#"{"batch":1,"expires":60000000000}"#.into();
        self.foreign.publish_with_reply(pull.subject, late, ask).await.unwrap();
    }
}

/// A worker with one place that says which request it begins, and answers it when it is told to.
struct OneByOne {
    begins: UnboundedReceiver<String>,
    answer: Arc<Semaphore>,
    _service: InferenceService,
}

impl OneByOne {
    async fn serve(client: &Client) -> Self {
        let (sender, begins) = unbounded_channel();
        let answer = Arc::new(Semaphore::new(0));
        let told = answer.clone();
        let one = InferenceOptions::default().max_concurrent(1);
        let service = client.serve_durable(WorkerId::new(), [MODEL], one, move |request, mut tokens| {
            let (sender, told) = (sender.clone(), told.clone());
            async move {
                sender.send(request.prompt.clone()).unwrap();
                told.acquire().await.unwrap().forget();
                tokens.send(request.prompt).await?;
                Ok(FinishReason::Stop)
            }
        });
        Self { begins, answer, _service: service.await.unwrap() }
    }

    async fn begun(&mut self) -> String {
        within("the beginning of a request", self.begins.recv()).await.unwrap()
    }
}

#[tokio::test]
async fn a_pull_answered_late_leaves_no_request_without_signs_of_life_but_its_own() {
    let server = Server::start().await;
    let (client, worker) = (server.client_with(patient).await, server.client_with(patient).await);
    let mut streams = Vec::new();
    for prompt in ["a", "b", "c", "d"] {
        streams.push(client.infer_durable(&request(prompt)).await.unwrap());
    }
    let mut pulls = Pulls::watch(&server).await;
    let mut one_by_one = OneByOne::serve(&worker).await;
    assert_eq!(one_by_one.begun().await, "a");
    pulls.one_more().await;
    taken(&client, CONSUMER, 2).await;
    for prompt in ["b", "c"] {
        one_by_one.answer.add_permits(1);
        assert_eq!(one_by_one.begun().await, prompt);
        // What the worker asked for meanwhile has reached the server.
        worker.flush(Duration::from_secs(5)).await.unwrap();
        assert_eq!(handed_out(&client, CONSUMER).await, 1, "only what is being run");
    }
    one_by_one.answer.add_permits(2);
    for (stream, prompt) in streams.into_iter().zip(["a", "b", "c", "d"]) {
        assert_eq!(drain(stream).await.text(), prompt);
    }
    queued(&client, 0).await;
}

#[tokio::test]
async fn s2_a_request_cancelled_between_its_worker_and_the_handler_is_never_run() {
    let server = Server::start().await;
    let (client, worker) = (server.client_with(patient).await, server.client_with(patient).await);
    let first = client.infer_durable(&request("first")).await.unwrap();
    let mut cancelled = client.infer_durable(&request("cancelled")).await.unwrap();
    let mut pulls = Pulls::watch(&server).await;
    let mut one_by_one = OneByOne::serve(&worker).await;
    assert_eq!(one_by_one.begun().await, "first");
    pulls.one_more().await;
    taken(&client, CONSUMER, 2).await;
    cancelled.kill().await.unwrap();
    let next = client.infer_durable(&request("next")).await.unwrap();
    one_by_one.answer.add_permits(2);
    assert_eq!(one_by_one.begun().await, "next");
    assert_eq!((drain(first).await.text().as_str(), drain(next).await.text().as_str()), ("first", "next"));
    queued(&client, 0).await;
}
