//! The rules, applied.

use std::collections::HashSet;

use super::{Book, Item, Publication, Reader, Window};

/// What may not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub enum Violation {
    /// A message that nobody published there, or whose publish failed.
    Invented { reader: String, publisher: usize, number: u64 },
    /// A message that came before.
    Repeated { reader: String, publisher: usize, number: u64 },
    /// A confirmed message that came after a later one.
    Overtaken { reader: String, publisher: usize, number: u64, by: u64 },
    /// Owed messages that did not come, `first` among them, in a gap in which only `reported` drops were reported.
    Lost { reader: String, publisher: usize, first: u64, missing: u64, reported: u64 },
    /// More drops than messages that did not come.
    Overstated { reader: String, reported: u64, missing: u64 },
    /// A message that could not be read, though no byte was garbled.
    Unreadable { reader: String },
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Breaches of the rules; none is good.
    pub violations: Vec<Violation>,
    /// Messages that had to come or be reported: what the check is worth.
    pub owed: u64,
    /// Messages that came.
    pub received: u64,
    /// Drops reported.
    pub dropped: u64,
}

/// Checks one subscription against `books`.
pub fn check_reader(books: &[Book], reader: &Reader) -> Verdict {
    let mut verdict = Verdict::default();
    check_items(books, reader, &mut HashSet::new(), &mut verdict);
    let mut missing_in_all = 0;
    for (publisher, book) in books.iter().enumerate() {
        let places = places(reader, publisher, book.publications().len());
        let mut gap = Gap::default();
        for (number, publication) in book.publications().iter().enumerate() {
            match places[number] {
                // Only what cannot come late marks the ends of a gap.
                Some(place) if publication.confirmed.is_some() => {
                    gap.close(Some(place), reader, publisher, &mut verdict);
                    verdict.owed += u64::from(is_owed(publication, reader, &reader.windows));
                }
                None if is_owed(publication, reader, &reader.windows) => {
                    verdict.owed += 1;
                    missing_in_all += 1;
                    gap.missing(number);
                }
                Some(_) | None => {}
            }
        }
        gap.close(None, reader, publisher, &mut verdict);
    }
    if missing_in_all > verdict.dropped && verdict.violations.is_empty() {
        // Each gap has its report, but they share it.
        let (reader, reported) = (reader.name.clone(), verdict.dropped);
        verdict.violations.push(Violation::Lost { reader, publisher: 0, first: 0, missing: missing_in_all, reported });
    }
    let possible: u64 = books.iter().map(|book| count(book, |sent| !sent.failed && reader.reads(sent))).sum();
    overstated(reader.name.clone(), possible, &mut verdict);
    verdict
}

/// Checks the members of a queue group, each message to one of them; `windows` are the times during which each member's
/// connection stood and the server knew of no other member.
pub fn check_group(books: &[Book], members: &[Reader], windows: &[Window]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut seen = HashSet::new();
    for member in members {
        check_items(books, member, &mut seen, &mut verdict);
    }
    let Some(any) = members.first() else { return verdict };
    for (publisher, book) in books.iter().enumerate() {
        for (number, publication) in book.publications().iter().enumerate() {
            if !is_owed(publication, any, windows) {
                continue;
            }
            verdict.owed += 1;
            if !seen.contains(&(publisher, number as u64)) && verdict.dropped == 0 {
                let (reader, first) = (any.name.clone(), number as u64);
                verdict.violations.push(Violation::Lost { reader, publisher, first, missing: 1, reported: 0 });
            }
        }
    }
    let possible: u64 = books.iter().map(|book| count(book, |sent| !sent.failed && any.reads(sent))).sum();
    overstated(any.name.clone(), possible, &mut verdict);
    verdict
}

/// Rules 1, 2, 3 and 6, which look at the items alone.
fn check_items(books: &[Book], reader: &Reader, seen: &mut HashSet<(usize, u64)>, verdict: &mut Verdict) {
    let mut latest: Vec<Option<u64>> = vec![None; books.len()];
    for item in &reader.items {
        let reader_name = || reader.name.clone();
        match *item {
            Item::Dropped(count) => verdict.dropped += count,
            Item::Unreadable if reader.garbled => {}
            Item::Unreadable => verdict.violations.push(Violation::Unreadable { reader: reader_name() }),
            Item::Message { publisher, number } => {
                verdict.received += 1;
                let publication = find(books, publisher, number);
                let Some(publication) = publication.filter(|sent| !sent.failed && reader.reads(sent)) else {
                    verdict.violations.push(Violation::Invented { reader: reader_name(), publisher, number });
                    continue;
                };
                if !seen.insert((publisher, number)) {
                    verdict.violations.push(Violation::Repeated { reader: reader_name(), publisher, number });
                    continue;
                }
                let latest = &mut latest[publisher];
                match *latest {
                    Some(by) if by > number => {
                        if publication.confirmed.is_some() {
                            let reader = reader_name();
                            verdict.violations.push(Violation::Overtaken { reader, publisher, number, by });
                        }
                    }
                    _ => *latest = Some(number),
                }
            }
        }
    }
}

/// Rule 5.
fn overstated(reader: String, possible: u64, verdict: &mut Verdict) {
    let missing = possible.saturating_sub(verdict.received);
    if verdict.dropped > missing {
        verdict.violations.push(Violation::Overstated { reader, reported: verdict.dropped, missing });
    }
}

/// Owed messages missing between two that came.
#[derive(Default)]
struct Gap {
    /// The item behind which it lies; unset at the beginning.
    after: Option<usize>,
    first: u64,
    missing: u64,
}

impl Gap {
    fn missing(&mut self, number: usize) {
        if self.missing == 0 {
            self.first = number as u64;
        }
        self.missing += 1;
    }

    /// The gap ends before the item at `place`, or with the last one; another begins there.
    fn close(&mut self, place: Option<usize>, reader: &Reader, publisher: usize, verdict: &mut Verdict) {
        if self.missing > 0 {
            let from = self.after.map_or(0, |after| after + 1);
            let until = place.unwrap_or(reader.items.len()).max(from);
            let drops = reader.items[from..until].iter();
            let reported = drops.map(|item| if let Item::Dropped(count) = item { *count } else { 0 }).sum();
            if self.missing > reported {
                let (first, missing) = (self.first, self.missing);
                let reader = reader.name.clone();
                verdict.violations.push(Violation::Lost { reader, publisher, first, missing, reported });
            }
        }
        *self = Self { after: place, ..Self::default() };
    }
}

/// Where in the reader's items each message of a publisher is.
fn places(reader: &Reader, publisher: usize, count: usize) -> Vec<Option<usize>> {
    let mut places = vec![None; count];
    for (place, item) in reader.items.iter().enumerate() {
        if let Item::Message { publisher: from, number } = *item
            && from == publisher
            && let Some(slot) = usize::try_from(number).ok().and_then(|number| places.get_mut(number))
        {
            slot.get_or_insert(place);
        }
    }
    places
}

fn is_owed(publication: &Publication, reader: &Reader, windows: &[Window]) -> bool {
    let Some(confirmed) = publication.confirmed.filter(|_| reader.reads(publication)) else { return false };
    windows.iter().any(|window| window.covers(publication.began, confirmed))
}

fn find(books: &[Book], publisher: usize, number: u64) -> Option<&Publication> {
    books.get(publisher)?.publications().get(usize::try_from(number).ok()?)
}

fn count(book: &Book, which: impl Fn(&Publication) -> bool) -> u64 {
    book.publications().iter().filter(|publication| which(publication)).count() as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const SUBJECT: u8 = 0;

    /// `count` messages, all confirmed, and a window around them.
    fn confirmed(count: usize) -> (Vec<Book>, Window) {
        let from = Instant::now();
        let mut book = Book::default();
        for _ in 0..count {
            book.publish(SUBJECT, 1);
        }
        book.flushed(1);
        (vec![book], Window { from, until: Instant::now() + Duration::from_secs(1), garbled: false })
    }

    fn message(number: u64) -> Item {
        Item::Message { publisher: 0, number }
    }

    fn reader(items: &[Item], window: Window) -> Reader {
        Reader {
            name: "reader".to_owned(),
            subject: None,
            items: items.to_vec(),
            windows: vec![window],
            garbled: window.garbled,
        }
    }

    fn violations(books: &[Book], items: &[Item], window: Window) -> Vec<Violation> {
        check_reader(books, &reader(items, window)).violations
    }

    fn lost(first: u64, missing: u64, reported: u64) -> Violation {
        Violation::Lost { reader: "reader".to_owned(), publisher: 0, first, missing, reported }
    }

    #[test]
    fn everything_in_order_is_fine_and_all_of_it_was_owed() {
        let (books, window) = confirmed(3);
        let verdict = check_reader(&books, &reader(&[message(0), message(1), message(2)], window));
        assert_eq!((verdict.violations, verdict.owed, verdict.received), (vec![], 3, 3));
    }

    #[test]
    fn a_loss_is_found_in_the_middle_at_the_beginning_and_at_the_end() {
        let (books, window) = confirmed(3);
        assert_eq!(violations(&books, &[message(0), message(2)], window), [lost(1, 1, 0)]);
        assert_eq!(violations(&books, &[message(2)], window), [lost(0, 2, 0)]);
        assert_eq!(violations(&books, &[message(0)], window), [lost(1, 2, 0)]);
    }

    #[test]
    fn a_report_excuses_a_loss_only_in_its_place_and_only_as_far_as_it_goes() {
        let (books, window) = confirmed(4);
        let report = |count| Item::Dropped(count);
        assert_eq!(violations(&books, &[message(0), report(2), message(3)], window), []);
        assert_eq!(violations(&books, &[message(0), report(1), message(3)], window), [lost(1, 2, 1)]);
        let late = [message(0), message(2), report(1), message(3)];
        assert_eq!(violations(&books, &late, window), [lost(1, 1, 0)]);
    }

    #[test]
    fn one_report_does_not_excuse_the_losses_of_two_publishers() {
        let (mut books, window) = confirmed(2);
        books.extend(confirmed(2).0);
        let window = Window { until: window.until + Duration::from_secs(1), ..window };
        let second = |number| Item::Message { publisher: 1, number };
        let items = [message(0), second(0), Item::Dropped(1)];
        assert!(matches!(violations(&books, &items, window)[..], [Violation::Lost { missing: 2, reported: 1, .. }]));
    }

    #[test]
    fn drops_that_did_not_happen_are_found() {
        let (books, window) = confirmed(1);
        let found = violations(&books, &[message(0), Item::Dropped(1)], window);
        assert_eq!(found, [Violation::Overstated { reader: "reader".to_owned(), reported: 1, missing: 0 }]);
    }

    #[test]
    fn a_duplicate_is_found_even_far_apart_and_unconfirmed() {
        let (mut books, window) = confirmed(2);
        books[0].publish(SUBJECT, 2);
        let found = violations(&books, &[message(0), message(2), message(1), message(2)], window);
        let repeated = Violation::Repeated { reader: "reader".to_owned(), publisher: 0, number: 2 };
        assert!(found.contains(&repeated), "{found:?}");
    }

    #[test]
    fn a_reordering_is_found_unless_the_late_one_was_never_confirmed() {
        let (mut books, window) = confirmed(2);
        let found = violations(&books, &[message(1), message(0)], window);
        assert!(found.contains(&Violation::Overtaken { reader: "reader".to_owned(), publisher: 0, number: 0, by: 1 }));
        books[0].publish(SUBJECT, 2);
        books[0].publish(SUBJECT, 3);
        books[0].flushed(3);
        assert_eq!(violations(&books, &[message(0), message(1), message(3), message(2)], window), []);
    }

    #[test]
    fn a_message_that_failed_or_never_was_or_went_elsewhere_must_not_come() {
        let (mut books, window) = confirmed(1);
        books[0].publish(SUBJECT, 1);
        books[0].failed();
        let invented = |number| Violation::Invented { reader: "reader".to_owned(), publisher: 0, number };
        assert_eq!(violations(&books, &[message(0), message(1)], window), [invented(1)]);
        assert_eq!(violations(&books, &[message(0), message(7)], window), [invented(7)]);
        let elsewhere = Reader { subject: Some(SUBJECT + 1), ..reader(&[message(0)], window) };
        assert_eq!(check_reader(&books, &elsewhere).violations, [invented(0)]);
    }

    #[test]
    fn nothing_is_owed_by_a_connection_that_did_not_stand_all_the_while_or_was_garbled() {
        let (books, window) = confirmed(1);
        let sent = books[0].publications()[0];
        let before = Window { until: sent.began, ..window };
        let after = Window { from: sent.confirmed.unwrap() + Duration::from_nanos(1), ..window };
        for window in [before, after, Window { garbled: true, ..window }] {
            let verdict = check_reader(&books, &reader(&[], window));
            assert_eq!((verdict.violations, verdict.owed), (vec![], 0));
        }
    }

    #[test]
    fn only_a_flush_in_the_epoch_of_the_publish_confirms() {
        let mut book = Book::default();
        book.publish(SUBJECT, 1);
        book.flushed(2);
        book.flushed(1);
        assert!(book.publications()[0].confirmed.is_none());
    }

    #[test]
    fn unreadable_items_need_a_garbled_connection() {
        let (books, window) = confirmed(1);
        let items = [message(0), Item::Unreadable];
        assert_eq!(violations(&books, &items, window), [Violation::Unreadable { reader: "reader".to_owned() }]);
        assert_eq!(violations(&books, &items, Window { garbled: true, ..window }), []);
    }

    #[test]
    fn a_group_takes_each_message_once_and_loses_none() {
        let (books, window) = confirmed(3);
        let group = |first: &[Item], second: &[Item]| {
            check_group(&books, &[reader(first, window), reader(second, window)], &[window]).violations
        };
        assert_eq!(group(&[message(0), message(2)], &[message(1)]), []);
        assert_eq!(group(&[message(0)], &[message(1)]), [lost(2, 1, 0)]);
        let repeated = Violation::Repeated { reader: "reader".to_owned(), publisher: 0, number: 1 };
        assert_eq!(group(&[message(0), message(1), message(2)], &[message(1)]), [repeated]);
    }
}
