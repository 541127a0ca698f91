//! Spans that go on at the peer, by W3C trace context in the headers, where the feature `otel` is on.
//!
//! `off` is the same interface doing nothing, so that a place with a span needs no `cfg`.

#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod on;

#[cfg(not(feature = "otel"))]
pub(crate) use off::Span;
#[cfg(feature = "otel")]
pub(crate) use on::Span;
