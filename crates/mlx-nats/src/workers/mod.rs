//! Who is there: a table of workers that follows their registrations, heartbeats and farewells.

mod beat;
mod entry;
mod follow;
mod infer;
mod lifelines;
mod news;
mod probe;
mod table;
mod tombstones;
mod watch;

pub use infer::InferOptions;
pub use news::{WorkerEvent, WorkerEvents, WorkerInfo};
pub use watch::Workers;
