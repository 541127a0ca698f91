//! Support of the integration tests that span several crates.

/// The README, so that its example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
