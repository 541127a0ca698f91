//! A slowdown turns the verdict of its row.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use mlx_bench::arm::Samples;
use mlx_bench::arm::Size;
use mlx_bench::report::RowReport;
use mlx_bench::rows::{Row, rows};
use mlx_bench::sample::{Latencies, Sample};
use mlx_bench::verdict::Verdict;

const ROUNDS: usize = 7;

/// What a message takes that is published and received on loopback.
const TRIP: Duration = Duration::from_micros(150);

/// The latencies of 200 calls of `trip`.
fn measured(trip: impl Fn()) -> Sample {
    let mut latencies = Latencies::new().unwrap();
    for _ in 0..200 {
        let begun = Instant::now();
        trip();
        latencies.record(begun.elapsed());
    }
    Sample::default().with_latencies(&latencies)
}

/// Both sides of a row in turns, as a run does.
fn judge(row: &Row, ours: impl Fn(), raw: impl Fn()) -> RowReport {
    let mut samples = Samples::new();
    for _ in 0..ROUNDS {
        samples.entry(row.subject).or_default().push(measured(&ours));
        samples.entry(row.reference).or_default().push(measured(&raw));
    }
    RowReport::new(row, &samples).unwrap()
}

#[test]
fn fifty_microseconds_more_in_a_publish_are_a_miss() {
    let rows = rows(Size::Quick);
    let row = rows.iter().find(|row| row.id == "publish-latency").unwrap();
    let trip = || std::thread::sleep(TRIP); // stands for the message's way
    let slowed = || {
        trip();
        std::thread::sleep(Duration::from_micros(50)); // the slowdown
    };
    let report = judge(row, slowed, trip);
    assert_eq!(report.verdict, Verdict::Missed, "{:?}", report.estimate);
    assert!(report.estimate.low > 1.1, "{:?}", report.estimate);
}

#[test]
fn a_row_that_gains_what_it_should_is_met() {
    let rows = rows(Size::Quick);
    let row = rows.iter().find(|row| row.id == "publish-latency").unwrap();
    let trip = || std::thread::sleep(TRIP); // stands for the message's way
    let slower = || std::thread::sleep(TRIP * 2); // and for a longer one
    let report = judge(row, trip, slower);
    assert_eq!(report.verdict, Verdict::Reached, "{:?}", report.estimate);
}
