//! Who is there: a table of workers that follows their registrations, heartbeats and farewells.

mod beat;
mod departed;
mod entry;
mod news;
mod probe;
mod table;
mod watch;

pub use news::{WorkerEvent, WorkerInfo};
pub(crate) use probe::subject as ping_subject;
pub use watch::Workers;
pub(crate) use watch::{Departure, Suspicion};
