//! Bookkeeping of who published what and who received what, and the proof that nothing went wrong unreported.
//!
//! Every publisher numbers all its messages, and notes for each when it was published, whether the publish failed, and
//! when a flush confirmed it. Every reader notes all its items in order, and the times at which its connection is known
//! to have stood. From that, and nothing else, [`check_reader`] and [`check_group`] decide:
//!
//! 1. **Nothing is invented.** What a reader gets was published, to a subject it reads, and its publish did not fail.
//! 2. **Nothing comes twice**: in a subscription, or to all members of a queue group taken together. No excuse counts.
//! 3. **Nothing is overtaken.** A confirmed message never comes after a later one of its publisher, whatever the
//!    subjects. (An unconfirmed one may come late: its bytes can wait in a connection that its publisher has replaced.)
//! 4. **Nothing is lost.** A message is *owed* to a reader when it was confirmed and the reader's connection stood all
//!    the while: from before the publish until the reader's own flush, begun after the confirmation, came back on the
//!    same connection. The server had it, and so had the reader's socket. An owed message comes, or a report of dropped
//!    messages stands in its place, and no gap is larger than the drops reported within it.
//! 5. **Drops are not overstated**: never more than are missing.
//! 6. **Nothing is unreadable**, but to a reader of whose connections one was garbled. Such a connection owes nothing,
//!    because NATS has no checksum: a lost byte of a header can lose a message without a trace.
//!
//! A message is confirmed when a flush that began after its publish succeeded while the publisher was in the same epoch
//! as just before the publish. One that was kept for the connection is confirmed by a flush in the very next epoch.

mod check;

use std::time::Instant;

pub use check::{Verdict, Violation, check_group, check_reader};

/// One message, as its publisher knows it. Its number is its place in the publisher's book.
#[derive(Clone, Copy, Debug)]
pub struct Publication {
    /// One of the publisher's subjects.
    pub subject: u8,
    /// Just before the publish.
    pub began: Instant,
    /// Whether the publish returned an error.
    pub failed: bool,
    /// When a flush proved that the server has it.
    pub confirmed: Option<Instant>,
}

/// All messages of one publisher, by number.
#[derive(Debug, Default)]
pub struct Book {
    publications: Vec<Publication>,
    /// Messages that a flush may still confirm, and the epoch in which it has to.
    pending: Vec<(usize, u64)>,
}

impl Book {
    /// Notes a message about to be published, which a flush in `epoch` would confirm; says its number.
    pub fn publish(&mut self, subject: u8, epoch: u64) -> u64 {
        let number = self.publications.len();
        self.publications.push(Publication { subject, began: Instant::now(), failed: false, confirmed: None });
        self.pending.push((number, epoch));
        number as u64
    }

    /// The last message's publish failed.
    pub fn failed(&mut self) {
        self.pending.pop();
        self.publications.last_mut().expect("a publication").failed = true;
    }

    /// A flush succeeded in `epoch`, before and after which that was the publisher's epoch.
    pub fn flushed(&mut self, epoch: u64) {
        let now = Instant::now();
        for (number, needed) in std::mem::take(&mut self.pending) {
            if needed == epoch {
                self.publications[number].confirmed = Some(now);
            }
        }
    }

    /// The messages noted so far.
    pub fn publications(&self) -> &[Publication] {
        &self.publications
    }
}

/// A time during which a connection is known to have stood: from its proof until the beginning of its last flush.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The connection was proved to stand by then.
    pub from: Instant,
    /// The last successful flush on it began then.
    pub until: Instant,
    /// Whether bytes of the connection were garbled meanwhile.
    pub garbled: bool,
}

impl Window {
    /// Whether the connection stood from `began` to `ended`, ungarbled.
    pub fn covers(&self, began: Instant, ended: Instant) -> bool {
        !self.garbled && self.from <= began && ended <= self.until
    }
}

/// What came out of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message.
    Message {
        /// Its publisher's place among the books.
        publisher: usize,
        /// Its number.
        number: u64,
    },
    /// An error item: so many messages were dropped since the last such item.
    Dropped(u64),
    /// An error item: a message that could not be read, or one whose content contradicts itself.
    Unreadable,
}

/// One subscription's whole life.
#[derive(Debug, Default)]
pub struct Reader {
    /// For violations.
    pub name: String,
    /// The one subject that it reads; unset for all.
    pub subject: Option<u8>,
    /// What it got, in order.
    pub items: Vec<Item>,
    /// When its connection stood.
    pub windows: Vec<Window>,
    /// Whether any of its connections was ever garbled.
    pub garbled: bool,
}

impl Reader {
    fn reads(&self, publication: &Publication) -> bool {
        self.subject.is_none_or(|subject| subject == publication.subject)
    }
}
