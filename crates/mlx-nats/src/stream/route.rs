//! How a request is sent to the worker, and how it is cancelled.

use std::sync::Arc;

use mlx_errors::Result;
use mlx_types::messages::InferenceCancel;
use mlx_types::{WorkerId, subjects};

use crate::client::Client;
use crate::wire::{Headers, headers};

/// Cancels a request by its place in a queue, whose answer has begun or not: what only the queue's floor can do.
#[cfg(feature = "durable")]
pub(crate) type CancelQueued =
    fn(Client, u64, InferenceCancel, bool) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The way that a request went.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route {
    /// To one worker.
    Worker(WorkerId),
    /// Into a queue, out of which several workers may take it, one after the other.
    #[cfg(feature = "durable")]
    Queue {
        /// Its place in the queue's stream.
        sequence: u64,
        /// It was there before, so that frames may have come before this stream listened.
        joined: bool,
        /// Cancels what is in it.
        cancel: CancelQueued,
    },
}

impl Route {
    /// Cancels a request, whose answer has `begun` or not. `mark` is its reply inbox: another request may have the same id.
    #[cfg_attr(not(feature = "durable"), expect(unused_variables, reason = "only a queue asks whether it has begun"))]
    pub(super) async fn cancel(
        self,
        client: Client,
        cancel: InferenceCancel,
        mark: Option<Arc<str>>,
        begun: bool,
    ) -> Result<()> {
        match self {
            Self::Worker(worker_id) => {
                let subject = subjects::worker_cancel(worker_id);
                let Some(mark) = mark else { return client.publish(&subject, &cancel).await };
                let mut headers = Headers::new();
                headers.set(headers::REPLY, mark)?;
                client.publish_with_headers(&subject, &cancel, headers).await
            }
            #[cfg(feature = "durable")]
            Self::Queue { sequence, cancel: carry_out, .. } => carry_out(client, sequence, cancel, begun).await,
        }
    }

    /// The worker that was asked, where one was.
    #[cfg_attr(not(feature = "durable"), expect(clippy::unnecessary_wraps, reason = "only a queue asks no one worker"))]
    pub(super) fn worker_id(self) -> Option<WorkerId> {
        match self {
            Self::Worker(worker_id) => Some(worker_id),
            #[cfg(feature = "durable")]
            Self::Queue { .. } => None,
        }
    }

    /// Whether the request stays where it is when its requester's connection drops.
    pub(super) fn is_queued(self) -> bool {
        match self {
            Self::Worker(_) => false,
            #[cfg(feature = "durable")]
            Self::Queue { .. } => true,
        }
    }

    /// Whether an answer whose beginning was missed is begun again, by another worker.
    pub(super) fn begins_again(self) -> bool {
        match self {
            Self::Worker(_) => false,
            #[cfg(feature = "durable")]
            Self::Queue { joined, .. } => !joined,
        }
    }
}
