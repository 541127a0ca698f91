//! Who waits on what, and hears of its refusal.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::Refusals;
use crate::wire::refused::Refused;

/// A place in the table, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(super) refusals: Arc<Refusals>,
    pub(super) key: u64,
    pub(super) slot: Arc<Slot>,
}

impl Watch {
    /// The refusal, if there was one.
    pub(crate) fn refused(&self) -> Option<&Refused> {
        self.slot.refused.get()
    }

    /// Whether the server may have meant another one.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.slot.suspected.load(Ordering::Acquire)
    }

    /// [`refused`](Self::refused), and wakes the task of `context` at a refusal from now on.
    pub(crate) fn poll_refused(&self, context: &Context<'_>) -> Option<&Refused> {
        // Before the look: what comes after it wakes.
        if self.slot.refused.get().is_none() {
            self.slot.waker.register(context.waker());
        }
        self.refused()
    }

    /// The refusal, as soon as there is one.
    ///
    /// To be polled by one task at a time.
    pub(crate) async fn until_refused(&self) -> Refused {
        poll_fn(|context| match self.poll_refused(context) {
            Some(refused) => Poll::Ready(refused.clone()),
            None => Poll::Pending,
        })
        .await
    }

    /// The server has it: a refusal that names no subject does not mean this one any more.
    pub(crate) fn settle(&self) {
        self.refusals.table.lock().unsettled.remove(&self.key);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut table = self.refusals.table.lock();
        table.unsettled.remove(&self.key);
        table.waiting.remove(&self.key);
    }
}

/// Who waits.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) kind: Kind,
    pub(super) subject: async_nats::Subject,
    pub(super) refused: OnceLock<Refused>,
    /// A limit was met, perhaps by another one.
    pub(super) suspected: AtomicBool,
    pub(super) waker: AtomicWaker,
}

#[derive(Debug)]
pub(super) enum Kind {
    Subscription { queue_group: Option<String>, waits: Waits },
    Publisher,
}

/// Who waits for a subscription to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// A call, which can make it once more.
    Call,
    /// Nobody: what comes by it, or does not, will tell.
    Nobody,
}

impl Slot {
    pub(super) fn is_subscription(&self, subject: &str, group: Option<&str>, exact: bool) -> bool {
        match &self.kind {
            Kind::Subscription { queue_group, .. } => {
                *self.subject == *subject && (!exact || queue_group.as_deref() == group)
            }
            Kind::Publisher => false,
        }
    }

    pub(super) fn is_publisher(&self, on: &str) -> bool {
        matches!(self.kind, Kind::Publisher) && *self.subject == *on
    }

    pub(super) fn belongs_to_call(&self) -> bool {
        matches!(self.kind, Kind::Subscription { waits: Waits::Call, .. })
    }

    pub(super) fn refuse(&self, refused: &Refused) {
        let _ = self.refused.set(refused.clone());
        self.waker.wake();
    }
}
