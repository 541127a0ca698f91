//! A typed NATS client that tells the truth about its connection.
//!
//! [`Client`] publishes, subscribes, asks, serves and streams tokens. What it says has been proved: a connection is
//! `connected` after a round trip, a subscription is made when the server has it, a publish while the connection is
//! down is an error at once, and a token stream ends in exactly one way.
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use mlx_nats::Client;
//! use mlx_types::{config::NatsConfig, subjects};
//!
//! # async fn example() -> mlx_nats::Result<()> {
//! let client = Client::connect(&NatsConfig::default()).await?;
//! let mut beats = client.subscribe(&subjects::WORKER_HEARTBEAT).await?;
//! while let Some(beat) = beats.next().await {
//!     let beat = beat?; // a malformed heartbeat is one error item, never the end of the subscription
//!     println!("{} runs {} requests", beat.worker_id, beat.metrics.active_requests);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! All are off by default, and then nothing of them is compiled in.
//! - `metrics`: counters, gauges and histograms through the [`metrics`](https://docs.rs/metrics) facade. The README has
//!   their names. Install a recorder before the first client connects, because a client registers its handles then.
//! - `otel`: `tracing` spans around what crosses the bus, whose W3C trace context goes along in `traceparent` and
//!   `tracestate` where OpenTelemetry's layer and propagator are installed.
//! - `durable`: requests that are handed over through JetStream and outlive their workers.

mod address;
mod client;
mod clock;
mod codec;
mod connection;
mod control_line;
mod discovery;
#[cfg(feature = "durable")]
mod durable;
mod error_reply;
mod gather;
mod headers;
mod inbox;
mod log_limit;
mod measure;
mod outbox;
mod publish;
mod publish_large;
mod registry;
mod request;
mod round_trip;
mod service;
mod stream;
mod subscribe;
mod surrogates;
mod task;
mod trace;

pub use address::{PublishTo, RequestTo, SubscribeTo};
pub use client::{Client, ClientOptions};
pub use connection::{
    CloseReason, ConnectionEvent, ConnectionEvents, ConnectionState, DisconnectReason, refresh_limits,
};
pub use discovery::Discovery;
#[cfg(feature = "durable")]
pub use durable::DurableOptions;
pub use gather::GatherOptions;
pub use headers::Headers;
pub use mlx_errors::{Error, ErrorCode, ErrorKind, Result};
pub use registry::{WorkerEvent, WorkerInfo, Workers};
pub use request::RequestOptions;
pub use service::{Request, ServeOptions, Service};
pub use stream::{InferenceOptions, InferenceService, StreamSummary, TokenFrame, TokenSink, TokenStream};
pub use subscribe::{Received, SubscribeOptions, Subscription};

/// The README's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
