//! No spans, and no headers for them.
#![expect(clippy::unused_self, reason = "the interface is that of the module with spans")]

use std::future::Future;

use mlx_errors::{Error, Result};
use mlx_types::RequestId;

use super::Carrier;

#[derive(Clone, Debug)]
pub(crate) struct Span;

impl Span {
    pub(crate) fn publish(_subject: &str) -> Self {
        Self
    }

    pub(crate) fn request(_subject: &str) -> Self {
        Self
    }

    pub(crate) fn infer(_subject: &str, _request_id: RequestId) -> Self {
        Self
    }

    pub(crate) fn serve(_message: &async_nats::Message) -> Self {
        Self
    }

    pub(crate) fn headers<C: Carrier>(&self) -> Option<C> {
        None
    }

    pub(crate) fn inject(&self, _headers: &mut impl Carrier) {}

    pub(crate) fn around<T, F: Future<Output = Result<T>>>(&self, future: F) -> F {
        future
    }

    pub(crate) fn end(&mut self, _error: Option<&Error>) {}
}
