//! Who is there: a table of workers that follows their registrations, heartbeats and farewells.

mod beat;
mod entry;
mod events;
mod follow;
mod infer;
mod lifelines;
mod probe;
mod table;
mod tombstones;
mod watch;

pub use events::{WorkerEvent, WorkerEvents, WorkerInfo};
pub use infer::InferOptions;
pub use watch::Workers;
