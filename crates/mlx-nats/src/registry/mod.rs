//! Who is there: a table of workers that follows their registrations, heartbeats and farewells.

mod departed;
mod table;
mod watch;

pub use table::{WorkerEvent, WorkerInfo};
pub use watch::Workers;
