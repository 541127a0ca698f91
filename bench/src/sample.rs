//! What one measurement brings home.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A figure that a measurement yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Metric {
    /// Units done in a second.
    Rate,
    /// Time for a unit, in us.
    UnitTime,
    /// The median latency, in us.
    P50,
    /// The latency that 99 of 100 stay below, in us.
    P99,
    /// Processor time of the clients for a unit, in us.
    ClientCpu,
    /// Processor time of the server for a unit, in us.
    ServerCpu,
    /// Resident memory, in MiB.
    Memory,
}

impl Metric {
    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Rate => "/s",
            Self::UnitTime | Self::P50 | Self::P99 | Self::ClientCpu | Self::ServerCpu => "us",
            Self::Memory => "MiB",
        }
    }
}

/// The figures of one measurement, and its latencies where it has some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Each figure that was measured.
    pub metrics: BTreeMap<Metric, f64>,
    /// Latencies in ns and how many there were of each, as a histogram keeps them.
    pub latencies: Vec<(u64, u64)>,
}

impl Sample {
    /// A sample of one figure.
    pub fn of(metric: Metric, value: f64) -> Self {
        Self::default().with(metric, value)
    }

    /// The same with one figure more.
    #[must_use]
    pub fn with(mut self, metric: Metric, value: f64) -> Self {
        self.metrics.insert(metric, value);
        self
    }

    /// The same with latencies and what follows from them.
    #[must_use]
    pub fn with_latencies(mut self, latencies: &Latencies) -> Self {
        self.latencies = latencies.0.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect();
        let micros = |quantile| micros(Duration::from_nanos(latencies.0.value_at_quantile(quantile)));
        self.with(Metric::P50, micros(0.5)).with(Metric::P99, micros(0.99))
    }
}

/// Latencies from 1 ns to 1 h, each to one part in a thousand.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    const LONGEST: u64 = 3_600_000_000_000;

    /// None yet.
    pub fn new() -> Result<Self> {
        Histogram::new_with_bounds(1, Self::LONGEST, 3).map(Self).context("a histogram")
    }

    /// One more.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(Self::LONGEST);
        self.0.saturating_record(nanos);
    }

    /// Those of a sample beside these.
    pub fn add(&mut self, latencies: &[(u64, u64)]) {
        for (nanos, count) in latencies {
            self.0.saturating_record_n(*nanos, *count);
        }
    }

    /// The latency in us that a share of all stay below.
    pub fn quantile(&self, share: f64) -> f64 {
        micros(Duration::from_nanos(self.0.value_at_quantile(share)))
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A duration in us.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_survive_the_way_from_one_process_to_another() {
        let mut latencies = Latencies::new().unwrap();
        for micros in 1..=1000 {
            latencies.record(Duration::from_micros(micros));
        }
        let sample = Sample::default().with_latencies(&latencies);
        let sample: Sample = serde_json::from_str(&serde_json::to_string(&sample).unwrap()).unwrap();
        let mut merged = Latencies::new().unwrap();
        merged.add(&sample.latencies);
        assert_eq!(merged.len(), 1000);
        for share in [0.5, 0.99, 1.0] {
            let (was, is) = (latencies.quantile(share), merged.quantile(share));
            assert!((was - is).abs() <= was * 0.002, "{share}: {was} became {is}");
        }
        assert!((sample.metrics[&Metric::P50] - 500.0).abs() < 2.0);
    }
}
