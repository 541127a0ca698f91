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

/// What a trace goes along in.
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "nothing goes along without traces"))]
pub(crate) trait Carrier: Default {
    /// Takes a value; whether it could.
    fn carry(&mut self, name: &str, value: String) -> bool;

    /// Whether it carries nothing.
    fn is_empty(&self) -> bool;
}
