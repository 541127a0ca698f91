//! What the feature `metrics` counts, against a real server and a real recorder.
#![cfg(feature = "observe")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::float_cmp, reason = "counts are whole numbers, which are exact")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use futures_util::StreamExt;
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, LocalRecorderGuard, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};
use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use mlx_errors::{Error, ErrorCode, ErrorKind};
use mlx_nats::{
    Client, ConnectionState, InferenceOptions, RequestManyOptions, RequestOptions, ServeOptions, SubscribeOptions,
};
use mlx_tests::{FaultProxy, TestServer, eventually, within};
use mlx_types::config::PublishWhileDisconnected;
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{WorkerId, subjects};
use serde_json::{Value, json};

/// Everything recorded by this thread, on whose runtime a test runs as a whole.
struct Recorded {
    snapshotter: Snapshotter,
    /// A snapshot takes the values out; here they add up again.
    values: RefCell<BTreeMap<String, Values>>,
    _guard: LocalRecorderGuard<'static>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Values {
    sum: f64,
    count: usize,
}

impl Recorded {
    fn begin() -> Self {
        let recorder = Box::leak(Box::new(DebuggingRecorder::new()));
        let snapshotter = recorder.snapshotter();
        let guard = set_default_local_recorder(recorder);
        Self { snapshotter, values: RefCell::default(), _guard: guard }
    }

    /// The sum of a counter or gauge, or what a histogram recorded in all; 0 where nothing was.
    fn sum(&self, series: &str) -> f64 {
        self.look().get(series).copied().unwrap_or_default().sum
    }

    /// How often a histogram was recorded to.
    fn count(&self, series: &str) -> usize {
        self.look().get(series).copied().unwrap_or_default().count
    }

    /// All series whose name begins so, with their values: `name{label=value}`.
    fn series(&self, name: &str) -> Vec<(String, f64)> {
        let all = self.look();
        let wanted = all.iter().filter(|(series, values)| series.starts_with(name) && values.sum != 0.0);
        wanted.map(|(series, values)| (series.clone(), values.sum)).collect()
    }

    fn look(&self) -> BTreeMap<String, Values> {
        let mut values = self.values.borrow_mut();
        for (key, _, description, value) in self.snapshotter.snapshot().into_vec() {
            let (kind, key) = key.into_parts();
            let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect::<Vec<_>>();
            let series = match labels.as_slice() {
                [] => key.name().to_owned(),
                labels => format!("{}{{{}}}", key.name(), labels.join(",")),
            };
            assert!(description.is_some(), "{series} is not described");
            let entry = values.entry(series).or_default();
            match value {
                DebugValue::Counter(value) => entry.sum += f64::from(u32::try_from(value).unwrap()),
                DebugValue::Gauge(value) => entry.sum += value.into_inner(),
                DebugValue::Histogram(recorded) => {
                    assert_eq!(kind, MetricKind::Histogram);
                    entry.count += recorded.len();
                    entry.sum += recorded.iter().map(|value| value.into_inner()).sum::<f64>();
                }
            }
        }
        values.clone()
    }
}

#[tokio::test]
async fn messages_and_their_bytes_are_counted_both_ways() {
    let recorded = Recorded::begin();
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut messages = client.subscribe::<_, Value>("lab.test").await.unwrap();
    client.publish("lab.test", &json!({ "a": 1 })).await.unwrap();
    client.publish_all("lab.test", &[json!(22), json!(333)]).await.unwrap();
    for _ in 0..3 {
        within("a message", messages.next()).await.unwrap().unwrap();
    }
    let bytes = f64::from(u8::try_from(r#"{"a":1}"#.len() + "22".len() + "333".len()).unwrap());
    assert_eq!(recorded.sum("mlx_nats_published_messages_total"), 3.0);
    assert_eq!(recorded.sum("mlx_nats_published_bytes_total"), bytes);
    assert_eq!(recorded.sum("mlx_nats_received_messages_total"), 3.0);
    assert_eq!(recorded.sum("mlx_nats_received_bytes_total"), bytes);
}

#[tokio::test]
async fn requests_are_counted_by_outcome_and_timed() {
    let recorded = Recorded::begin();
    let server = TestServer::start().await;
    let client = server.client().await;
    let echo = |asked: mlx_nats::Request<Value>| async move { Ok(asked.payload) };
    let _fine = client.serve("lab.echo", echo).await.unwrap();
    let full = ServeOptions::default().max_concurrent(0);
    let _full = client.serve_with("lab.full", full, echo).await.unwrap();
    let _silent = client.subscribe::<_, Value>("lab.silent").await.unwrap();

    let ask = |subject: &'static str| {
        let client = client.clone();
        async move { client.request::<_, _, Value>(subject, &json!(1)).await }
    };
    ask("lab.echo").await.unwrap();
    mlx_tests::ask_all::<_, _, Value>(&client, "lab.echo", &json!(1), RequestManyOptions::default().max_responses(1))
        .await
        .unwrap();
    assert_eq!(ask("lab.full").await.unwrap_err().code(), ErrorCode::Overloaded);
    assert_eq!(ask("lab.nobody").await.unwrap_err().code(), ErrorCode::NatsNoResponders);
    let briefly = RequestOptions::default().timeout(Duration::from_millis(20));
    client.request_with::<_, _, Value>("lab.silent", &json!(1), briefly).await.unwrap_err();
    tokio::time::timeout(Duration::from_millis(20), ask("lab.silent")).await.unwrap_err();

    assert_eq!(
        recorded.series("mlx_nats_requests_total"),
        [
            ("mlx_nats_requests_total{outcome=NATS_NO_RESPONDERS}".to_owned(), 1.0),
            ("mlx_nats_requests_total{outcome=NATS_TIMEOUT_ERROR}".to_owned(), 1.0),
            ("mlx_nats_requests_total{outcome=OVERLOADED}".to_owned(), 1.0),
            ("mlx_nats_requests_total{outcome=dropped}".to_owned(), 1.0),
            ("mlx_nats_requests_total{outcome=ok}".to_owned(), 2.0),
        ]
    );
    assert_eq!(recorded.count("mlx_nats_request_duration_seconds"), 6);
    // Two of them waited 20 ms each, and none of them took anything like a minute.
    let seconds = recorded.sum("mlx_nats_request_duration_seconds");
    assert!((0.04..60.0).contains(&seconds), "{seconds}");
    assert_eq!(recorded.sum("mlx_nats_refused_requests_total{code=OVERLOADED}"), 1.0);
    eventually("the handlers' end", || recorded.sum("mlx_nats_handlers_running{service=request}") == 0.0).await;
    assert_eq!(recorded.count("mlx_nats_handler_duration_seconds{service=request}"), 2);
}

#[tokio::test]
async fn streams_are_counted_by_their_one_ending() {
    let recorded = Recorded::begin();
    let server = TestServer::start().await;
    let (client, worker) = (server.client().await, server.client().await);
    let id = WorkerId::new();
    let service = worker
        .serve_inference(id, InferenceOptions::default(), |request, mut tokens| async move {
            tokens.send("one").await?;
            match request.prompt.as_str() {
                "wait" => Err(tokens.cancelled().await),
                "fail" => Err(Error::new(ErrorKind::Internal { reason: "by request".to_owned() })),
                _ => {
                    tokens.send("two").await?;
                    Ok(FinishReason::Stop)
                }
            }
        })
        .await
        .unwrap();

    let finished = client.infer(id, &InferenceRequest::new("m", "finish")).await.unwrap();
    assert_eq!(within("the end", finished.count()).await, 2);
    let mut killed = client.infer(id, &InferenceRequest::new("m", "wait")).await.unwrap();
    within("a token", killed.next()).await.unwrap().unwrap();
    assert_eq!(recorded.sum("mlx_nats_streams_running"), 1.0);
    assert_eq!(recorded.sum("mlx_nats_handlers_running{service=inference}"), 1.0);
    killed.kill().await.unwrap();
    let mut dropped = client.infer(id, &InferenceRequest::new("m", "wait")).await.unwrap();
    within("a token", dropped.next()).await.unwrap().unwrap();
    drop(dropped);
    let failed = client.infer(id, &InferenceRequest::new("m", "fail")).await.unwrap();
    assert_eq!(within("the end", failed.count()).await, 2);
    let unheard = client.infer(WorkerId::new(), &InferenceRequest::new("m", "p")).await.unwrap();
    assert_eq!(within("the end", unheard.count()).await, 1);
    service.stop(Duration::from_secs(20)).await.unwrap();

    assert_eq!(
        recorded.series("mlx_nats_streams_total"),
        [
            ("mlx_nats_streams_total{outcome=INTERNAL_ERROR}".to_owned(), 1.0),
            ("mlx_nats_streams_total{outcome=NATS_NO_RESPONDERS}".to_owned(), 1.0),
            ("mlx_nats_streams_total{outcome=STREAM_CANCELLED}".to_owned(), 1.0),
            ("mlx_nats_streams_total{outcome=dropped}".to_owned(), 1.0),
            ("mlx_nats_streams_total{outcome=ok}".to_owned(), 1.0),
        ]
    );
    drop(killed); // ended already: it must not count again
    assert_eq!(recorded.sum("mlx_nats_streams_total{outcome=dropped}"), 1.0);
    assert_eq!(recorded.sum("mlx_nats_streams_running"), 0.0);
    assert_eq!(recorded.count("mlx_nats_stream_duration_seconds"), 5);
    assert_eq!(recorded.count("mlx_nats_stream_first_token_seconds"), 4);
    assert_eq!(recorded.sum("mlx_nats_stream_tokens_total"), 5.0);
    assert_eq!(recorded.count("mlx_nats_handler_duration_seconds{service=inference}"), 4);
    assert_eq!(recorded.sum("mlx_nats_handlers_running{service=inference}"), 0.0);
    assert_eq!(recorded.sum("mlx_nats_refused_requests_total{code=INTERNAL_ERROR}"), 1.0);
}

#[tokio::test]
async fn what_cannot_be_read_and_what_is_dropped_is_counted() {
    let recorded = Recorded::begin();
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut checks = client.subscribe(&subjects::HEALTH_RESPONSE).await.unwrap();
    client.publish("health.response", &json!({ "workerId": "nobody" })).await.unwrap();
    within("the error", checks.next()).await.unwrap().unwrap_err();
    assert_eq!(recorded.sum("mlx_nats_decode_errors_total{code=MESSAGE_DECODE_ERROR}"), 1.0);

    let options = SubscribeOptions::default().capacity(2);
    let slow = client.subscribe_with::<_, Value>("lab.flood", options).await.unwrap();
    client.publish_all("lab.flood", &vec![json!(1); 10]).await.unwrap();
    eventually("the drops", || slow.dropped() == 8).await;
    assert_eq!(recorded.sum("mlx_nats_dropped_messages_total"), 8.0);
}

#[tokio::test]
async fn connections_are_counted_by_state_and_by_how_they_end() {
    let recorded = Recorded::begin();
    let server = TestServer::start().await;
    let proxy = FaultProxy::start(&server).await;
    let mut config = proxy.in_front(server.config());
    config.publish_while_disconnected = PublishWhileDisconnected::Buffer;
    let client = Client::connect(&config).await.unwrap();
    let other = server.client().await;
    assert_eq!(recorded.series("mlx_nats_connections{"), [("mlx_nats_connections{state=connected}".to_owned(), 2.0)]);
    drop(other);
    eventually("the other's end", || recorded.sum("mlx_nats_connections{state=connected}") == 1.0).await;

    let mut state = client.watch_state();
    proxy.refuse(true);
    proxy.cut();
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    client.publish("lab.test", &json!(1)).await.unwrap();
    assert_eq!(recorded.sum("mlx_nats_connections{state=connected}"), 0.0);
    assert_eq!(recorded.sum("mlx_nats_published_messages_total"), 0.0, "kept, not published");
    proxy.refuse(false);
    within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
    eventually("the count", || recorded.sum("mlx_nats_reconnects_total") == 1.0).await;
    assert_eq!(recorded.series("mlx_nats_connections{"), [("mlx_nats_connections{state=connected}".to_owned(), 1.0)]);
    assert_eq!(recorded.sum("mlx_nats_published_messages_total"), 1.0);

    client.shutdown(Duration::from_secs(20)).await.unwrap();
    eventually("the end", || recorded.series("mlx_nats_connections{").is_empty()).await;
    assert_eq!(recorded.sum("mlx_nats_closed_connections_total{reason=shut_down}"), 1.0);
}

#[tokio::test]
async fn every_name_is_in_the_readme_and_no_other() {
    let names = Box::leak(Box::<Names>::default());
    let _guard = set_default_local_recorder(names);
    let _client = TestServer::start().await.client().await;
    let readme = include_str!("../../crates/mlx-nats/README.md");
    let documented = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `mlx_nats_"))
        .map(|line| format!("mlx_nats_{}", line.split('`').next().unwrap()))
        .collect();
    assert_eq!(*names.0.lock().unwrap(), documented);
}

/// The names described, whether or not anything was recorded under them.
#[derive(Default)]
struct Names(Mutex<BTreeSet<String>>);

impl Names {
    fn note(&self, name: &KeyName) {
        self.0.lock().unwrap().insert(name.as_str().to_owned());
    }
}

impl Recorder for Names {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        assert!(name.as_str().ends_with("_total"), "{name:?}");
        self.note(&name);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.note(&name);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        assert!(name.as_str().ends_with("_seconds"), "{name:?}");
        self.note(&name);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
