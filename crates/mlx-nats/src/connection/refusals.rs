//! What the server refuses, and who has to hear of it: the one place that reads its `-ERR` lines.
//!
//! A refusal names a subject, or a limit. Whoever waits for something on that subject fails with it at once; what nobody
//! waits for is counted, and told by the next flush.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;

use futures_util::task::AtomicWaker;
use mlx_errors::{Error, ErrorKind};

use crate::inbox::Inbox;

/// What an `-ERR` line speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A subscription, which the server does not have, or has taken away.
    Subscribe(String),
    /// A publish, which the server has dropped.
    Publish(String),
    /// A subscription that is being made; which one, it does not say.
    SomeSubscription,
    /// Something else.
    Other,
}

/// Reads what a server says, in the words of nats-server.
pub(crate) fn parse(text: &str) -> Subject {
    let lower = text.to_ascii_lowercase();
    if let Some(at) = lower.find("permissions violation for ") {
        let rest = text.get(at + "permissions violation for ".len()..).unwrap_or_default();
        let kind = rest.to_ascii_lowercase();
        let Some(subject) = quoted(rest) else { return Subject::Other };
        return match () {
            () if kind.starts_with("subscription to ") => Subject::Subscribe(subject),
            () if kind.starts_with("publish to ") => Subject::Publish(subject),
            // Of the inbox in which a request wants its answer: it is as good as the request itself.
            () if kind.starts_with("publish with reply ") => Subject::Publish(subject),
            () => Subject::Other,
        };
    }
    if lower.contains("maximum subscriptions exceeded") || lower.contains("subject has exceeded number of tokens limit")
    {
        return Subject::SomeSubscription;
    }
    Subject::Other
}

/// The first text in quotation marks, as Go's `%q` writes it.
fn quoted(text: &str) -> Option<String> {
    let mut characters = text.get(text.find('"')? + 1..)?.chars();
    let mut read = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(read),
            '\\' => match characters.next()? {
                'u' => read.push(hex(&mut characters, 4)?),
                'U' => read.push(hex(&mut characters, 8)?),
                'x' => read.push(hex(&mut characters, 2)?),
                't' => read.push('\t'),
                'n' => read.push('\n'),
                'r' => read.push('\r'),
                other => read.push(other),
            },
            other => read.push(other),
        }
    }
}

fn hex(characters: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let text: String = characters.take(digits).collect();
    u32::from_str_radix(&text, 16).ok().and_then(char::from_u32)
}

/// A refusal, for whoever waits on its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What the server said.
    pub(crate) said: Arc<str>,
}

impl Refused {
    /// The error of a subscription.
    pub(crate) fn subscription(&self, subject: &str) -> Error {
        Error::new(ErrorKind::Subscription { subject: subject.to_owned(), reason: self.reason() })
    }

    /// The error of a publish.
    pub(crate) fn publish(&self, subject: &str) -> Error {
        Error::new(ErrorKind::Publish { subject: subject.to_owned(), reason: self.reason() })
    }

    fn reason(&self) -> String {
        format!("the server says: {}", self.said)
    }
}

/// The refusals of one client's connection, and who waits on what.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    table: Mutex<Table>,
    /// Publishes refused since the client was made.
    publishes: AtomicU64,
    inbox: OnceLock<Arc<Inbox>>,
    /// Held by a subscription that is made alone, so that a refusal that names no subject can only mean it.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    waiting: HashMap<u64, Arc<Slot>>,
    /// Publishes refused since the last flush, and the first of them.
    unflushed: Option<(String, Refused, u64)>,
}

#[derive(Debug)]
struct Slot {
    kind: Kind,
    subject: async_nats::Subject,
    refused: OnceLock<(Refused, bool)>,
    waker: AtomicWaker,
    /// The server is known to have it.
    settled: std::sync::atomic::AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Subscription,
    Publisher,
}

impl Refusals {
    /// Has the answers that are waited for in `inbox` fail as well.
    pub(crate) fn attach(&self, inbox: Arc<Inbox>) {
        // Once for each client.
        let _ = self.inbox.set(inbox);
    }

    /// Watches for the refusal of a subscription, from before it is made to its end.
    pub(crate) fn subscription(self: &Arc<Self>, subject: async_nats::Subject) -> Watch {
        self.enter(Kind::Subscription, subject)
    }

    /// Watches for the refusal of what is published on a subject, by whoever publishes there again and again.
    pub(crate) fn publisher(self: &Arc<Self>, subject: async_nats::Subject) -> Watch {
        self.enter(Kind::Publisher, subject)
    }

    /// Another connection, on which the server may decide differently.
    pub(crate) fn renewed(&self) {
        if let Some(inbox) = self.inbox.get() {
            inbox.renewed();
        }
    }

    fn enter(self: &Arc<Self>, kind: Kind, subject: async_nats::Subject) -> Watch {
        let slot = Arc::new(Slot {
            kind,
            subject,
            refused: OnceLock::new(),
            waker: AtomicWaker::new(),
            settled: std::sync::atomic::AtomicBool::new(false),
        });
        let mut table = self.lock();
        let key = table.next;
        table.next += 1;
        table.waiting.insert(key, Arc::clone(&slot));
        Watch { refusals: Arc::clone(self), key, slot }
    }

    /// Takes note of what the server said; says whether it is news. The refusal of a round trip is not: it is the answer.
    pub(crate) fn heard(&self, text: &str) -> bool {
        let refused = Refused { said: text.into() };
        match parse(text) {
            Subject::Subscribe(subject) => {
                if let Some(inbox) = self.inbox.get().filter(|inbox| inbox.pattern() == subject) {
                    inbox.refuse(&refused);
                }
                self.fail(&refused, false, |slot| slot.kind == Kind::Subscription && *slot.subject == *subject);
            }
            Subject::Publish(subject) => {
                let awaited = self.inbox.get().is_some_and(|inbox| inbox.publish_refused(&subject, &refused));
                // Our own proof of life, to which the refusal is an answer as good as any.
                let own = self.inbox.get().is_some_and(|inbox| inbox.is_own(&subject));
                let failed =
                    self.fail(&refused, false, |slot| slot.kind == Kind::Publisher && *slot.subject == *subject);
                if own && awaited {
                    return false;
                }
                if !own {
                    self.publishes.fetch_add(1, Ordering::Relaxed);
                    crate::measure::publish_refused();
                    if !awaited && failed == 0 {
                        let mut table = self.lock();
                        let count = table
                            .unflushed
                            .take()
                            .map_or((subject, refused, 1), |(subject, refused, count)| (subject, refused, count + 1));
                        table.unflushed = Some(count);
                    }
                }
            }
            Subject::SomeSubscription => {
                let unsettled = |slot: &Slot| {
                    slot.kind == Kind::Subscription
                        && !slot.settled.load(Ordering::Acquire)
                        && slot.refused.get().is_none()
                };
                if let Some(inbox) = self.inbox.get().filter(|inbox| !inbox.is_proven()) {
                    inbox.refuse(&refused);
                }
                let several = self.lock().waiting.values().filter(|slot| unsettled(slot)).count() > 1;
                self.fail(&refused, several, unsettled);
            }
            Subject::Other => {}
        }
        true
    }

    /// Publishes refused since the client was made.
    pub(crate) fn publishes(&self) -> u64 {
        self.publishes.load(Ordering::Relaxed)
    }

    /// The error of what was published since the last call and refused, which nobody has been told of.
    pub(crate) fn take_unflushed(&self) -> Option<Error> {
        let (subject, refused, count) = self.lock().unflushed.take()?;
        let more =
            if count > 1 { format!(" ({count} publishes were refused since the last flush)") } else { String::new() };
        let reason = format!("{}{more}", refused.reason());
        Some(Error::new(ErrorKind::Publish { subject, reason }))
    }

    fn fail(&self, refused: &Refused, ambiguous: bool, concerned: impl Fn(&Slot) -> bool) -> usize {
        let slots: Vec<_> = self.lock().waiting.values().filter(|slot| concerned(slot)).cloned().collect();
        for slot in &slots {
            let _ = slot.refused.set((refused.clone(), ambiguous));
            slot.waker.wake();
        }
        slots.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing inside the lock can panic half way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the table, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    refusals: Arc<Refusals>,
    key: u64,
    slot: Arc<Slot>,
}

impl Watch {
    /// The refusal, if there was one.
    pub(crate) fn refused(&self) -> Option<&Refused> {
        self.slot.refused.get().map(|(refused, _)| refused)
    }

    /// Whether the server may have meant another one.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.slot.refused.get().is_some_and(|(_, ambiguous)| *ambiguous)
    }

    /// [`refused`](Self::refused), and wakes the task of `context` at a refusal from now on.
    pub(crate) fn poll_refused(&self, context: &Context<'_>) -> Option<&Refused> {
        if self.slot.refused.get().is_none() {
            self.slot.waker.register(context.waker());
        }
        self.refused()
    }

    /// The server has it: a refusal that names no subject does not mean this one any more.
    pub(crate) fn settle(&self) {
        self.slot.settled.store(true, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.refusals.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_server_are_understood() {
        let subscribe = |subject: &str| Subject::Subscribe(subject.to_owned());
        let publish = |subject: &str| Subject::Publish(subject.to_owned());
        for (said, meant) in [
            (r#"Permissions Violation for Subscription to "lab.secret""#, subscribe("lab.secret")),
            (r#"permissions violation for subscription to "lab.*" using queue "q""#, subscribe("lab.*")),
            (r#"Permissions Violation for Publish to "lab.secret""#, publish("lab.secret")),
            (r#"Permissions Violation for Publish with Reply of "_INBOX.x.1""#, publish("_INBOX.x.1")),
            (r#"Permissions Violation for Publish to "a\"b\\c\u00e9""#, publish("a\"b\\cé")),
            ("maximum subscriptions exceeded", Subject::SomeSubscription),
            ("Maximum Payload Violation", Subject::Other),
            ("Permissions Violation for Subscription to lab", Subject::Other),
            (r#"Permissions Violation for Publish to "unterminated"#, Subject::Other),
            ("", Subject::Other),
        ] {
            assert_eq!(parse(said), meant, "{said}");
        }
    }

    #[test]
    fn c4_a_refusal_fails_those_of_its_subject_and_nobody_else() {
        let refusals = Arc::new(Refusals::default());
        let (first, second, other) =
            (refusals.subscription("a".into()), refusals.subscription("a".into()), refusals.subscription("b".into()));
        let publisher = refusals.publisher("a".into());
        refusals.heard(r#"Permissions Violation for Subscription to "a""#);
        assert!(first.refused().is_some() && second.refused().is_some());
        assert!(other.refused().is_none() && publisher.refused().is_none());
        drop((first, second, other, publisher));
        assert!(refusals.lock().waiting.is_empty());
    }

    #[test]
    fn c4_a_limit_fails_what_is_being_made_and_says_whether_it_may_mean_another() {
        let refusals = Arc::new(Refusals::default());
        let settled = refusals.subscription("a".into());
        settled.settle();
        let alone = refusals.subscription("b".into());
        refusals.heard("maximum subscriptions exceeded");
        assert!(settled.refused().is_none());
        assert!(alone.refused().is_some() && !alone.is_ambiguous());
        let (one, two) = (refusals.subscription("c".into()), refusals.subscription("d".into()));
        refusals.heard("maximum subscriptions exceeded");
        assert!(one.is_ambiguous() && two.is_ambiguous());
    }

    #[test]
    fn c5_what_nobody_waits_for_is_told_once_by_the_next_flush() {
        let refusals = Refusals::default();
        for _ in 0..3 {
            refusals.heard(r#"Permissions Violation for Publish to "lab.secret""#);
        }
        assert_eq!(refusals.publishes(), 3);
        let error = refusals.take_unflushed().unwrap().to_string();
        assert!(error.contains("lab.secret") && error.contains("3 publishes"), "{error}");
        assert!(refusals.take_unflushed().is_none());
    }
}
