//! What a run came to, as data and as text.

mod compare;
mod plot;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Samples, Side};
use crate::machine::{Machine, Moment};
use crate::rows::Row;
use crate::sample::{Latencies, Metric};
use crate::stats::{Estimate, Relation, Summary, estimate};
use crate::verdict::{Better, Target, Verdict};

pub use compare::comparison;
pub use plot::plot;
pub use table::{list, table};

/// A run: what was measured, where, when, and how it is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Of this file.
    pub format: u32,
    /// Where.
    pub machine: Machine,
    /// When it began.
    pub begun: Moment,
    /// When it ended.
    pub ended: Moment,
    /// Whether each measurement did less work.
    pub quick: bool,
    /// How often each arm was measured.
    pub rounds: u32,
    /// The table.
    pub rows: Vec<RowReport>,
    /// Cost against count.
    pub curves: Vec<CurveReport>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RowReport {
    /// Its name on the command line.
    pub id: String,
    /// What it measures.
    pub title: String,
    /// Of the figures.
    pub unit: String,
    /// What is judged.
    pub subject: ArmReport,
    /// What it is compared with.
    pub reference: ArmReport,
    /// How.
    pub relation: Relation,
    /// What the comparison says.
    pub estimate: Estimate,
    /// Which way is good.
    pub better: Better,
    /// What it has to reach.
    pub target: Option<Target>,
    /// How it stands.
    pub verdict: Verdict,
}

/// One side of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmReport {
    /// What was measured.
    pub arm: Arm,
    /// Over all rounds.
    pub summary: Summary,
    /// Round by round.
    pub samples: Vec<f64>,
    /// The latencies of all rounds together, each as a share of messages and the us that it stays below; empty where the
    /// row is not about latency.
    pub quantiles: Vec<(f64, f64)>,
}

/// Cost against count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CurveReport {
    /// Its name.
    pub id: String,
    /// What it shows.
    pub title: String,
    /// Of the figures.
    pub unit: String,
    /// The figure of each arm.
    pub points: Vec<(Arm, Summary)>,
}

impl Report {
    /// The form of the file that this program writes and reads.
    pub const FORMAT: u32 = 1;

    /// Whether a row misses what it must reach.
    pub fn misses(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Missed)
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When the file cannot be read, or is not of this form.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let report: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is not what --json writes", file.display()))?;
        ensure!(report.format == Self::FORMAT, "{} is of another version of this program", file.display());
        Ok(report)
    }

    /// Writes everything that was measured, as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl RowReport {
    /// Judges a row by the samples of its arms.
    ///
    /// # Errors
    /// When an arm has no sample, or one without the row's figure.
    pub fn new(row: &Row, samples: &Samples) -> Result<Self> {
        let subject = ArmReport::new(row.subject, row.metric, samples)?;
        let reference = ArmReport::new(row.reference, row.metric, samples)?;
        let rounds: Vec<_> = subject.samples.iter().copied().zip(reference.samples.iter().copied()).collect();
        let estimate =
            estimate(row.relation, &rounds).with_context(|| format!("{} has nothing to be compared with", row.id))?;
        Ok(Self {
            id: row.id.to_owned(),
            title: row.title.to_owned(),
            unit: row.metric.unit().to_owned(),
            subject,
            reference,
            relation: row.relation,
            estimate,
            better: row.better,
            target: row.target,
            verdict: Verdict::of(estimate, row.better, row.target),
        })
    }
}

/// The shares of messages whose latency is kept: finer towards the slow end.
const SHARES: [f64; 12] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0];

impl ArmReport {
    fn new(arm: Arm, metric: Metric, samples: &Samples) -> Result<Self> {
        let of_arm = samples.get(&arm).with_context(|| format!("{arm} was not measured"))?;
        let value = |sample: &crate::sample::Sample| {
            sample.metrics.get(&metric).copied().with_context(|| format!("{arm} has no such figure: {metric:?}"))
        };
        let values = of_arm.iter().map(value).collect::<Result<Vec<_>>>()?;
        let mut latencies = Latencies::new()?;
        if metric == Metric::P50 {
            for sample in of_arm {
                latencies.add(&sample.latencies);
            }
        }
        let shares: &[f64] = if latencies.is_empty() { &[] } else { &SHARES };
        let quantiles = shares.iter().map(|share| (*share, latencies.quantile(*share))).collect();
        let summary = Summary::of(&values).with_context(|| format!("{arm} has no sample"))?;
        Ok(Self { arm, summary, samples: values, quantiles })
    }

    /// The latency in us that such a share of all messages stays below, where the row is about latency.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        self.quantiles.iter().find(|(kept, _)| (kept - share).abs() < 1e-9).map(|(_, micros)| *micros)
    }

    /// How the side is called in a table.
    pub fn label(&self) -> &'static str {
        match self.arm.side {
            Side::Ours => "ours",
            Side::OursPlain => "ours, one token a message",
            Side::Raw => "raw",
            Side::Bare => "bare",
        }
    }
}
