//! What was found to be wrong: the first of it by its place, and how much more there is.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use mlx_errors::{Violation, Violations};

use crate::tree::Position;

/// How many are reported. More than this is one mistake repeated, or the wrong file.
const MAX_FINDINGS: usize = 100;

/// The first violations of a load, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The last of them on top.
    first: BinaryHeap<Finding>,
    found: usize,
}

#[derive(Debug)]
struct Finding {
    place: Position,
    /// The order in which they were found, where they have one place.
    number: usize,
    violation: Violation,
}

impl Findings {
    /// Takes a violation.
    pub(crate) fn push(&mut self, place: Position, violation: Violation) {
        self.offer(place, || violation);
    }

    /// Takes a violation, which is made only if it is among the first so far.
    pub(crate) fn offer(&mut self, place: Position, violation: impl FnOnce() -> Violation) {
        let number = self.found;
        self.found += 1;
        if self.first.len() < MAX_FINDINGS {
            self.first.push(Finding { place, number, violation: violation() });
        } else if let Some(mut last) = self.first.peek_mut()
            && (place, number) < (last.place, last.number)
        {
            *last = Finding { place, number, violation: violation() };
        }
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.found == 0
    }

    /// The violations; the last of them says how many there are besides.
    pub(crate) fn into_violations(self) -> Violations {
        let more = self.found - self.first.len();
        let mut violations: Violations =
            self.first.into_sorted_vec().into_iter().map(|finding| finding.violation).collect();
        if more > 0 {
            violations.push(Violation::new("", "more", format!("and {more} more, which are not told")));
        }
        violations
    }
}

impl Ord for Finding {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.place, self.number).cmp(&(other.place, other.number))
    }
}

impl PartialOrd for Finding {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Finding {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Finding {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f6_the_first_by_their_place_are_told_and_the_others_are_counted() {
        let mut findings = Findings::default();
        for line in (1..=250).rev() {
            let place = Position { line, ..Position::default() };
            findings.offer(place, || Violation::new("", "rule", line.to_string()));
        }
        let told: Vec<String> = findings.into_violations().iter().map(|told| told.message.clone()).collect();
        let expected: Vec<String> = (1..=100).map(|line: usize| line.to_string()).collect();
        assert_eq!(told[..100], expected);
        assert_eq!(told[100..], ["and 150 more, which are not told"]);
    }
}
