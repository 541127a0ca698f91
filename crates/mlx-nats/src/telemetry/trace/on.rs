//! `tracing` spans, in the context of OpenTelemetry where its layer is installed.

use std::future::Future;

use futures_util::FutureExt;
use mlx_errors::{Error, Result};
use mlx_types::RequestId;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, global};
use tracing::field::Empty;
use tracing::{Instrument, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::Carrier;

/// One operation, from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Span(tracing::Span);

/// A span by the conventions for messaging. Its name has no subject in it, because names are what spans are grouped by.
macro_rules! span {
    ($name:literal, $kind:literal, $subject:expr $(, $($fields:tt)+)?) => {
        Span(info_span!(
            $name,
            otel.kind = $kind,
            otel.status_code = Empty,
            messaging.system = "nats",
            messaging.destination.name = $subject,
            error.r#type = Empty,
            $($($fields)+)?
        ))
    };
}

impl Span {
    pub(crate) fn publish(subject: &str) -> Self {
        span!("publish", "producer", subject)
    }

    pub(crate) fn request(subject: &str) -> Self {
        span!("request", "client", subject)
    }

    pub(crate) fn infer(subject: &str, request_id: RequestId) -> Self {
        span!("infer", "client", subject, mlx.request_id = %request_id)
    }

    /// The span of a handler. Its parent is the one named in the message's headers; an invalid name is ignored.
    pub(crate) fn serve(message: &async_nats::Message) -> Self {
        let span = span!("serve", "server", message.subject.as_str());
        if let Some(headers) = &message.headers {
            let context = global::get_text_map_propagator(|propagator| {
                propagator.extract_with_context(&Context::new(), &Incoming(headers))
            });
            if is_valid(&context) {
                // An error means that OpenTelemetry does not see this span, and then it needs no parent either.
                let _ = span.0.set_parent(context);
            }
        }
        span
    }

    /// The headers that let a peer go on with this span, where there is a trace to go on with.
    pub(crate) fn headers<C: Carrier>(&self) -> Option<C> {
        let mut headers = C::default();
        self.inject(&mut headers);
        (!headers.is_empty()).then_some(headers)
    }

    pub(crate) fn inject(&self, headers: &mut impl Carrier) {
        let mut context = self.0.context();
        if !is_valid(&context) {
            // This span may be filtered out where the one around it is not.
            context = tracing::Span::current().context();
        }
        if is_valid(&context) {
            global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut Outgoing(headers)));
        }
    }

    /// Runs `future` inside the span, and notes how it ended.
    pub(crate) fn around<T, F>(&self, future: F) -> impl Future<Output = Result<T>> + use<T, F>
    where
        F: Future<Output = Result<T>>,
    {
        let span = self.0.clone();
        let noted = future.map(move |result| {
            note(&span, result.as_ref().err());
            result
        });
        noted.instrument(self.0.clone())
    }

    /// Ends the span here, for those that are kept beyond their end.
    pub(crate) fn end(&mut self, error: Option<&Error>) {
        note(&std::mem::replace(&mut self.0, tracing::Span::none()), error);
    }
}

fn note(span: &tracing::Span, error: Option<&Error>) {
    if let Some(error) = error {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", error.code().as_str());
    }
}

fn is_valid(context: &Context) -> bool {
    context.span().span_context().is_valid()
}

struct Outgoing<'a, C>(&'a mut C);

impl<C: Carrier> Injector for Outgoing<'_, C> {
    fn set(&mut self, name: &str, value: String) {
        // An empty `tracestate` says nothing, but would cost a line.
        if !value.is_empty() && !self.0.carry(name, value) {
            tracing::debug!(name, "a trace context does not fit into a header");
        }
    }
}

struct Incoming<'a>(&'a async_nats::HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        // NATS keeps the case of names; some peers write them as HTTP libraries do, `Traceparent`.
        let mut headers = self.0.iter();
        let (_, values) = headers.find(|(found, _)| AsRef::<str>::as_ref(*found).eq_ignore_ascii_case(name))?;
        values.first().map(async_nats::HeaderValue::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).collect()
    }
}
