//! A real nats-server: found, started, supervised and stopped for you.

#[cfg(not(unix))]
compile_error!("mlx-embedded supervises processes the Unix way; it supports Linux and macOS");

pub mod binary;

pub use binary::{Binary, Finder, Origin};
