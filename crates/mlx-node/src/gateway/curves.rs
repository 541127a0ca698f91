//! The last ten minutes as small curves, drawn here.

use std::fmt::Write as _;
use std::time::Instant;

use maud::{Markup, html};

use super::history::{History, SLOT, SLOTS, Slot};

/// Height of a curve, in units of its drawing; a point is one wide.
const HEIGHT: f64 = 32.0;

/// Three curves: tokens, requests, and the time to the first token.
pub(super) fn curves(history: &History, now: Instant) -> Markup {
    let slots = history.slots(now);
    // The last one is not over, and would look like a fall.
    let over = slots.get(..SLOTS - 1).unwrap_or_default();
    let values = |value: fn(&Slot) -> Option<f64>| over.iter().map(value).collect::<Vec<_>>();
    html! {
        div .curves {
            (curve("Tokens a second", &values(|slot| Some(per_second(slot.tokens))), |value| format!("{value:.1}")))
            (curve("Requests a minute", &values(|slot| Some(per_second(slot.requests) * 60.0)), |value| format!("{value:.0}")))
            (curve("First token after", &values(|slot| slot.first_token().map(|time| time.as_secs_f64())), seconds))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people, far below 2^52")]
fn per_second(count: u64) -> f64 {
    count as f64 / SLOT.as_secs_f64()
}

fn seconds(value: f64) -> String {
    if value < 1.0 { format!("{:.0} ms", value * 1000.0) } else { format!("{value:.1} s") }
}

/// One curve, with what it is now and was at the most.
fn curve(name: &str, values: &[Option<f64>], shown: impl Fn(f64) -> String) -> Markup {
    let most = values.iter().flatten().copied().fold(0.0, f64::max);
    let last = values.iter().rev().find_map(|value| *value);
    let now = last.map_or_else(|| "–".to_owned(), &shown);
    let most_shown = shown(most);
    html! {
        figure {
            figcaption { (name) " " strong { (now) } span { "at most " (most_shown) } }
            svg viewBox=(format!("0 0 {} {HEIGHT}", SLOTS - 2)) preserveAspectRatio="none" role="img"
                aria-label=(format!("{name} in the last ten minutes: {now} now, {most_shown} at the most")) {
                path d=(path(values, most)) {}
            }
        }
    }
}

/// The lines through the points that there are; one by itself is a short line.
#[expect(clippy::cast_precision_loss, reason = "at most 120 points")]
fn path(values: &[Option<f64>], most: f64) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for (at, value) in values.iter().enumerate() {
        let Some(value) = value else {
            drawing = false;
            continue;
        };
        // One unit is left at either end, so that the line is not cut in half.
        let height = HEIGHT - 1.0 - if most > 0.0 { value / most * (HEIGHT - 2.0) } else { 0.0 };
        let step = if drawing { "L" } else { "M" };
        let _ = write!(path, "{step}{} {height:.1}", at as f64); // into a text: cannot fail
        if !drawing {
            path.push_str("h0.5");
        }
        drawing = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_its_gaps_and_its_heights() {
        let values = [Some(0.0), Some(2.0), None, Some(1.0)];
        assert_eq!(path(&values, 2.0), "M0 31.0h0.5L1 1.0M3 16.0h0.5");
        assert_eq!(path(&[Some(0.0)], 0.0), "M0 31.0h0.5");
    }

    #[test]
    fn nothing_yet_is_a_curve_too() {
        let page = curves(&History::default(), Instant::now()).into_string();
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("Tokens a second <strong>0.0</strong>"), "{page}");
    }
}
