//! Workers: what they say of themselves, and a table of those that are there, which follows their registrations, heartbeats and
//! farewells.

mod announce;
mod beat;
mod dispatch;
mod entry;
mod events;
mod follow;
mod infer;
mod lifelines;
mod probe;
mod table;
mod tombstones;
mod watch;

pub use announce::{Beside, Worker, WorkerBuilder, WorkerControl, WorkerProfile};
pub use dispatch::{DispatchOptions, Dispatcher, ENGINE_BROKEN, KnownWorkers, PendingInference, QueuePosition};
pub use events::{WorkerEvent, WorkerEvents, WorkerInfo};
pub use infer::InferOptions;
pub use watch::Workers;
