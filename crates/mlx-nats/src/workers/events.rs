//! What is known of a worker, and what there is to tell when that changes.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, stream};
use mlx_types::messages::{WorkerMetrics, WorkerRegistration, WorkerStatus};
use mlx_types::{Epoch, WorkerId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// What is known of a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
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

impl WorkerInfo {
    /// A worker of which only its status is known; for tests of what chooses among workers.
    pub fn new(worker_id: WorkerId, status: WorkerStatus) -> Self {
        Self { worker_id, epoch: None, status, registration: None, metrics: None }
    }
}

mlx_errors::setters! {
    WorkerInfo {
        epoch: option Epoch,
        registration: option WorkerRegistration,
        metrics: option WorkerMetrics,
    }
}

/// A change in the table.
///
/// ```no_run
/// # async fn example(workers: mlx_nats::Workers) -> mlx_nats::Result<()> {
/// use futures_util::StreamExt;
/// use mlx_nats::WorkerEvent;
///
/// let mut events = workers.events();
/// while let Some(event) = events.next().await {
///     match event {
///         WorkerEvent::Online(id) => println!("{id} is there"),
///         WorkerEvent::Left(id) | WorkerEvent::Lost(id) | WorkerEvent::Replaced(id) => println!("{id}: its work is over"),
///         WorkerEvent::Missed(count) => println!("{count} events missed: {} workers now", workers.list().len()),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// A worker is there that was not.
    Online(WorkerId),
    /// A worker came back as a new process: whatever its former one was doing is lost.
    Replaced(WorkerId),
    /// A worker said goodbye.
    Left(WorkerId),
    /// A worker fell silent for longer than the offline timeout, or its connection is gone.
    Lost(WorkerId),
    /// This reader was too far behind to get all events: so many are missing here.
    Missed(u64),
}

/// The changes of a table of workers, as a [`Stream`] that ends with its client.
///
/// A reader holds nobody up. One that falls behind by more than a thousand events loses the oldest, and gets a
/// [`WorkerEvent::Missed`] in their place; [`Workers::list`](crate::Workers::list) says how things stand.
#[must_use = "events are only told to whoever reads them"]
pub struct WorkerEvents(Pin<Box<dyn Stream<Item = WorkerEvent> + Send + Sync>>);

impl WorkerEvents {
    pub(super) fn of(receiver: broadcast::Receiver<WorkerEvent>) -> Self {
        Self(Box::pin(stream::unfold(receiver, |mut receiver| async move {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(count)) => WorkerEvent::Missed(count),
                Err(RecvError::Closed) => return None,
            };
            Some((event, receiver))
        })))
    }
}

impl Stream for WorkerEvents {
    type Item = WorkerEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for WorkerEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerEvents").finish_non_exhaustive()
    }
}

impl WorkerEvent {
    /// The worker concerned, when what it was doing is over.
    pub(crate) fn departed(&self) -> Option<WorkerId> {
        match self {
            Self::Online(_) | Self::Missed(_) => None,
            Self::Replaced(id) | Self::Left(id) | Self::Lost(id) => Some(*id),
        }
    }
}

/// What there is to tell after a change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
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

impl Change {
    /// The worker concerned, when what it was doing is over.
    pub(crate) fn departed(&self) -> Option<WorkerId> {
        match self {
            Self::Event(event) => event.departed(),
            Self::Gone(id) | Self::Dead { worker_id: id, .. } => Some(*id),
        }
    }
}
