//! Nodes that are not ours: nats-py speaks the wire contract with us, in both directions, each in processes of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod discovery;
mod heartbeats;
mod peer;
mod requests;
mod streams;
