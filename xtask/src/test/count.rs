//! Counting what test runners report.

use std::fmt;
use std::ops::AddAssign;

use serde_json::Value;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Adds up a runner's standard output, line by line.
#[derive(Debug)]
pub(super) struct Counter {
    parse: fn(&str) -> Line,
    count: Count,
}

/// What a line of a runner is.
enum Line {
    /// For people.
    Shown(Option<Count>),
    /// For programs.
    Hidden(Option<Count>),
}

impl Counter {
    /// For nextest's JSON; what people read comes on its standard error.
    pub(super) fn nextest() -> Self {
        Self { parse: of_nextest, count: Count::default() }
    }

    /// For the text of cargo test.
    pub(super) fn libtest() -> Self {
        Self { parse: |line| Line::Shown(of_libtest(line)), count: Count::default() }
    }

    /// Counts the line; whether to show it.
    pub(super) fn read(&mut self, line: &str) -> bool {
        let (shown, count) = match (self.parse)(line) {
            Line::Shown(count) => (true, count),
            Line::Hidden(count) => (false, count),
        };
        self.count += count.unwrap_or_default();
        shown
    }

    pub(super) fn count(&self) -> Count {
        self.count
    }
}

/// A line such as `{"type":"suite","event":"ok","passed":4,"failed":0,"ignored":0,"filtered_out":1}`.
///
/// With `--no-capture` the tests' own output is in between.
fn of_nextest(line: &str) -> Line {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return Line::Shown(None) };
    let is = |key, values: &[&str]| line.get(key).and_then(Value::as_str).is_some_and(|value| values.contains(&value));
    if !is("type", &["suite", "test"]) || line.get("event").is_none() {
        return Line::Shown(None);
    }
    let number = |key| line.get(key).and_then(Value::as_u64);
    // An event without counts is the start of a suite.
    let (true, Some(passed), Some(failed)) = (is("type", &["suite"]), number("passed"), number("failed")) else {
        return Line::Hidden(None);
    };
    let skipped = number("ignored").unwrap_or(0) + number("filtered_out").unwrap_or(0);
    Line::Hidden(Some(Count { passed, failed, skipped }))
}

/// A line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`.
fn of_libtest(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |what: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(what))?;
        part.trim().parse::<u64>().ok()
    };
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored").unwrap_or(0) + number("filtered out").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_of_nextest_add_up() {
        let mut counter = Counter::nextest();
        for line in [
            r#"{"type":"suite","event":"started","test_count":4}"#,
            r#"{"type":"test","event":"started","name":"xtask::lint$a"}"#,
            r#"{"type":"test","event":"failed","name":"xtask::lint$a","stdout":"test result: ok. 9 passed; 9 failed"}"#,
            r#"{"type":"suite","event":"failed","passed":3,"failed":1,"ignored":2,"measured":0,"filtered_out":5}"#,
            r#"{"type":"suite","event":"ok","passed":9,"failed":0,"ignored":0,"measured":0,"filtered_out":0}"#,
        ] {
            assert!(!counter.read(line));
        }
        for line in ["what a test prints", r#"{"level":"info","message":"or logs"}"#, "null", ""] {
            assert!(counter.read(line));
        }
        assert_eq!(counter.count(), Count { passed: 12, failed: 1, skipped: 7 });
    }

    #[test]
    fn results_of_cargo_test_add_up() {
        let mut counter = Counter::libtest();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
            "test result: FAILED. 10 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.01s",
            "all doctests ran in 0.33s; merged doctests compilation took 0.31s",
        ] {
            assert!(counter.read(line));
        }
        assert_eq!(counter.count(), Count { passed: 13, failed: 4, skipped: 3 });
    }

    #[test]
    fn the_closing_line_is_plain() {
        let count = Count { passed: 1, failed: 0, skipped: 2 };
        assert_eq!(count.to_string(), "1 passed, 0 failed, 2 skipped");
    }
}
