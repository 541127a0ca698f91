//! A worker's life in one call: what the bus hears of it, from its start to its farewell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mlx_errors::ErrorCode;
use mlx_nats::{Client, ClientOptions, Subscription, WorkerProfile};
use mlx_tests::{FaultProxy, LIMIT, TestServer, arrived, within};
use mlx_types::messages::{
    ClusterAnnouncement, ClusterEvent, FinishReason, InferenceRequest, WorkerDeregistration, WorkerHeartbeat,
    WorkerMetrics, WorkerMetricsReport, WorkerRegistration, WorkerStatus,
};
use mlx_types::{WorkerId, subjects};
use tokio::sync::Notify;

/// What a controller hears of workers.
struct Ears {
    registrations: Subscription<WorkerRegistration>,
    beats: Subscription<WorkerHeartbeat>,
    farewells: Subscription<WorkerDeregistration>,
}

impl Ears {
    async fn of(client: &Client) -> Self {
        Self {
            registrations: client.subscribe(&subjects::WORKER_REGISTER).await.unwrap(),
            beats: client.subscribe(&subjects::WORKER_HEARTBEAT).await.unwrap(),
            farewells: client.subscribe(&subjects::WORKER_DEREGISTER).await.unwrap(),
        }
    }

    async fn registration(&mut self) -> WorkerRegistration {
        within("a registration", self.registrations.next()).await.unwrap().unwrap().into_payload()
    }

    async fn beat(&mut self, wanted: impl Fn(&WorkerHeartbeat) -> bool) -> WorkerHeartbeat {
        within("the heartbeat", async {
            loop {
                let beat = self.beats.next().await.unwrap().unwrap().into_payload();
                if wanted(&beat) {
                    return beat;
                }
            }
        })
        .await
    }
}

fn often() -> ClientOptions {
    ClientOptions::default().heartbeat_interval(Duration::from_millis(50))
}

fn request() -> InferenceRequest {
    InferenceRequest::new("m", "one two three")
}

#[tokio::test]
async fn w1_a_worker_registers_with_all_it_is_and_again_whenever_someone_may_have_missed_it() {
    let server = TestServer::start().await;
    let (controller, client) = (server.client().await, server.client_with(often()).await);
    let mut ears = Ears::of(&controller).await;
    let id = WorkerId::new();
    let profile = WorkerProfile::new(id)
        .hostname("studio-1")
        .port(9090)
        .models(["m"])
        .max_concurrent(3)
        .available_memory_gb(96.0);
    let worker = client.worker(profile).serve(|_, _| async { Ok(FinishReason::Stop) }).await.unwrap();
    let first = ears.registration().await;
    assert_eq!((first.worker_id, first.hostname.as_str(), first.port), (id, "studio-1", 9090));
    assert!(first.ip.is_loopback(), "the address that the server sees: {}", first.ip);
    assert_eq!(
        (first.skills.available_models.as_slice(), first.status),
        (["m".to_owned()].as_slice(), WorkerStatus::Online)
    );
    assert_eq!(first.epoch, Some(worker.epoch()));
    let capabilities = first.capabilities.unwrap();
    assert_eq!((capabilities.max_concurrent, capabilities.available_memory_gb), (3, Some(96.0)));

    let started = ClusterAnnouncement::new(ClusterEvent::ControllerStarted);
    controller.publish(&subjects::CLUSTER_ANNOUNCE, &started).await.unwrap();
    assert_eq!(ears.registration().await.epoch, first.epoch, "at `controllerStarted`");

    worker.control().set_models(["m", "n"]);
    assert_eq!(ears.registration().await.skills.available_models, ["m", "n"], "at a change of models");
    worker.control().set_models(["m", "n"]);
    worker.control().set_loaded_models(["n"]);
    worker.control().set_status(WorkerStatus::Degraded);
    let mut registration = ears.registration().await;
    while registration.status != WorkerStatus::Degraded {
        registration = ears.registration().await;
    }
    let beat = ears.beat(|beat| beat.status == WorkerStatus::Degraded).await;
    assert_eq!((beat.epoch, beat.metrics.models_loaded.as_slice()), (first.epoch, ["n".to_owned()].as_slice()));
    worker.drain(LIMIT).await.unwrap();
}

/// Also one that comes before the worker has had a moment to look for any.
#[tokio::test]
async fn w1_a_change_right_after_the_start_is_told() {
    let server = TestServer::start().await;
    let (controller, client) = (server.client().await, server.client().await);
    let mut ears = Ears::of(&controller).await;
    let profile = WorkerProfile::new(WorkerId::new()).models(["m"]);
    let worker = client.worker(profile).serve(|_, _| async { Ok(FinishReason::Stop) }).await.unwrap();
    worker.control().set_models(["n"]);
    assert_eq!(ears.registration().await.skills.available_models, ["m"]);
    assert_eq!(ears.registration().await.skills.available_models, ["n"]);
    worker.drain(LIMIT).await.unwrap();
}

/// Each comes by a subscription of its own, so that only its time tells which was said last.
#[tokio::test]
async fn w1_a_farewell_is_dated_behind_all_that_was_said_before_it() {
    let server = TestServer::start().await;
    let (controller, client) = (server.client().await, server.client().await);
    for _ in 0..10 {
        let mut ears = Ears::of(&controller).await;
        let profile = WorkerProfile::new(WorkerId::new()).max_queued(usize::MAX); // no number of them is too large
        let worker = client.worker(profile).serve(|_, _| async { Ok(FinishReason::Stop) }).await.unwrap();
        ears.registration().await;
        worker.drain(LIMIT).await.unwrap();
        let farewell = within("a farewell", ears.farewells.next()).await.unwrap().unwrap().into_payload();
        while let Some(said) = ears.registrations.next().now_or_never() {
            assert!(said.unwrap().unwrap().into_payload().timestamp < farewell.timestamp, "it counts as a return");
        }
    }
}

/// A controller that was not there, and does not ask, learns of it in time.
#[tokio::test]
async fn w1_a_worker_registers_now_and_then_unasked() {
    let server = TestServer::start().await;
    let (controller, client) = (server.client().await, server.client().await);
    let profile = WorkerProfile::new(WorkerId::new()).register_interval(Duration::from_millis(50));
    let worker = client.worker(profile).serve(|_, _| async { Ok(FinishReason::Stop) }).await.unwrap();
    let mut ears = Ears::of(&controller).await;
    for _ in 0..3 {
        assert_eq!(ears.registration().await.epoch, Some(worker.epoch()));
    }
    worker.drain(LIMIT).await.unwrap();
}

/// Whoever knows its id may ask before that: the answer begins behind the registration.
#[tokio::test]
async fn w1_a_worker_is_registered_before_its_first_request_begins() {
    let server = TestServer::start().await;
    let foreign = server.foreign_client().await;
    let id = WorkerId::new();
    for _ in 0..10 {
        let (controller, client) = (server.client().await, server.client().await);
        // Not requests: who hears those counts as one who could answer.
        let mut seen = foreign.subscribe("*.*").await.unwrap();
        arrived(&foreign).await;
        let asking = tokio::spawn(async move {
            loop {
                let mut tokens = controller.infer(id, &request()).await.unwrap();
                if let Ok(token) = tokens.next().await.unwrap() {
                    return token.text;
                }
            }
        });
        let answer =
            |_, mut tokens: mlx_nats::TokenSink| async move { tokens.send("begun").await.map(|()| FinishReason::Stop) };
        let worker = client.worker(WorkerProfile::new(id)).serve(answer).await.unwrap();
        assert_eq!(within("an answer", asking).await.unwrap(), "begun");
        let first = within("either", async {
            loop {
                let subject = seen.next().await.unwrap().subject;
                if subject.as_str() == "worker.register" || subject.starts_with("response.") {
                    return subject;
                }
            }
        });
        assert_eq!(first.await.as_str(), "worker.register");
        worker.drain(LIMIT).await.unwrap();
    }
}

#[tokio::test]
async fn w1_after_a_reconnection_a_worker_registers_again() {
    let server = TestServer::start().await;
    let proxy = FaultProxy::before(server.embedded().client_addr()).await;
    let client = Client::connect_with(&proxy.in_front(server.config()), often()).await.unwrap();
    let controller = server.client().await;
    let mut ears = Ears::of(&controller).await;
    let profile = WorkerProfile::new(WorkerId::new());
    let worker = client.worker(profile).serve(|_, _| async { Ok(FinishReason::Stop) }).await.unwrap();
    let first = ears.registration().await;
    proxy.cut();
    assert_eq!(ears.registration().await.epoch, first.epoch);
    worker.drain(LIMIT).await.unwrap();
}

/// Figures are what the worker counted; those of the machine are asked of the source.
#[tokio::test]
async fn w1_heartbeats_tell_what_is_true() {
    let server = TestServer::start().await;
    let (controller, client) = (server.client().await, server.client_with(often()).await);
    let mut ears = Ears::of(&controller).await;
    let mut reports = controller.subscribe::<_, WorkerMetricsReport>(&subjects::METRICS_REPORT).await.unwrap();
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let worker = client
        .worker(WorkerProfile::new(WorkerId::new()))
        .figures(|| WorkerMetrics::default().cpu_usage_percent(42.0).active_requests(77))
        .serve(move |request, mut tokens| {
            let released = Arc::clone(&released);
            async move {
                for word in request.prompt.split_inclusive(' ') {
                    tokens.send(word).await?;
                }
                released.notified().await;
                Ok(FinishReason::Stop)
            }
        })
        .await
        .unwrap();
    let idle = ears.beat(|_| true).await.metrics;
    assert_eq!((idle.active_requests, idle.total_requests_handled, idle.cpu_usage_percent), (0, 0, 42.0));
    assert!(idle.models_loaded.is_empty(), "nothing is known to be loaded");
    let mut tokens = controller.infer(worker.id(), &request()).await.unwrap();
    let busy = ears.beat(|beat| beat.metrics.active_requests == 1).await;
    assert_eq!(busy.metrics.total_requests_handled, 0);
    within("its tokens a second", async {
        while reports.next().await.unwrap().unwrap().tokens_per_second.unwrap() == 0.0 {}
    })
    .await;
    release.notify_one();
    while let Some(token) = tokens.next().await {
        token.unwrap();
    }
    let done = ears.beat(|beat| beat.metrics.total_requests_handled == 1).await.metrics;
    assert_eq!(done.active_requests, 0);
    assert!(done.avg_latency_ms > 0.0);
    worker.drain(LIMIT).await.unwrap();
}

/// No new requests, those under way finish, the farewell is last.
#[tokio::test]
async fn w1_a_draining_worker_finishes_what_it_began_and_says_farewell_last() {
    let server = TestServer::start().await;
    let (controller, client) = (server.client().await, server.client_with(often()).await);
    let mut ears = Ears::of(&controller).await;
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let profile = WorkerProfile::new(WorkerId::new()).max_concurrent(2);
    let worker = client.worker(profile).serve(move |_, mut tokens| {
        let released = Arc::clone(&released);
        async move {
            tokens.send("begun").await?;
            released.notified().await;
            tokens.send(" ended").await?;
            Ok(FinishReason::Stop)
        }
    });
    let worker = worker.await.unwrap();
    let (id, epoch) = (worker.id(), worker.epoch());
    let mut running = controller.infer(id, &request()).await.unwrap();
    assert_eq!(within("the first token", running.next()).await.unwrap().unwrap().text, "begun");

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let life = tokio::spawn(worker.run_until(stopped, LIMIT));
    stop.send(()).unwrap();
    ears.beat(|beat| beat.status == WorkerStatus::Degraded).await;
    within("the refusal of a new request", async {
        loop {
            let mut new = controller.infer(id, &request()).await.unwrap();
            if let Err(error) = new.next().await.unwrap() {
                assert!(error.is_retryable(), "another worker may be asked: {error}");
                if error.code() == ErrorCode::NatsNoResponders {
                    break;
                }
            }
            drop(new);
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(futures_util::FutureExt::now_or_never(ears.farewells.next()).is_none(), "it has not left yet");
    release.notify_waiters();
    release.notify_one();
    assert_eq!(within("the rest", running.next()).await.unwrap().unwrap().text, " ended");
    assert!(within("the end", running.next()).await.is_none());
    within("its life", life).await.unwrap().unwrap();
    let farewell = within("the farewell", ears.farewells.next()).await.unwrap().unwrap().into_payload();
    assert_eq!((farewell.worker_id, farewell.epoch), (id, Some(epoch)));
    // Nothing of it comes behind.
    let foreign = server.foreign_client().await;
    arrived(&foreign).await;
    while let Some(beat) = futures_util::FutureExt::now_or_never(ears.beats.next()) {
        assert!(beat.unwrap().unwrap().timestamp <= farewell.timestamp);
    }
}

#[tokio::test]
async fn w1_a_request_that_does_not_end_keeps_nobody_from_leaving() {
    let server = TestServer::start().await;
    let (controller, client) = (server.client().await, server.client_with(often()).await);
    let mut ears = Ears::of(&controller).await;
    let worker = client
        .worker(WorkerProfile::new(WorkerId::new()))
        .serve(|_, mut tokens| async move {
            tokens.send("begun").await?;
            std::future::pending().await
        })
        .await
        .unwrap();
    let mut running = controller.infer(worker.id(), &request()).await.unwrap();
    within("the first token", running.next()).await.unwrap().unwrap();
    let late = within("the end", worker.drain(Duration::from_millis(100))).await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::NatsTimeout);
    within("the farewell", ears.farewells.next()).await.unwrap().unwrap();
    let error = within("the end of the stream", running.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::WorkerLost, "{error}");
}

/// The older of two with one id is told, and says why it stops; it does not say farewell in the name of the other.
#[tokio::test]
async fn w2_the_older_of_two_workers_with_one_id_ends_with_the_reason() {
    let server = TestServer::start().await;
    let (controller, older, newer) =
        (server.client().await, server.client_with(often()).await, server.client_with(often()).await);
    let mut ears = Ears::of(&controller).await;
    let id = WorkerId::new();
    let serve = |client: Client| async move {
        client.worker(WorkerProfile::new(id)).serve(|_, _| async { Ok(FinishReason::Stop) }).await.unwrap()
    };
    let first = serve(older).await;
    let second = serve(newer).await;
    let told = within("the word", first.run_until(std::future::pending::<()>(), LIMIT)).await.unwrap_err();
    assert_eq!(told.code(), ErrorCode::WorkerDuplicate);
    ears.beat(|beat| beat.epoch == Some(second.epoch())).await;
    assert!(futures_util::FutureExt::now_or_never(ears.farewells.next()).is_none());
    second.drain(LIMIT).await.unwrap();
}
