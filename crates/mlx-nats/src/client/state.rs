//! How the connection stands, and its end.

use std::time::Duration;

use mlx_errors::{Error, ErrorKind, Result};
use tokio::sync::watch;

use super::Client;
use crate::connection::{CloseReason, ConnectionEvent, ConnectionEvents, ConnectionState, Signal};

impl Client {
    /// The state of the connection now.
    pub fn state(&self) -> ConnectionState {
        self.inner.link.watch().borrow().clone()
    }

    /// The state of the connection and its changes. A watcher sees the latest value, not each one in between.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// let mut state = client.watch_state();
    /// while state.changed().await.is_ok() {
    ///     println!("{}", *state.borrow_and_update());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch_state(&self) -> watch::Receiver<ConnectionState> {
        self.inner.link.watch()
    }

    /// What happens to the connection from now on, one event after another; the first tells how it stands.
    ///
    /// For logs and dashboards. To react to the current state, use [`watch_state`](Self::watch_state).
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// use mlx_nats::ConnectionEvent;
    ///
    /// # async fn example(client: mlx_nats::Client) {
    /// let mut events = client.events();
    /// tokio::spawn(async move {
    ///     while let Some(event) = events.next().await {
    ///         match event {
    ///             ConnectionEvent::AttemptFailed { server, error, .. } => eprintln!("{server}: {error}"),
    ///             event => eprintln!("{event:?}"),
    ///         }
    ///     }
    /// });
    /// # }
    /// ```
    ///
    /// Bounded, and nobody waits for its reader; see [`ConnectionEvents`]. Free while nobody listens.
    pub fn events(&self) -> ConnectionEvents {
        self.inner.link.events().listen(|| match self.state() {
            ConnectionState::Connected { epoch } => {
                let (server, attempt) = self.inner.dispatcher.current();
                Some(ConnectionEvent::Connected { server, epoch, attempt })
            }
            ConnectionState::Closed { reason } => Some(ConnectionEvent::Closed { reason }),
            ConnectionState::Disconnected | ConnectionState::Connecting | ConnectionState::Reconnecting { .. } => None,
        })
    }

    /// Waits until the connection is up.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// client.wait_connected(std::time::Duration::from_secs(10)).await?; // after an outage
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] after `timeout`, [`ErrorKind::Closed`] when the client is closed for good.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn wait_connected(&self, timeout: Duration) -> Result<()> {
        let mut state = self.watch_state();
        let settled = state.wait_for(|state| state.is_connected() || state.is_closed());
        match tokio::time::timeout(timeout, settled).await {
            Ok(Ok(state)) if state.is_connected() => Ok(()),
            Ok(_) => Err(self.inner.link.down("waiting for the connection")),
            Err(_) => Err(Error::new(ErrorKind::Timeout { subject: "the NATS connection".to_owned(), timeout })),
        }
    }

    /// A round trip to the server: everything published before has arrived there.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// client.publish("lab.test", "the last word").await?;
    /// client.flush(std::time::Duration::from_secs(1)).await?; // the server has it now
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`] when the connection dropped or was replaced meanwhile, so that what was published
    /// before may be lost; [`ErrorKind::Publish`] when the server refused something published since the last flush, of
    /// which nobody was told yet; [`ErrorKind::Timeout`] after `timeout`.
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind.
    pub async fn flush(&self, timeout: Duration) -> Result<()> {
        self.hear_all("the end of a flush", timeout).await?;
        self.inner.refusals.take_unflushed().map_or(Ok(()), Err)
    }

    /// How many publishes the server has refused, because of missing permissions, since the client was made.
    ///
    /// A publish does not wait for the server, so that its refusal comes after `Ok`: as a
    /// [`ConnectionEvent::ServerError`], in this count, and as the error of the next [`flush`](Self::flush), unless it was a
    /// request, which fails by itself.
    pub fn refused_publishes(&self) -> u64 {
        self.inner.refusals.publishes()
    }

    /// Bytes that the server accepts as one payload, headers included: its own limit, or that of this user's account.
    ///
    /// What was in force when the connection was made, or when it was last asked; see
    /// [`refresh_limits`](crate::refresh_limits).
    pub fn max_payload(&self) -> usize {
        self.inner.limit.in_force(self.inner.nats.max_payload())
    }

    /// Messages that wait for the connection to come back; always 0 unless `nats.publishWhileDisconnected` is `buffer`.
    pub fn buffered(&self) -> usize {
        self.inner.publish_buffer.as_ref().map_or(0, |publish_buffer| publish_buffer.len())
    }

    /// Takes no more work, sends what is under way, and closes the connection, within `timeout`.
    ///
    /// Subscriptions end after their last message. What is published while this runs goes out, or fails as
    /// [`ErrorKind::Closed`]. What `nats.publishWhileDisconnected: buffer` keeps while there is no connection is lost, and
    /// counted in the log. Services should be stopped before, so that their handlers finish.
    ///
    /// ```no_run
    /// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    /// client.shutdown(std::time::Duration::from_secs(5)).await?;
    /// assert!(client.state().is_closed());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when the server did not take everything in time. The client is closed even then.
    ///
    /// # Cancel safety
    /// When the future is dropped, the client may be closed or not.
    pub async fn shutdown(&self, timeout: Duration) -> Result<()> {
        let connected = self.inner.link.live(|| "shutdown".to_owned()).is_ok();
        let flushed = if connected { self.round_trip("the end of the shutdown", timeout).await } else { Ok(()) };
        // Another call of this may be faster, and has flushed as much.
        let shut_down = ConnectionState::Closed { reason: CloseReason::ShutDown };
        let flushed = flushed.or_else(|error| if self.state() == shut_down { Ok(()) } else { Err(error) });
        let _ = self.inner.signals.send(Signal::ShutDown);
        let mut state = self.watch_state();
        // The manager answers at once; should it be gone already, so is the connection.
        let _ = tokio::time::timeout(timeout, state.wait_for(ConnectionState::is_closed)).await;
        if connected {
            // What was published in the meantime, too, is with the socket when the process ends behind this. An error means
            // that the transport has ended, which it does behind a flush of its own.
            let _ = tokio::time::timeout(timeout, self.nats().flush()).await;
        }
        flushed
    }
}
