//! What a stream has to know of its worker beside the frames: that it is gone. Who knows that is a floor above.

use std::future::Future;
use std::pin::Pin;

use mlx_types::WorkerId;

/// How a worker went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It said goodbye, and does not say its incarnation: such a worker finishes what it has begun.
    LeftUnmarked,
    /// It fell silent, said goodbye, or came back as another process: it may still be at work.
    Gone,
    /// Nobody listens for it any more: it is not there.
    Dead,
}

/// The table of workers, as streams see it.
pub(crate) trait Lifelines: Send + Sync {
    /// Resolves when the worker leaves, falls silent or comes back as another process. From now on its silence counts,
    /// even if it was never heard of.
    fn departure(&self, id: WorkerId) -> Pin<Box<dyn Future<Output = Departure> + Send>>;

    /// The worker has shown that it answers when it is asked for a sign of life.
    fn answers(&self, id: WorkerId);

    /// Has the worker asked for signs of life, until what is returned is dropped.
    fn suspect(&self, id: WorkerId) -> Box<dyn Suspicion>;
}

/// Somebody waits for a worker and hears nothing.
pub(crate) trait Suspicion: Send {
    /// Something has come.
    fn refuted(self: Box<Self>);
}
