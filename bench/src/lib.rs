//! Measures this workspace against raw async-nats, side by side: what `cargo xtask bench` runs.
//!
//! - [`rows`]: what is measured and what it has to reach; one file a workload, with both sides in it.
//! - [`run`]: rounds, the two sides of each taken in turns. Every measurement is a process of its own ([`part`]).
//! - [`stats`] and [`verdict`]: from samples to a ratio with its interval, and to a judgement that takes it into account.
//! - [`report`]: the table, the file, the comparison with an earlier file, the plots.

pub mod arm;
pub mod cli;
pub mod machine;
pub mod part;
pub mod report;
pub mod rows;
pub mod run;
pub mod sample;
pub mod stats;
pub mod verdict;

mod context;
mod control;
mod meter;
mod processor;
