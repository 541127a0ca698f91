//! The last ten minutes, for curves: pure, with the time passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What one point of a curve covers.
pub(super) const SLOT: Duration = Duration::from_secs(5);
/// Points that are kept: ten minutes.
pub(super) const SLOTS: usize = 120;

/// What happened in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Slot {
    /// Tokens that came.
    pub(super) tokens: u64,
    /// Requests that came to their end.
    pub(super) requests: u64,
    /// Answers that began, and how long they all took to.
    begun: u64,
    to_begin: Duration,
}

impl Slot {
    /// The mean time to the first token, where there was one.
    pub(super) fn first_token(&self) -> Option<Duration> {
        Some(self.to_begin / u32::try_from(self.begun).ok().filter(|begun| *begun > 0)?)
    }
}

/// The slots, of which the last one is not over.
#[derive(Clone, Debug)]
pub(super) struct History {
    slots: VecDeque<Slot>,
    /// When the last one began.
    since: Option<Instant>,
}

impl Default for History {
    fn default() -> Self {
        Self { slots: VecDeque::from(vec![Slot::default(); SLOTS]), since: None }
    }
}

impl History {
    pub(super) fn token(&mut self, now: Instant) {
        self.at(now, |slot| slot.tokens += 1);
    }

    pub(super) fn request(&mut self, now: Instant) {
        self.at(now, |slot| slot.requests += 1);
    }

    pub(super) fn first_token(&mut self, took: Duration, now: Instant) {
        self.at(now, |slot| (slot.begun, slot.to_begin) = (slot.begun + 1, slot.to_begin + took));
    }

    /// The slots that are over by `now`, the oldest first, and the one under way.
    pub(super) fn slots(&self, now: Instant) -> Vec<Slot> {
        let mut history = self.clone();
        history.move_on(now);
        history.slots.into()
    }

    fn at(&mut self, now: Instant, change: impl FnOnce(&mut Slot)) {
        self.move_on(now);
        if let Some(slot) = self.slots.back_mut() {
            change(slot);
        }
    }

    fn move_on(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_millis() / SLOT.as_millis();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        self.since = since.checked_add(SLOT * passed).or(Some(now));
        // After a longer silence than is kept, all of them are empty.
        for _ in 0..usize::try_from(passed).unwrap_or(SLOTS).min(SLOTS) {
            self.slots.pop_front();
            self.slots.push_back(Slot::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_in_its_slot_and_goes_after_ten_minutes() {
        let (start, mut history) = (Instant::now(), History::default());
        history.token(start);
        history.token(start + SLOT / 2);
        history.request(start + SLOT * 3);
        history.first_token(Duration::from_millis(100), start + SLOT * 3);
        history.first_token(Duration::from_millis(300), start + SLOT * 3);
        let slots = history.slots(start + SLOT * 4);
        assert_eq!(slots.len(), SLOTS);
        let recent: Vec<_> = slots[SLOTS - 5..].iter().map(|slot| (slot.tokens, slot.requests)).collect();
        assert_eq!(recent, [(2, 0), (0, 0), (0, 0), (0, 1), (0, 0)]);
        assert_eq!(slots[SLOTS - 2].first_token(), Some(Duration::from_millis(200)));
        assert_eq!(slots[SLOTS - 1].first_token(), None);
        let later = history.slots(start + SLOT * 500);
        assert_eq!((later.len(), later.iter().all(|slot| *slot == Slot::default())), (SLOTS, true));
    }
}
