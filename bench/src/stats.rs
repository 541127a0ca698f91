//! From the samples of many rounds to one figure, and to how far it can be trusted.

use serde::{Deserialize, Serialize};

/// The median of some samples, and their spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Of at least one sample; `None` of none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let (first, last) = {
            let sorted = sorted(samples);
            (*sorted.first()?, *sorted.last()?)
        };
        Some(Self { median: median(samples)?, min: first, max: last })
    }

    /// How far the samples lie apart, as a share of the median.
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / self.median.abs() }
    }
}

/// How two arms relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Relation {
    /// One divided by the other.
    Ratio,
    /// One less the other.
    Difference,
    /// Ours by itself, for what has to hold whatever others do.
    Alone,
}

impl Relation {
    fn of(self, ours: f64, reference: f64) -> f64 {
        match self {
            Self::Ratio => ours / reference,
            Self::Difference => ours - reference,
            Self::Alone => ours,
        }
    }
}

/// A figure, and the interval that it would fall into 95 times of 100 were the rounds drawn again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Resamplings. More of them move the ends of the interval by less than its own uncertainty.
const RESAMPLINGS: usize = 2_000;
/// The same samples give the same interval.
const SEED: u64 = 8;

/// The relation of two medians, with its bootstrap interval.
///
/// Rounds are drawn, not samples: the two sides of a round were measured one right after the other, and what the machine
/// did meanwhile disturbed both. `None` without a round, and where there is nothing to divide by.
pub fn estimate(relation: Relation, rounds: &[(f64, f64)]) -> Option<Estimate> {
    let relate = |drawn: &[(f64, f64)]| {
        let (ours, reference): (Vec<_>, Vec<_>) = drawn.iter().copied().unzip();
        Some(relation.of(median(&ours)?, median(&reference)?)).filter(|value| value.is_finite())
    };
    let value = relate(rounds)?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let drawn = (0..RESAMPLINGS).filter_map(|_| {
        let draw: Vec<_> = rounds.iter().filter_map(|_| rounds.get(random.usize(..rounds.len())).copied()).collect();
        relate(&draw)
    });
    let values = sorted(&drawn.collect::<Vec<_>>());
    let at = |share: usize| values.get((values.len() - 1) * share / 1000).copied();
    Some(Estimate { value, low: at(25)?, high: at(975)? })
}

/// The middle of some figures; the mean of the two middle ones of an even number.
pub fn median(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_ratio_lies_in_its_interval_and_noise_widens_it() {
        let quiet: Vec<_> = (0..9).map(|round| (110.0 + f64::from(round) * 0.1, 100.0)).collect();
        let noisy: Vec<_> = (0..9).map(|round| (110.0 + f64::from(round % 3) * 30.0, 100.0)).collect();
        let [quiet, noisy] = [quiet, noisy].map(|rounds| estimate(Relation::Ratio, &rounds).unwrap());
        for estimate in [quiet, noisy] {
            assert!(estimate.low <= estimate.value && estimate.value <= estimate.high, "{estimate:?}");
        }
        assert!(quiet.high - quiet.low < 0.01, "{quiet:?}");
        assert!(noisy.high - noisy.low > 0.1, "{noisy:?}");
    }

    #[test]
    fn the_same_rounds_give_the_same_interval() {
        let rounds: Vec<_> = (0..7).map(|round| (f64::from(round) + 5.0, 10.0)).collect();
        assert_eq!(estimate(Relation::Difference, &rounds), estimate(Relation::Difference, &rounds));
    }
}
