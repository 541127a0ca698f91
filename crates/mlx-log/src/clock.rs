//! The time of a line, RFC 3339 in UTC.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// `2026-11-23T12:25:26.123456Z`.
const LENGTH: usize = 27;
const TEMPLATE: [u8; LENGTH] = *b"0000-00-00T00:00:00.000000Z";

/// A moment, split for rendering.
#[derive(Clone, Copy)]
pub(crate) struct Timestamp {
    text: [u8; LENGTH],
}

impl Timestamp {
    /// The time now. A clock before 1970 or after 9999 reads as the nearest of the two.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::at(since.as_secs(), since.subsec_micros())
    }

    fn at(seconds: u64, micros: u32) -> Self {
        thread_local! {
            // The date changes once a second at the most, and is what costs.
            static LAST: Cell<Option<(u64, [u8; LENGTH])>> = const { Cell::new(None) };
        }
        let cached = LAST.try_with(Cell::get).ok().flatten();
        let mut text = match cached {
            Some((last, text)) if last == seconds => text,
            Some(_) | None => {
                let text = date_and_time(seconds);
                // Fails only while the thread ends, when there is nothing left to cache for.
                let _ = LAST.try_with(|last| last.set(Some((seconds, text))));
                text
            }
        };
        digits(&mut text, 20..26, micros);
        Self { text }
    }

    /// RFC 3339 with microseconds.
    pub(crate) fn rfc3339(&self) -> &[u8] {
        &self.text
    }

    /// The time of day with milliseconds, `12:25:26.123`.
    pub(crate) fn time_of_day(&self) -> &[u8] {
        self.text.get(11..23).unwrap_or_default()
    }
}

fn date_and_time(seconds: u64) -> [u8; LENGTH] {
    const LAST_SECOND_OF_9999: i64 = 253_402_300_799;
    let seconds = i64::try_from(seconds).unwrap_or(LAST_SECOND_OF_9999).min(LAST_SECOND_OF_9999);
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut text = TEMPLATE;
    digits(&mut text, 0..4, moment.year().unsigned_abs());
    digits(&mut text, 5..7, u8::from(moment.month()).into());
    digits(&mut text, 8..10, moment.day().into());
    digits(&mut text, 11..13, moment.hour().into());
    digits(&mut text, 14..16, moment.minute().into());
    digits(&mut text, 17..19, moment.second().into());
    text
}

/// Writes `value` into `range`, with leading zeros.
fn digits(text: &mut [u8; LENGTH], range: std::ops::Range<usize>, mut value: u32) {
    for byte in text.get_mut(range).unwrap_or_default().iter_mut().rev() {
        *byte = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, micros: u32) -> String {
        String::from_utf8(Timestamp::at(seconds, micros).rfc3339().to_vec()).unwrap()
    }

    #[test]
    fn l1_timestamps_are_rfc3339_in_utc() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400, 42), "2000-02-29T00:00:00.000042Z");
        assert_eq!(at(1_795_436_726, 123_456), "2026-11-23T12:25:26.123456Z");
        assert_eq!(at(u64::MAX, 999_999), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_cached_second_does_not_leak_into_the_next() {
        assert_eq!(at(59, 1), "1970-01-01T00:00:59.000001Z");
        assert_eq!(at(59, 2), "1970-01-01T00:00:59.000002Z");
        assert_eq!(at(60, 0), "1970-01-01T00:01:00.000000Z");
        assert_eq!(Timestamp::at(60, 7_000).time_of_day(), b"00:01:00.007");
    }
}
