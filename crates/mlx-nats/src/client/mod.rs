//! The client: one cheap handle to one connection. Its verbs stand in the rooms that carry them out.

mod builder;
mod configured;
mod connect;
mod discovery;
mod options;
mod rooms;
mod round_trip;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use self::rooms::Rooms;
use crate::connection::AbortOnDrop;
use crate::connection::{self, Dispatcher, Link, PayloadLimit, PublishBuffer, Refusals, Signal};
use crate::telemetry::measure::Measure;
use crate::wire::inbox::Inbox;

pub use self::builder::ClientBuilder;
pub use self::configured::ConnectConfig;
pub use self::discovery::Discovery;
pub(crate) use self::discovery::is_name_char;
pub use self::options::ClientOptions;

/// A connection to NATS. Clones share it, and so do the subscriptions, services and token streams made with it; the last
/// of all these that is dropped closes it.
///
/// All methods can be called from any task. Dropping a handle, on any thread, inside or outside a runtime, neither
/// blocks nor panics.
///
/// ```no_run
/// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
/// let other = client.clone(); // the same connection
/// tokio::spawn(async move { other.publish("lab.test", "hello").await });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    nats: async_nats::Client,
    inbox: Arc<Inbox>,
    refusals: Arc<Refusals>,
    link: Arc<Link>,
    /// Only where the configuration asks to keep what is published while the connection is down.
    publish_buffer: Option<Arc<PublishBuffer>>,
    signals: mpsc::UnboundedSender<Signal>,
    dispatcher: Arc<Dispatcher>,
    limit: Arc<PayloadLimit>,
    measure: Measure,
    options: ClientOptions,
    request_timeout: Duration,
    rooms: Rooms,
    runtime: Handle,
    /// The connection's manager and the inbox.
    _tasks: [AbortOnDrop; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        let up = self.link.is_up();
        // Its manager, which tells every other end, ends with it.
        self.link.orphaned();
        let messages = self.publish_buffer.as_ref().map_or(0, |publish_buffer| publish_buffer.abandon());
        if messages > 0 {
            tracing::warn!(
                messages,
                "the last handle was dropped before messages kept for the connection could be sent"
            );
        }
        if up {
            // The transport ends with its last handle, without a look at what it still holds, unless it is told to drain.
            let nats = self.nats.clone();
            self.runtime.spawn(async move { connection::end(&nats).await });
        }
    }
}

impl Client {
    pub(crate) fn nats(&self) -> &async_nats::Client {
        &self.inner.nats
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inner.inbox
    }

    pub(crate) fn payload_limit(&self) -> &PayloadLimit {
        &self.inner.limit
    }

    pub(crate) fn refusals(&self) -> &Arc<Refusals> {
        &self.inner.refusals
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.inner.link
    }

    pub(crate) fn publish_buffer(&self) -> Option<&PublishBuffer> {
        self.inner.publish_buffer.as_deref()
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    pub(crate) fn measure(&self) -> &Measure {
        &self.inner.measure
    }

    /// What a room keeps for this client, made when it is first asked for.
    pub(crate) fn room<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        self.inner.rooms.get()
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.inner.request_timeout
    }

    /// The runtime that the client was connected in: where work goes that a `Drop` outside any runtime leaves.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.state()).finish_non_exhaustive()
    }
}
