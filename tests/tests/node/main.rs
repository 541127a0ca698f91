//! `mlx-node run` and its companions as their users run them: real processes, a real bus, real signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(unreachable_pub, reason = "`pub` marks what the files of this test share")]

mod support;

mod commands;
mod ending;
mod foreign_worker;
mod gateway_keys;
#[cfg(target_os = "linux")]
mod machines;
mod roles;
mod worker_keys;
