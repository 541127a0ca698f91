//! Support for the integration tests: servers, clients of ours and foreign ones, and waiting without sleeping.
#![allow(
    clippy::expect_used,
    clippy::match_wild_err_arm,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "support of tests: what does not work here has to fail the test that asked for it"
)]

mod server;
mod wait;

pub use server::{TestServer, millis};
pub use wait::{LIMIT, eventually, within};

/// The README, so that its example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
