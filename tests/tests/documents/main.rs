//! What the documentation says is true: its commands run, its programs compile and work, its lists are complete.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod blocks;
mod messages;
mod operations;
mod page;
mod permissions;
mod promises;
mod python_worker;
mod session;
mod terminal;
