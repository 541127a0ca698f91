//! The workers of `mlx-node` with a model server behind them: real worker processes, a real bus, and a server that
//! does to them what model servers do. Each error is looked at where it matters, at the requester.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(unreachable_pub, reason = "`pub` marks what the files of this test share")]

mod support;

mod answers;
mod cancelling;
mod failures;
mod https;
mod keys;
mod models;
mod oddities;
mod real;
mod two_machines;
