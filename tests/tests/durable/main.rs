//! Durable hand-over: requests that JetStream keeps until a worker has begun to answer them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod deaths;
mod full_disk;
mod handover;
mod limits;
mod permissions;
mod support;
mod surplus;
mod thousand;
