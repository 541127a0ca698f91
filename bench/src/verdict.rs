//! Whether a row reaches what it has to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stats::Estimate;

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Better {
    /// Less.
    Lower,
    /// More.
    Higher,
}

impl Better {
    /// How a bound reads in a table.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Lower => "<=",
            Self::Higher => ">=",
        }
    }
}

/// What a row has to reach, and what it should.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Missing this is a fault.
    pub must: f64,
    /// Worth reaching for.
    pub reach: f64,
}

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The whole interval lies where it should.
    Reached,
    /// The whole interval lies where it must.
    Met,
    /// The bound lies within the interval: more rounds, or a quieter machine, would tell.
    Undecided,
    /// The whole interval lies where it must not.
    Missed,
    /// There is nothing to reach.
    Shown,
}

impl Verdict {
    /// Judges a figure by its interval, so that noise alone neither meets nor misses anything.
    pub fn of(estimate: Estimate, better: Better, target: Option<Target>) -> Self {
        let Some(Target { must, reach }) = target else { return Self::Shown };
        let (best, worst) = match better {
            Better::Lower => (estimate.low, estimate.high),
            Better::Higher => (estimate.high, estimate.low),
        };
        let good = |value: f64, bound: f64| match better {
            Better::Lower => value <= bound,
            Better::Higher => value >= bound,
        };
        if good(worst, reach) {
            Self::Reached
        } else if good(worst, must) {
            Self::Met
        } else if good(best, must) {
            Self::Undecided
        } else {
            Self::Missed
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reached => "met, as hoped",
            Self::Met => "met",
            Self::Undecided => "undecided",
            Self::Missed => "missed",
            Self::Shown => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Option<Target> = Some(Target { must: 1.05, reach: 0.95 });

    fn judge(low: f64, value: f64, high: f64, better: Better, target: Option<Target>) -> Verdict {
        Verdict::of(Estimate { value, low, high }, better, target)
    }

    #[test]
    fn a_verdict_needs_the_whole_interval() {
        assert_eq!(judge(0.90, 0.92, 0.94, Better::Lower, TARGET), Verdict::Reached);
        assert_eq!(judge(0.90, 1.00, 1.04, Better::Lower, TARGET), Verdict::Met);
        assert_eq!(judge(1.00, 1.03, 1.10, Better::Lower, TARGET), Verdict::Undecided);
        assert_eq!(judge(1.00, 1.08, 1.10, Better::Lower, TARGET), Verdict::Undecided);
        assert_eq!(judge(1.06, 1.08, 1.10, Better::Lower, TARGET), Verdict::Missed);
    }

    #[test]
    fn more_may_be_better() {
        let target = Some(Target { must: 4.0, reach: 6.0 });
        assert_eq!(judge(6.1, 6.5, 7.0, Better::Higher, target), Verdict::Reached);
        assert_eq!(judge(4.1, 6.5, 7.0, Better::Higher, target), Verdict::Met);
        assert_eq!(judge(3.0, 5.0, 7.0, Better::Higher, target), Verdict::Undecided);
        assert_eq!(judge(3.0, 3.5, 3.9, Better::Higher, target), Verdict::Missed);
    }

    #[test]
    fn a_row_without_a_target_is_only_shown() {
        assert_eq!(judge(9.0, 9.0, 9.0, Better::Lower, None), Verdict::Shown);
    }
}
