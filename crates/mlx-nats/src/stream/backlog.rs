//! Whether a reader fell so far behind that the transport had to drop frames.
//!
//! The transport drops what its queue cannot hold, without telling whom it concerns. But a full queue is one that is then
//! read to its end without ever being found empty: so many messages in a row are what precedes a loss of this kind.

/// Counts the messages taken in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    capacity: usize,
    /// Taken since the queue was last found empty.
    in_a_row: usize,
    /// The row that ended with an empty queue was as long as the queue, and nothing has come since.
    was_full: bool,
}

impl Backlog {
    /// For a queue of `capacity` messages.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, in_a_row: 0, was_full: false }
    }

    /// A message was taken, behind which nothing is missing so far.
    pub(super) fn took(&mut self) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.was_full = false;
    }

    /// The queue was found empty.
    pub(super) fn emptied(&mut self) {
        self.was_full |= self.in_a_row >= self.capacity;
        self.in_a_row = 0;
    }

    /// Whether what is missing now is missing because the queue was full.
    pub(super) fn overflowed(&self) -> bool {
        self.was_full || self.in_a_row >= self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(backlog: &mut Backlog, count: usize) {
        (0..count).for_each(|_| backlog.took());
    }

    #[test]
    fn c12_a_queue_read_to_its_end_in_one_go_was_full() {
        let mut backlog = Backlog::new(3);
        took(&mut backlog, 2);
        assert!(!backlog.overflowed());
        backlog.took();
        assert!(backlog.overflowed(), "the next message may follow a gap");
        backlog.emptied();
        backlog.emptied();
        assert!(backlog.overflowed(), "or none may follow, because the last one was dropped");
    }

    #[test]
    fn c12_a_reader_that_keeps_up_has_lost_nothing_by_slowness() {
        let mut backlog = Backlog::new(3);
        for _ in 0..10 {
            took(&mut backlog, 2);
            backlog.emptied();
            assert!(!backlog.overflowed());
        }
        took(&mut backlog, 3);
        backlog.emptied();
        backlog.took();
        assert!(!backlog.overflowed(), "what followed was whole");
    }
}
