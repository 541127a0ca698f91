//! What the log promises: strict lines, nested components, a level that changes, losses that are said, no secrets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod config;
mod cost;
mod lines;
mod output;
mod reload;
mod schema;
mod secrets;
mod support;
