//! Who is there: a table of workers that follows their registrations, heartbeats and farewells.

mod beat;
mod departed;
mod probe;
mod table;
mod watch;

pub(crate) use probe::subject as ping_subject;
pub use table::{WorkerEvent, WorkerInfo};
pub use watch::Workers;
pub(crate) use watch::{Departure, Suspicion};
