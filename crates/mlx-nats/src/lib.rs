//! A typed NATS client that tells the truth about its connection.
//!
//! [`Client`] publishes, subscribes, asks, serves and streams tokens. What it says has been proved: a connection is
//! `connected` after a round trip, a subscription is made when the server has it, a publish while the connection is
//! down is an error at once, and a token stream ends in exactly one way.
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use mlx_nats::Client;
//! use mlx_types::subjects;
//!
//! # async fn example() -> mlx_nats::Result<()> {
//! let client = Client::builder().url("nats://127.0.0.1:4222").connect().await?;
//! let mut beats = client.subscribe(&subjects::WORKER_HEARTBEAT).await?;
//! while let Some(beat) = beats.next().await {
//!     let beat = beat?; // a malformed heartbeat is one error item, never the end of the subscription
//!     println!("{} runs {} requests", beat.worker_id, beat.metrics.active_requests);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Inside
//! Rooms on floors; each uses the floors below its own, and what is left of it on its own. `cargo xtask lint` holds this table.
//!
//! | floor | rooms, each using those to its left |
//! |---|---|
//! | 6 | `durable` |
//! | 5 | `workers` |
//! | 4 | `stream` |
//! | 3 | `rpc` |
//! | 2 | `pubsub` |
//! | 1 | `client` |
//! | 0 | `telemetry`, `wire`, `connection` |
//!
//! # Features
//! All are off by default, and then nothing of them is compiled in.
//! - `metrics`: counters, gauges and histograms through the [`metrics`](https://docs.rs/metrics) facade. The README has
//!   their names. Install a recorder before the first client connects, because a client registers its handles then.
//! - `otel`: `tracing` spans around what crosses the bus, whose W3C trace context goes along in `traceparent` and
//!   `tracestate` where OpenTelemetry's layer and propagator are installed.
//! - `durable`: requests that are handed over through JetStream and outlive their workers.

mod client;
mod connection;
#[cfg(feature = "durable")]
mod durable;
mod pubsub;
mod rpc;
mod stream;
mod telemetry;
mod wire;
mod workers;

pub use client::{Client, ClientBuilder, ClientOptions, ConnectConfig, Discovery};
pub use connection::{
    CloseReason, ConnectionEvent, ConnectionEvents, ConnectionState, DisconnectReason, refresh_limits,
};
#[cfg(feature = "durable")]
pub use durable::DurableOptions;
pub use mlx_errors::{Error, ErrorCode, ErrorKind, Result};
pub use pubsub::{Received, SubscribeOptions, Subscription};
pub use rpc::{Request, RequestManyOptions, RequestOptions, Responses, ServeOptions, Service};
pub use stream::{InferenceOptions, InferenceService, StreamSummary, TokenFrame, TokenSink, TokenStream};
pub use wire::{Headers, PublishTo, RequestTo, ServeTo, SubscribeTo};
pub use workers::{
    Beside, DispatchOptions, Dispatcher, ENGINE_BROKEN, InferOptions, KnownWorkers, PendingInference, QueuePosition,
    Worker, WorkerBuilder, WorkerControl, WorkerEvent, WorkerEvents, WorkerInfo, WorkerProfile, Workers,
};

/// The README's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
