//! What the feature `otel` carries from one node to another, over a real server.
#![cfg(feature = "observe")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind};
use mlx_nats::{Headers, InferenceOptions, Request, RequestManyOptions};
use mlx_tests::{TestServer, within};
use mlx_types::WorkerId;
use mlx_types::messages::{FinishReason, InferenceRequest};
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceContextExt, TraceId, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData};
use serde_json::{Value, json};
use tracing::subscriber::DefaultGuard;
use tracing::{Instrument, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt as _;

/// The traces of this thread, on whose runtime a test runs as a whole.
struct Traces {
    exporter: InMemorySpanExporter,
    _provider: SdkTracerProvider,
    _guard: DefaultGuard,
}

impl Traces {
    fn begin(sampler: Sampler) -> Self {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let exporter = InMemorySpanExporter::default();
        let provider =
            SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).with_sampler(sampler).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        Self { exporter, _provider: provider, _guard: guard }
    }

    /// The spans of that name that have ended.
    fn ended(&self, name: &str) -> Vec<SpanData> {
        let spans = self.exporter.get_finished_spans().unwrap();
        spans.into_iter().filter(|span| span.name == name).collect()
    }

    fn one(&self, name: &str) -> SpanData {
        let mut spans = self.ended(name);
        assert_eq!(spans.len(), 1, "{name}: {spans:?}");
        spans.remove(0)
    }
}

/// The trace that the caller is in, and the innermost span of it.
fn current() -> (TraceId, SpanId) {
    let context = tracing::Span::current().context();
    let span = context.span();
    (span.span_context().trace_id(), span.span_context().span_id())
}

/// Remembers where a handler was called.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Option<(TraceId, SpanId)>>>);

impl Seen {
    fn note(&self) {
        *self.0.lock().unwrap() = Some(current());
    }

    fn get(&self) -> (TraceId, SpanId) {
        self.0.lock().unwrap().expect("the handler was called")
    }
}

/// A foreign subscriber of everything below `lab.`.
async fn foreign(server: &TestServer) -> async_nats::Subscriber {
    let client = server.foreign_client().await;
    let subscriber = client.subscribe("lab.>").await.unwrap();
    // A round trip of async-nats: a request to nobody comes back as soon as the server has seen what was before it.
    client.request("nobody.listens.here", "".into()).await.unwrap_err();
    subscriber
}

async fn next(subscriber: &mut async_nats::Subscriber) -> async_nats::Message {
    within("a message", subscriber.next()).await.unwrap()
}

fn header<'a>(message: &'a async_nats::Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
}

#[tokio::test]
async fn a_request_takes_its_trace_to_the_handler() {
    let traces = Traces::begin(Sampler::AlwaysOn);
    let server = TestServer::start().await;
    let (client, other) = (server.client().await, server.client().await);
    let seen = Seen::default();
    let noting = seen.clone();
    let _service = other
        .serve("lab.ask", move |request: Request<Value>| {
            noting.note();
            async move {
                match request.payload {
                    Value::Null => Err(Error::new(ErrorKind::Overloaded { limit: 7 })),
                    other => Ok(other),
                }
            }
        })
        .await
        .unwrap();

    let root = info_span!("root");
    let (trace, root_id) = root.in_scope(current);
    client.request::<_, _, Value>("lab.ask", &json!(1)).instrument(root.clone()).await.unwrap();
    let (request, serve) = (traces.one("request"), traces.one("serve"));
    assert_eq!((request.span_context.trace_id(), request.parent_span_id), (trace, root_id));
    assert_eq!((serve.span_context.trace_id(), serve.parent_span_id), (trace, request.span_context.span_id()));
    assert!(serve.parent_span_is_remote);
    assert_eq!(seen.get(), (trace, serve.span_context.span_id()));
    assert_eq!((request.span_kind, serve.span_kind), (SpanKind::Client, SpanKind::Server));
    assert_eq!((&request.status, &serve.status), (&Status::Unset, &Status::Unset));

    traces.exporter.reset();
    client.request::<_, _, Value>("lab.ask", &Value::Null).instrument(root.clone()).await.unwrap_err();
    for span in [traces.one("request"), traces.one("serve")] {
        assert!(matches!(span.status, Status::Error { .. }), "{span:?}");
        let code = span.attributes.iter().find(|attribute| attribute.key.as_str() == "error.type");
        assert_eq!(code.unwrap().value.as_str(), "OVERLOADED");
    }

    traces.exporter.reset();
    let one = RequestManyOptions::default().max_responses(1);
    mlx_tests::ask_all::<_, _, Value>(&client, "lab.ask", &json!(1), one).instrument(root).await.unwrap();
    assert_eq!(traces.one("serve").parent_span_id, traces.one("request").span_context.span_id());
    assert_eq!(seen.get().0, trace);
}

#[tokio::test]
async fn a_stream_takes_its_trace_to_the_handler_and_is_one_span() {
    let traces = Traces::begin(Sampler::AlwaysOn);
    let server = TestServer::start().await;
    let (client, worker) = (server.client().await, server.client().await);
    let (seen, id) = (Seen::default(), WorkerId::new());
    let noting = seen.clone();
    let _service = worker
        .serve_inference(id, InferenceOptions::default(), move |request, mut tokens| {
            let noting = noting.clone();
            async move {
                for word in request.prompt.split(' ') {
                    tokens.send(word).await?;
                }
                noting.note();
                if request.prompt == "fail" {
                    return Err(Error::new(ErrorKind::Internal { reason: "by request".to_owned() }));
                }
                Ok(FinishReason::Stop)
            }
        })
        .await
        .unwrap();

    let root = info_span!("root");
    let trace = root.in_scope(current).0;
    let asked = InferenceRequest::new("m", "one two three four");
    let mut stream = client.infer(id, &asked).instrument(root.clone()).await.unwrap();
    assert!(traces.ended("infer").is_empty(), "a span that ends before its stream");
    while let Some(frame) = within("a frame", stream.next()).await {
        frame.unwrap();
    }
    // The stream is still there, but it has ended.
    let (infer, serve) = (traces.one("infer"), traces.one("serve"));
    assert_eq!(infer.span_context.trace_id(), trace);
    assert_eq!((serve.span_context.trace_id(), serve.parent_span_id), (trace, infer.span_context.span_id()));
    assert_eq!(seen.get(), (trace, serve.span_context.span_id()));
    assert!(traces.ended("publish").is_empty(), "a span for each token");

    traces.exporter.reset();
    let failing = client.infer(id, &InferenceRequest::new("m", "fail")).await.unwrap();
    assert_eq!(within("the end", failing.count()).await, 2);
    for span in [traces.one("infer"), traces.one("serve")] {
        assert!(matches!(span.status, Status::Error { .. }), "{span:?}");
    }
}

#[tokio::test]
async fn what_is_published_tells_of_its_trace_and_keeps_its_own_headers() {
    let traces = Traces::begin(Sampler::AlwaysOn);
    let server = TestServer::start().await;
    let (client, mut wire) = (server.client().await, foreign(&server).await);
    let mut own = Headers::new();
    own.set("Own", "kept").unwrap();
    client.publish("lab.a", &json!(1)).await.unwrap();
    client.publish_with_headers("lab.b", &json!(1), own).await.unwrap();
    client.publish_all("lab.c", &[json!(1), json!(2)]).await.unwrap();
    let messages = [next(&mut wire).await, next(&mut wire).await, next(&mut wire).await, next(&mut wire).await];
    let spans = traces.ended("publish");
    assert_eq!(spans.len(), 3, "one for each call: {spans:?}");
    for (message, span) in messages.iter().zip([&spans[0], &spans[1], &spans[2], &spans[2]]) {
        let (trace, id) = (span.span_context.trace_id(), span.span_context.span_id());
        assert_eq!(header(message, "traceparent"), Some(format!("00-{trace}-{id}-01").as_str()));
        assert_eq!(header(message, "tracestate"), None, "a header that says nothing");
    }
    assert_eq!(header(&messages[1], "Own"), Some("kept"));
}

#[tokio::test]
async fn a_trace_that_is_not_sampled_says_so_to_the_peer() {
    let _traces = Traces::begin(Sampler::AlwaysOff);
    let server = TestServer::start().await;
    let (client, mut wire) = (server.client().await, foreign(&server).await);
    let root = info_span!("root");
    let trace = root.in_scope(current).0;
    client.publish("lab.a", &json!(1)).instrument(root).await.unwrap();
    let parent = next(&mut wire).await;
    let parent = header(&parent, "traceparent").unwrap();
    assert!(parent.starts_with(&format!("00-{trace}-")) && parent.ends_with("-00"), "{parent}");
}

#[tokio::test]
async fn without_a_subscriber_no_header_is_written() {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let server = TestServer::start().await;
    let (client, mut wire) = (server.client().await, foreign(&server).await);
    client.publish("lab.a", &json!(1)).await.unwrap();
    client.publish_all("lab.a", &[json!(1)]).await.unwrap();
    let many = RequestManyOptions::default().max_responses(0);
    mlx_tests::ask_all::<_, _, Value>(&client, "lab.a", &json!(1), many).await.unwrap();
    let asking = tokio::spawn(async move { client.request::<_, _, Value>("lab.a", &json!(1)).await });
    for _ in 0..4 {
        let message = next(&mut wire).await;
        assert!(message.headers.is_none(), "{:?}", message.headers);
    }
    asking.abort();
}

#[tokio::test]
async fn a_trace_context_that_is_none_is_ignored() {
    let _traces = Traces::begin(Sampler::AlwaysOn);
    let server = TestServer::start().await;
    let client = server.client().await;
    let seen = Seen::default();
    let noting = seen.clone();
    let _service = client
        .serve("lab.ask", move |request: Request<Value>| {
            noting.note();
            async move { Ok(request.payload) }
        })
        .await
        .unwrap();
    let foreign = server.foreign_client().await;
    let ask = async |name: &'static str, text: &str| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(name, text);
        headers.insert("tracestate", "=,=,");
        let answer = foreign.request_with_headers("lab.ask", headers, "1".into()).await.unwrap();
        assert_eq!(answer.payload, "1");
        seen.get()
    };

    let id = "0af7651916cd43dd8448eb211c80319c";
    let valid = format!("00-{id}-b7ad6b7169203331-01");
    assert_eq!(ask("traceparent", &valid).await.0.to_string(), id);
    assert_eq!(ask("Traceparent", &valid).await.0.to_string(), id, "in the case of HTTP libraries");
    for malformed in [
        "",
        "-",
        "00",
        "garbage",
        &valid[3..],
        &valid.to_uppercase(),
        &valid.replace("00-", "ff-"),
        &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
        &format!("00-{id}-{}-01", "0".repeat(16)),
        &"00-".repeat(10_000),
        "00-äöü-b7ad6b7169203331-01",
    ] {
        let (trace, _) = ask("traceparent", malformed).await;
        assert_ne!(trace.to_string(), id, "{malformed}");
        assert_ne!(trace, TraceId::INVALID, "a trace of its own begins");
    }
}
