//! Counters and histograms, through the `metrics` facade where the feature of that name is on.
//!
//! `off` is the same interface doing nothing, so that a place that measures has one line and no `cfg`. What is counted
//! for each message, request or stream goes through handles that the client registers once; what should not happen often
//! is looked up when it does. No label holds an id or a subject: each takes its values from a short list.

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod on;
#[cfg(feature = "metrics")]
mod table;

#[cfg(not(feature = "metrics"))]
pub(crate) use off::{
    ConnectionMeasure, Exchange, Measure, ServiceMeasure, StreamMeasure, decode_failed, dispatched_again, dropped,
    foreign_frame, publish_refused, published_late, refused,
};
#[cfg(feature = "metrics")]
pub(crate) use on::{
    ConnectionMeasure, Exchange, Measure, ServiceMeasure, StreamMeasure, decode_failed, dispatched_again, dropped,
    foreign_frame, publish_refused, published_late, refused,
};
