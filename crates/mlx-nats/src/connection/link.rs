//! What the rest of the client sees of the connection: one word to read on the hot path, a value to watch otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mlx_errors::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::connection::clock::SleepClock;

use super::{CloseReason, ConnectionEvent, ConnectionState, Events};

/// The connection's published state.
#[derive(Debug)]
pub(crate) struct Link {
    /// The epoch while connected, 0 otherwise: what a publish looks at.
    live_epoch: AtomicU64,
    state: watch::Sender<ConnectionState>,
    events: Arc<Events>,
    clock: SleepClock,
}

impl Link {
    pub(crate) fn new() -> Self {
        Self {
            live_epoch: AtomicU64::new(0),
            state: watch::Sender::new(ConnectionState::Connecting),
            events: Arc::default(),
            clock: SleepClock::default(),
        }
    }

    /// The current state, and every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Where what happens is told.
    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// The sleep of this process, as far as this client has noticed any.
    pub(crate) fn clock(&self) -> &SleepClock {
        &self.clock
    }

    /// The epoch of the live connection, or at once the error of a call that needs one.
    pub(crate) fn live(&self, during: impl FnOnce() -> String) -> Result<u64> {
        match self.live_epoch.load(Ordering::Acquire) {
            0 => Err(self.down(&during())),
            epoch => Ok(epoch),
        }
    }

    /// Whether messages can be sent now.
    pub(crate) fn is_up(&self) -> bool {
        self.live_epoch.load(Ordering::Acquire) != 0
    }

    /// The epoch of the live connection, if there is one.
    pub(crate) fn epoch(&self) -> Option<u64> {
        Some(self.live_epoch.load(Ordering::Acquire)).filter(|epoch| *epoch != 0)
    }

    /// Whether the client is over for good.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.borrow().is_closed()
    }

    /// Resolves when the client is over for good.
    pub(crate) async fn closed(&self) {
        // The sender is in `self`.
        let _ = self.watch().wait_for(ConnectionState::is_closed).await;
    }

    /// Whether the connection of `epoch` is still the live one.
    pub(crate) fn is_live(&self, epoch: u64) -> bool {
        self.live_epoch.load(Ordering::Acquire) == epoch
    }

    /// The error of a call that found the connection down.
    pub(crate) fn down(&self, during: &str) -> Error {
        match &*self.state.borrow() {
            ConnectionState::Closed { reason } => Error::new(ErrorKind::Closed { reason: reason.to_string() }),
            // The news of it may still be on the way.
            ConnectionState::Connected { .. } => {
                Error::new(ErrorKind::Disconnected { during: format!("{during} (the connection was replaced)") })
            }
            state => Error::new(ErrorKind::Disconnected { during: format!("{during} ({state})") }),
        }
    }

    /// The epoch of the connection, as soon as it is up.
    ///
    /// # Errors
    /// When the client is closed for good.
    pub(crate) async fn connected(&self) -> Result<u64> {
        let mut state = self.watch();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                ConnectionState::Connected { epoch } => return Ok(epoch),
                state if state.is_closed() => return Err(self.down("waiting for the connection")),
                // The sender is in `self`, so there is always another state to wait for.
                _ => drop(state.changed().await),
            }
        }
    }

    /// Resolves when the connection of `epoch` is no longer the live one.
    pub(crate) async fn lost(&self, epoch: u64) {
        let mut state = self.watch();
        while self.is_live(epoch) && state.changed().await.is_ok() {}
    }

    /// Publishes a state, unless closed: that is the last. Says whether it is another one than before.
    pub(crate) fn set(&self, state: &ConnectionState) -> bool {
        let epoch = if let ConnectionState::Connected { epoch } = state { *epoch } else { 0 };
        self.state.send_if_modified(|current| {
            if current == state || current.is_closed() {
                return false;
            }
            // The word is written first, so that those woken by the value find it.
            self.live_epoch.store(epoch, Ordering::Release);
            current.clone_from(state);
            true
        })
    }

    /// Marks the client closed when its last handle is dropped, unless it is closed already.
    pub(crate) fn orphaned(&self) {
        let reason = CloseReason::ShutDown;
        if self.set(&ConnectionState::Closed { reason: reason.clone() }) {
            self.events.tell(|| ConnectionEvent::Closed { reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c6_closed_is_the_last_state_whoever_comes_late() {
        let link = Link::new();
        assert!(link.set(&ConnectionState::Closed { reason: CloseReason::Authentication }));
        assert!(!link.set(&ConnectionState::Connected { epoch: 1 }));
        link.orphaned();
        assert!(!link.is_up());
        assert_eq!(*link.watch().borrow(), ConnectionState::Closed { reason: CloseReason::Authentication });
    }
}
