//! Calling off requests whose answer nobody reads any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mlx_errors::Result;
use mlx_types::messages::{CancelMode, InferenceCancel};
use mlx_types::{RequestId, WorkerId};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::responder::is_disconnection;
use super::route::Route;
use crate::client::Client;

/// How long to wait for a connection that is down.
const RECONNECT_TIMEOUT: Duration = Duration::from_mins(1);

/// Waits so long after a reconnection, so that a retry of the same request goes out before the cancel.
const RECONNECT_GRACE: Duration = Duration::from_millis(100);

/// What is to be called off when the connection is back. One list for all clients of the process: a cancellation does not
/// tell whose request it means, should another client ask for it meanwhile.
static WAITING: Mutex<BTreeSet<Asked>> = Mutex::new(BTreeSet::new());

/// A request, and of whom; not known of a queued one, which its queue tells from a later one.
type Asked = (RequestId, Option<WorkerId>);

/// Cancels the request at the worker, in the background; if the connection is down, as soon as it is back.
pub(super) fn cancel_in_background(
    client: &Client,
    route: Route,
    request_id: RequestId,
    mark: Option<Arc<str>>,
    begun: bool,
) {
    let cancel = InferenceCancel::new(request_id, CancelMode::Kill);
    // On the client's runtime: a stream may be dropped outside any.
    let runtime = client.runtime();
    if client.link().is_up() {
        let cancellation = route.cancel(client.clone(), cancel, mark, begun);
        runtime.spawn(async move { report(&cancellation.await) });
        return;
    }
    let waiting = PendingCancel::enter((request_id, route.worker_id()));
    let mut state = client.watch_state();
    // What waits must not keep the client open; with its last handle, the watched state ends.
    let inner = Arc::downgrade(&client.inner);
    let when_back = async move {
        loop {
            let settled = state.wait_for(|state| state.is_connected() || state.is_closed()).await;
            if !settled.is_ok_and(|state| state.is_connected()) {
                return;
            }
            sleep(RECONNECT_GRACE).await;
            let Some(client) = inner.upgrade().map(|inner| Client { inner }) else { return };
            if !waiting.stands() {
                return;
            }
            let cancelled = route.cancel(client, cancel.clone(), mark.clone(), begun).await;
            if !cancelled.as_ref().is_err_and(is_disconnection) {
                return report(&cancelled);
            }
        }
    };
    runtime.spawn(async move {
        if timeout(RECONNECT_TIMEOUT, when_back).await.is_err() {
            tracing::debug!(%request_id, "a request was not called off: the connection did not come back");
        }
    });
}

/// Takes note that a request is made again, and not to be called off any more.
pub(crate) fn asked_again(request_id: RequestId, worker_id: WorkerId) {
    WAITING.lock().remove(&(request_id, Some(worker_id)));
}

fn report(cancelled: &Result<()>) {
    if let Err(error) = cancelled {
        tracing::debug!(error = error as &dyn std::error::Error, "a cancellation could not be sent");
    }
}

/// A place in the list, given up when it is dropped.
struct PendingCancel(Asked);

impl PendingCancel {
    fn enter(asked: Asked) -> Self {
        WAITING.lock().insert(asked);
        Self(asked)
    }

    fn stands(&self) -> bool {
        WAITING.lock().contains(&self.0)
    }
}

impl Drop for PendingCancel {
    fn drop(&mut self) {
        WAITING.lock().remove(&self.0);
    }
}
