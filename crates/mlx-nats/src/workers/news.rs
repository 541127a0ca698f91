//! What is known of a worker, and what there is to tell when that changes.

use mlx_types::messages::{WorkerMetrics, WorkerRegistration, WorkerStatus};
use mlx_types::{Epoch, WorkerId};

/// What is known of a worker.
#[derive(Clone, Debug)]
pub struct WorkerInfo {
    /// Its id.
    pub worker_id: WorkerId,
    /// The incarnation last heard of; unset for a node that does not tell.
    pub epoch: Option<Epoch>,
    /// What it said of itself last.
    pub status: WorkerStatus,
    /// Its registration, once one was seen.
    pub registration: Option<WorkerRegistration>,
    /// The metrics of its last heartbeat.
    pub metrics: Option<WorkerMetrics>,
}

/// A change in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// A worker is there that was not.
    Online(WorkerId),
    /// A worker came back as a new process: whatever its former one was doing is lost.
    Replaced(WorkerId),
    /// A worker said goodbye.
    Left(WorkerId),
    /// A worker fell silent for longer than the offline timeout.
    Lost(WorkerId),
}

impl WorkerEvent {
    /// The worker concerned, when what it was doing is over.
    pub(crate) fn departed(&self) -> Option<WorkerId> {
        match self {
            Self::Online(_) => None,
            Self::Replaced(id) | Self::Left(id) | Self::Lost(id) => Some(*id),
        }
    }
}

/// What there is to tell after a change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// To everybody.
    Event(WorkerEvent),
    /// To those who wait for this worker, which is gone. Others were never told that it was there.
    Gone(WorkerId),
    /// The bus says that nobody listens for this worker any more: it is dead, and not only silent.
    Dead {
        worker_id: WorkerId,
        /// Whether it was known to everybody.
        heard: bool,
    },
}

impl News {
    /// The worker concerned, when what it was doing is over.
    pub(crate) fn departed(&self) -> Option<WorkerId> {
        match self {
            Self::Event(event) => event.departed(),
            Self::Gone(id) | Self::Dead { worker_id: id, .. } => Some(*id),
        }
    }
}
