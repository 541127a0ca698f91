//! The non-blocking output: a bounded queue of bytes in front of one thread that writes.
//!
//! Why not `tracing-appender`'s `non_blocking`: its queue is bounded by lines instead of bytes, it allocates for each
//! line, what it drops is counted but never said in the log itself, nothing short of dropping its guard flushes it
//! (a panic hook could not), and its worker keeps no line that could not be written. What is left of it for us would
//! be a channel and a thread.

mod output;
mod queue;

pub(crate) use output::Output;
pub(crate) use queue::{Loss, Queue, Unwritten};
