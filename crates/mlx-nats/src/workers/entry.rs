//! One worker in the table.

use std::time::{Duration, Instant};

use mlx_types::messages::WorkerStatus;
use mlx_types::{Timestamp, WorkerId};

use super::events::{Change, WorkerEvent, WorkerInfo};
use super::probe::Probe;
use super::tombstones::Stamp;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info: WorkerInfo,
    pub(super) last_heard: Instant,
    /// The latest of the worker's own times that were heard.
    pub(super) timestamp: Option<Timestamp>,
    /// Expected by us, but not heard of yet: not shown to users.
    pub(super) heard: bool,
    /// When its last heartbeat came, and the usual time between two of them.
    pub(super) last_beat: Option<Instant>,
    pub(super) interval: Option<Duration>,
    /// What it says when it is asked for a sign of life.
    pub(super) probe: Probe,
    /// It may be asked: it has said its epoch, or accepted a request with it, as only those do that answer.
    pub(super) may_be_asked: bool,
    /// Its place in `by_probe`.
    pub(super) probe_at: Option<Instant>,
    /// Streams that wait for it and hear nothing.
    pub(super) suspicions: usize,
    /// Tells this entry from every other of the same id.
    pub(super) generation: u64,
    /// Its epoch was still ahead of our clock when it was last heard.
    pub(super) is_ahead: bool,
}

/// A heartbeat that is overdue by this has its worker asked, which leaves half a second in all for two questions.
const OVERDUE: Duration = Duration::from_millis(120);

impl Entry {
    pub(super) fn new(worker_id: WorkerId, generation: u64, now: Instant) -> Self {
        let info =
            WorkerInfo { worker_id, epoch: None, status: WorkerStatus::Online, registration: None, metrics: None };
        Self {
            info,
            last_heard: now,
            timestamp: None,
            heard: false,
            last_beat: None,
            interval: None,
            probe: Probe::new(now),
            may_be_asked: false,
            probe_at: None,
            suspicions: 0,
            generation,
            is_ahead: false,
        }
    }

    /// When its next heartbeat is late.
    pub(super) fn overdue_at(&self, default: Duration) -> Instant {
        let from = self.last_beat.unwrap_or(self.last_heard);
        let due = from.checked_add(self.interval.unwrap_or(default).saturating_add(OVERDUE));
        due.unwrap_or_else(|| from + Duration::from_hours(24))
    }

    pub(super) fn last_moment(&self) -> Stamp {
        Stamp { epoch: self.info.epoch, timestamp: self.timestamp }
    }

    /// What there is to tell of the end of this worker, which is `end` if anybody knows of it.
    pub(super) fn change(&self, end: WorkerEvent) -> Change {
        if self.heard { Change::Event(end) } else { Change::Gone(self.info.worker_id) }
    }
}
