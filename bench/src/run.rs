//! The run: rounds, in each of which every arm of a workload is measured once, one right after the other.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use mlx_embedded::EmbeddedServer;
use mlx_types::config::NatsConfig;

use crate::arm::Samples;
use crate::arm::{Arm, Size, Workload};
use crate::cli::Options;
use crate::machine::{Machine, Moment};
use crate::part::measure;
use crate::report::{CurveReport, Report, RowReport};
use crate::rows::{CURVES, Curve};
use crate::stats::Summary;

/// Rounds of a curve, whose points are not judged.
const CURVE_ROUNDS: u32 = 3;

/// How long a server may take to stop. It has nothing left to do then.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Measures what `options` ask for, by processes of `program`.
///
/// # Errors
/// When there is no nats-server, or a measurement fails.
pub async fn run(options: &Options, program: &Path) -> Result<Report> {
    let (rows, size, rounds) = (options.rows(), options.size(), options.rounds());
    let curves: &[Curve] = if options.curves() { &CURVES } else { &[] };
    let judged: BTreeSet<Arm> = rows.iter().flat_map(|row| [row.subject, row.reference]).collect();
    let drawn: BTreeSet<Arm> = curves.iter().flat_map(points).collect();

    let server = start_server().await?;
    let machine = Machine::here(server.binary().version.to_string())?;
    drop(server);
    let progress = Progress::new(judged.len() * rounds as usize + drawn.len() * CURVE_ROUNDS as usize);
    let begun = Moment::now()?;
    let samples = take_turns(program, &judged, rounds, size, &progress).await?;
    let of_curves = take_turns(program, &drawn, CURVE_ROUNDS, Size::Quick, &progress).await?;
    progress.done();

    let rows = rows.iter().map(|row| RowReport::new(row, &samples)).collect::<Result<_>>()?;
    let curves = curves.iter().map(|curve| curve_report(curve, &of_curves)).collect();
    Ok(Report {
        format: Report::FORMAT,
        machine,
        begun,
        ended: Moment::now()?,
        quick: options.quick,
        rounds,
        rows,
        curves,
    })
}

fn points(curve: &Curve) -> impl Iterator<Item = Arm> {
    let Curve { workload, sides, counts, .. } = *curve;
    sides.iter().flat_map(move |side| counts.iter().map(move |count| Arm::new(workload, *side, *count)))
}

fn curve_report(curve: &Curve, samples: &Samples) -> CurveReport {
    let summary = |arm: Arm| {
        let values: Vec<f64> =
            samples.get(&arm)?.iter().filter_map(|sample| sample.metrics.get(&curve.metric)).copied().collect();
        Some((arm, Summary::of(&values)?))
    };
    CurveReport {
        id: curve.id.to_owned(),
        title: curve.title.to_owned(),
        unit: curve.metric.unit().to_owned(),
        points: points(curve).filter_map(summary).collect(),
    }
}

/// Workload by workload, each on a server of its own; within one, round by round, every arm in turn.
async fn take_turns(
    program: &Path,
    arms: &BTreeSet<Arm>,
    rounds: u32,
    size: Size,
    progress: &Progress,
) -> Result<Samples> {
    let mut samples = Samples::new();
    let workloads: BTreeSet<Workload> = arms.iter().map(|arm| arm.workload).collect();
    for workload in workloads {
        let mut arms: Vec<Arm> = arms.iter().copied().filter(|arm| arm.workload == workload).collect();
        progress.begin(workload, arms.len(), rounds);
        let server = start_server().await?;
        for arm in &arms {
            // Once for nothing: the program, the server and the disk cache are warm from the first round on.
            measure(program, &server, *arm, workload.work(arm.count, Size::Tiny)).await?;
        }
        for _ in 0..rounds {
            for arm in &arms {
                let sample = measure(program, &server, *arm, workload.work(arm.count, size)).await?;
                samples.entry(*arm).or_default().push(sample);
                progress.step(*arm);
            }
            // None of them is always the one after the same other.
            arms.rotate_left(1);
        }
        server.stop(STOP_LIMIT).await?;
    }
    Ok(samples)
}

/// A server with the default settings, on free ports.
pub async fn start_server() -> Result<EmbeddedServer> {
    let mut config = NatsConfig::default();
    config.embedded.port = 0;
    config.embedded.http_port = 0;
    EmbeddedServer::start(&config).await.context("cannot start nats-server")
}

/// How far the run is: a bar on a terminal, a line a workload elsewhere.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} [{elapsed}, {eta} left] {msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    fn begin(&self, workload: Workload, arms: usize, rounds: u32) {
        if self.bar.is_hidden() {
            anstream::eprintln!("{workload}: {rounds} rounds of {arms}");
        }
    }

    fn step(&self, arm: Arm) {
        self.bar.set_message(arm.to_string());
        self.bar.inc(1);
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
}
