//! What the server refuses, and who has to hear of it: the one place that takes its `-ERR` lines.
//!
//! A refusal names a subject, or a limit. Whoever waits for something on that subject fails with it at once; what nobody
//! waits for is counted, and told by the next flush.

mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::task::AtomicWaker;
use mlx_errors::{Error, ErrorKind};
use parking_lot::Mutex;

use self::watch::{Kind, Slot};
pub(crate) use self::watch::{Waits, Watch};
use super::barrier::Barrier;
use super::server_says::{ServerSays, parse};
use crate::wire::inbox::Inbox;
use crate::wire::refused::Refused;

/// What a server says of a limit, which it may have said some time ago.
const TOO_MANY: &str = "maximum subscriptions exceeded";

/// Subjects of which refusals may be told already, and are expected once more; more of them are told twice.
const TOLD: usize = 1024;

/// The refusals of one client's connection, and who waits on what.
#[derive(Debug)]
pub(crate) struct Refusals {
    table: Mutex<Table>,
    /// Publishes refused since the client was made.
    publishes: AtomicU64,
    inbox: Arc<Inbox>,
    barrier: Barrier,
    /// Shared by subscriptions that are being made; held alone by one that is made once more, so that a refusal that names
    /// no subject can only mean it.
    pub(crate) turn: tokio::sync::RwLock<()>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    waiting: HashMap<u64, Arc<Slot>>,
    /// Of those, the subscriptions that the server is not known to have, in the order that they were made.
    unsettled: BTreeMap<u64, Arc<Slot>>,
    /// Publishes refused since the last flush, and the first of them.
    unflushed: Option<(String, Refused, u64)>,
    /// Refusals that are still to come for those who have been told, by subject.
    told: HashMap<String, u64>,
}

impl Refusals {
    /// Nothing refused so far, by a client whose answers come to `inbox`.
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        let barrier = Barrier::new(&inbox.marker(), &inbox.nobody());
        Self {
            table: Mutex::default(),
            publishes: AtomicU64::new(0),
            inbox,
            barrier,
            turn: tokio::sync::RwLock::new(()),
        }
    }

    /// Tells when everything has been heard that was said up to some moment.
    pub(crate) fn barrier(&self) -> &Barrier {
        &self.barrier
    }

    /// Watches for the refusal of a subscription, from before it is made to its end.
    pub(crate) fn subscription(
        self: &Arc<Self>,
        subject: async_nats::Subject,
        queue_group: Option<String>,
        waits: Waits,
    ) -> Watch {
        self.enter(Kind::Subscription { queue_group, waits }, subject)
    }

    /// Watches for the refusal of what is published on a subject, by a caller that publishes there again and again.
    pub(crate) fn publisher(self: &Arc<Self>, subject: async_nats::Subject) -> Watch {
        self.enter(Kind::Publisher, subject)
    }

    fn enter(self: &Arc<Self>, kind: Kind, subject: async_nats::Subject) -> Watch {
        let is_subscription = matches!(kind, Kind::Subscription { .. });
        let slot = Arc::new(Slot {
            kind,
            subject,
            refused: OnceLock::new(),
            suspected: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let mut table = self.table.lock();
        let key = table.next;
        table.next += 1;
        table.waiting.insert(key, Arc::clone(&slot));
        if is_subscription {
            table.unsettled.insert(key, Arc::clone(&slot));
        }
        Watch { refusals: Arc::clone(self), key, slot }
    }

    /// Another connection, on which the server may decide differently.
    pub(crate) fn renewed(&self) {
        self.barrier.renew();
        self.inbox.renewed();
        self.table.lock().told.clear();
    }

    /// An event of the transport is about to be handled.
    pub(crate) fn hear(&self) {
        self.barrier.hear();
    }

    /// Takes note of what the server said. Whether it is the answer to a question of our own, a marker or a round trip that is
    /// refused, which is nobody else's business.
    pub(crate) fn heard(&self, text: &str) -> bool {
        let refused = Refused { said: text.into() };
        match parse(text) {
            ServerSays::InvalidSubject => {
                self.barrier.returned();
                return true;
            }
            ServerSays::SubscriptionDenied { subject, .. } if self.barrier.is_marker(&subject) => {
                self.barrier.returned();
                return true;
            }
            ServerSays::SubscriptionDenied { subject, queue_group, exact } => {
                if self.inbox.pattern() == subject {
                    self.inbox.refuse(&refused);
                }
                self.fail(&refused, |slot| slot.is_subscription(&subject, queue_group.as_deref(), exact));
            }
            ServerSays::ReplyDenied { reply } => {
                let late = Refused { said: TOO_MANY.into() };
                if self.barrier.reply_refused(&reply, |count| (0..count).for_each(|_| self.limit_met(&late))) {
                    return true;
                }
                // A reply subject in the inbox is as good as the request itself.
                return self.publish_denied(reply, refused);
            }
            ServerSays::PublishDenied { subject } => return self.publish_denied(subject, refused),
            ServerSays::TooManySubscriptions => {
                if self.barrier.limit_met() {
                    self.limit_met(&refused);
                }
            }
            // What ends the connection fails whatever waits, as disconnected; the rest is reported and nothing else.
            ServerSays::InvalidPublishSubject | ServerSays::Ends(_) | ServerSays::Unknown => {}
        }
        false
    }

    /// Whether it is the answer to a round trip of our own.
    fn publish_denied(&self, subject: String, refused: Refused) -> bool {
        let answered = self.inbox.publish_refused(&subject, &refused);
        // Our own proof of life, to which the refusal is an answer as good as any.
        if self.inbox.is_own(&subject) {
            return answered > 0;
        }
        self.publishes.fetch_add(1, Ordering::Relaxed);
        crate::telemetry::measure::publish_refused();
        let told = answered + self.fail(&refused, |slot| slot.is_publisher(&subject));
        let mut table = self.table.lock();
        if told > 0 {
            // Each of them published, so that the server refuses as many: the first refusal was enough for all.
            if told > 1 && table.told.len() < TOLD {
                *table.told.entry(subject).or_default() += told - 1;
            }
            return false;
        }
        if let Some(expected) = table.told.get_mut(&subject) {
            *expected -= 1;
            if *expected == 0 {
                table.told.remove(&subject);
            }
            return false;
        }
        match &mut table.unflushed {
            Some((.., count)) => *count += 1,
            none => *none = Some((subject, refused, 1)),
        }
        false
    }

    /// A subscription was one too many, and the server does not say which. It refuses those that it gets while the limit is
    /// met: the latest, if any. Calls make theirs once more, each of them alone, so that there is no doubt.
    fn limit_met(&self, refused: &Refused) {
        if !self.inbox.is_proven() {
            self.inbox.refuse(refused);
        }
        let mut suspects: Vec<_> = {
            let table = self.table.lock();
            table.unsettled.values().filter(|slot| slot.refused.get().is_none()).cloned().collect()
        };
        let Some(latest) = suspects.pop() else { return };
        if !latest.belongs_to_call() {
            latest.refuse(refused);
        } else if suspects.is_empty() {
            latest.refuse(refused);
            return;
        } else {
            suspects.push(latest);
        }
        for slot in suspects.iter().filter(|slot| slot.belongs_to_call()) {
            slot.suspected.store(true, Ordering::Release);
            slot.refuse(refused);
        }
    }

    /// Publishes refused since the client was made.
    pub(crate) fn publishes(&self) -> u64 {
        self.publishes.load(Ordering::Relaxed)
    }

    /// The error of what was published since the last call and refused, which nobody has been told of. To be called when
    /// everything has been heard.
    pub(crate) fn take_unflushed(&self) -> Option<Error> {
        let mut table = self.table.lock();
        table.told.clear();
        let (subject, refused, count) = table.unflushed.take()?;
        drop(table);
        let more =
            if count > 1 { format!(" ({count} publishes were refused since the last flush)") } else { String::new() };
        let reason = format!("{}{more}", refused.reason());
        Some(Error::new(ErrorKind::Publish { subject, reason }))
    }

    fn fail(&self, refused: &Refused, concerned: impl Fn(&Slot) -> bool) -> u64 {
        let slots: Vec<_> = self.table.lock().waiting.values().filter(|slot| concerned(slot)).cloned().collect();
        for slot in &slots {
            slot.refuse(refused);
        }
        slots.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals() -> Arc<Refusals> {
        Arc::new(Refusals::new(Arc::new(Inbox::new("_INBOX.test"))))
    }

    fn watch(refusals: &Arc<Refusals>, subject: &'static str, group: Option<&str>, waits: Waits) -> Watch {
        refusals.subscription(subject.into(), group.map(str::to_owned), waits)
    }

    #[test]
    fn c4_a_refusal_fails_those_of_its_subject_and_nobody_else() {
        let refusals = refusals();
        let [first, second, other] = ["a", "a", "b"].map(|subject| watch(&refusals, subject, None, Waits::Call));
        let grouped = watch(&refusals, "a", Some("q"), Waits::Call);
        let publisher = refusals.publisher("a".into());
        refusals.heard(r#"Permissions Violation for Subscription to "a""#);
        assert!(first.refused().is_some() && second.refused().is_some());
        assert!(other.refused().is_none() && publisher.refused().is_none() && grouped.refused().is_none());
        refusals.heard(r#"Permissions Violation for Subscription to "b" using queue "q""#);
        assert!(other.refused().is_none());
        refusals.heard(r#"Permissions Violation for Subscription to "a" (sid "3")"#);
        assert!(grouped.refused().is_some(), "taken away, with or without a group");
        drop((first, second, other, publisher, grouped));
        assert!(refusals.table.lock().waiting.is_empty() && refusals.table.lock().unsettled.is_empty());
    }

    #[test]
    fn c4_a_limit_fails_what_is_being_made_and_says_whether_it_may_mean_another() {
        let refusals = refusals();
        let settled = watch(&refusals, "a", None, Waits::Call);
        settled.settle();
        let alone = watch(&refusals, "b", None, Waits::Call);
        refusals.heard("maximum subscriptions exceeded");
        assert!(settled.refused().is_none());
        assert!(alone.refused().is_some() && !alone.is_ambiguous());
        let [one, two] = ["c", "d"].map(|subject| watch(&refusals, subject, None, Waits::Call));
        refusals.heard("maximum subscriptions exceeded");
        assert!(one.is_ambiguous() && two.is_ambiguous());
    }

    #[test]
    fn c4_a_limit_fails_the_latest_stream_and_none_that_has_waited_long() {
        let refusals = refusals();
        let waiting = watch(&refusals, "response.1", None, Waits::Nobody);
        let call = watch(&refusals, "a", None, Waits::Call);
        let stream = watch(&refusals, "response.2", None, Waits::Nobody);
        refusals.heard("maximum subscriptions exceeded");
        assert!(stream.refused().is_some() && call.is_ambiguous() && waiting.refused().is_none());
        drop((call, stream));
        let call = watch(&refusals, "a", None, Waits::Call);
        refusals.heard("maximum subscriptions exceeded");
        assert!(call.is_ambiguous() && waiting.refused().is_none());
    }

    #[test]
    fn c5_what_nobody_waits_for_is_told_once_by_the_next_flush() {
        let refusals = refusals();
        for _ in 0..3 {
            refusals.heard(r#"Permissions Violation for Publish to "lab.secret""#);
        }
        assert_eq!(refusals.publishes(), 3);
        let error = refusals.take_unflushed().unwrap().to_string();
        assert!(error.contains("lab.secret") && error.contains("3 publishes"), "{error}");
        assert!(refusals.take_unflushed().is_none());
    }

    #[test]
    fn c5_two_requests_that_one_refusal_failed_are_not_told_by_the_flush_as_well() {
        let refusals = refusals();
        let _both = ["a", "a"].map(|subject| refusals.inbox.wait_on(subject.into()));
        for _ in 0..3 {
            refusals.heard(r#"Permissions Violation for Publish to "a""#);
        }
        let error = refusals.take_unflushed().expect("the third was nobody's").to_string();
        assert!(!error.contains("publishes were refused"), "{error}");
    }

    #[test]
    fn the_answer_to_a_marker_is_nobody_elses_business() {
        let refusals = refusals();
        assert_eq!(refusals.inbox.marker(), "_INBOX.>.test");
        assert!(refusals.heard("Invalid Subject"));
        assert!(refusals.heard(r#"Permissions Violation for Subscription to "_INBOX.>.test""#));
        assert!(!refusals.heard(r#"Permissions Violation for Subscription to "_INBOX.test.*""#));
        assert!(!refusals.heard("Stale Connection"));
    }
}
