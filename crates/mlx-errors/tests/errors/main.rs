//! What errors promise: stable codes, structured fields, causes told once, and no secrets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod render;
mod samples;
mod table;
