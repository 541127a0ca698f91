//! Nothing is measured, and nothing is left of the calls.
#![expect(clippy::unused_self, reason = "the interface is that of the module that measures")]

use std::future::Future;

use mlx_errors::{Error, ErrorCode};
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub(crate) struct Measure;

impl Measure {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn published(&self, _bytes: usize) {}

    pub(crate) fn received(&self, _message: &async_nats::Message) {}

    pub(crate) fn request<F: Future>(&self, exchange: F) -> F {
        exchange
    }

    pub(crate) fn exchange(&self) -> Exchange {
        Exchange
    }

    pub(crate) fn stream(&self, _started: Instant) -> StreamMeasure {
        StreamMeasure
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Exchange;

impl Exchange {
    pub(crate) fn ended(&mut self, _error: Option<&Error>) {}
}

#[derive(Clone, Debug)]
pub(crate) struct StreamMeasure;

impl StreamMeasure {
    pub(crate) fn tokens(&mut self, _count: usize) {}

    pub(crate) fn ended(&mut self, _error: Option<&Error>) {}
}

#[derive(Clone, Debug)]
pub(crate) struct ServiceMeasure;

impl ServiceMeasure {
    pub(crate) fn new(_subject: &str) -> Self {
        Self
    }

    pub(crate) fn handling<F: Future>(&self, handler: F) -> F {
        handler
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ConnectionMeasure;

impl ConnectionMeasure {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn moved(&mut self, _state: &'static str) {}

    pub(crate) fn closed(&mut self, _reason: &'static str) {}
}

pub(crate) fn published_late(_bytes: usize) {}

pub(crate) fn decode_failed(_code: ErrorCode) {}

pub(crate) fn publish_refused() {}

pub(crate) fn foreign_frame() {}

pub(crate) fn dispatched_again(_times: u64) {}

pub(crate) fn dropped(_messages: usize) {}

pub(crate) fn refused(_error: &Error) {}
