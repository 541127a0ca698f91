//! What a run has come to: a table for people, and a last line for programs.

use std::process::ExitCode;

use super::count::Count;
use super::needs::Needs;
use crate::style;

/// How one stage ended.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) stage: &'static str,
    pub(super) count: Count,
    pub(super) seconds: f64,
    pub(super) end: End,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It ran, and what ran passed.
    Passed,
    /// A test failed, or something could not be built or run: see above.
    Failed,
    /// It could not even start, and why.
    Broken(String),
    /// It was not run, and why.
    Skipped(String),
}

impl Row {
    fn failed(&self) -> bool {
        self.count.failed > 0 || matches!(self.end, End::Failed | End::Broken(_))
    }

    fn note(&self) -> &str {
        match &self.end {
            End::Passed => "",
            End::Failed if self.count.failed == 0 => "not everything could be run: see above",
            End::Failed => "see above",
            End::Broken(reason) | End::Skipped(reason) => reason,
        }
    }
}

/// The closing lines. The very last one is plain.
pub(super) fn close(rows: &[Row], needs: &Needs, tidy: bool) -> ExitCode {
    let (heading, bad, warn) = (style::HEADING, style::BAD, style::WARN);
    anstream::println!();
    anstream::println!(
        "{}{:<12}{:>8}{:>8}{:>9}{:>9}{}",
        heading.render(),
        "stage",
        "passed",
        "failed",
        "skipped",
        "seconds",
        heading.render_reset()
    );
    for row in rows {
        let Count { passed, failed, skipped } = row.count;
        let (style, word) = match &row.end {
            End::Passed => (heading, ""),
            End::Failed | End::Broken(_) => (bad, "failed"),
            End::Skipped(_) => (warn, "skipped"),
        };
        let note = if row.note().is_empty() { String::new() } else { format!(": {}", row.note()) };
        let line = format!("{:<12}{passed:>8}{failed:>8}{skipped:>9}{:>9.1}", row.stage, row.seconds);
        if word.is_empty() {
            anstream::println!("{line}");
        } else {
            anstream::println!("{line}  {}{word}{}{note}", style.render(), style.render_reset());
        }
    }
    for missing in needs.missing() {
        anstream::println!("{}skipped{}: {missing}", warn.render(), warn.render_reset());
    }

    let mut total = Count::default();
    for row in rows {
        total += row.count;
    }
    let nothing = total.passed == 0 && total.failed == 0;
    if nothing {
        anstream::println!("{}no test ran{}", bad.render(), bad.render_reset());
    }
    anstream::println!("{total}");
    if tidy && !nothing && !rows.iter().any(Row::failed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_fails_for_a_failure_for_what_is_left_and_for_nothing_run() {
        let row =
            |passed, failed, end| Row { stage: "unit", count: Count { passed, failed, skipped: 1 }, seconds: 0.0, end };
        let code = |rows: &[Row], tidy| close(rows, &Needs::default(), tidy);
        assert_eq!(code(&[row(1, 0, End::Passed)], true), ExitCode::SUCCESS);
        assert_eq!(code(&[row(1, 0, End::Passed), row(0, 0, End::Skipped("no".into()))], true), ExitCode::SUCCESS);
        assert_eq!(code(&[row(1, 0, End::Passed)], false), ExitCode::FAILURE);
        assert_eq!(code(&[row(1, 0, End::Passed), row(0, 0, End::Broken("no".into()))], true), ExitCode::FAILURE);
        assert_eq!(code(&[row(1, 0, End::Failed)], true), ExitCode::FAILURE);
        assert_eq!(code(&[row(1, 1, End::Passed)], true), ExitCode::FAILURE);
        assert_eq!(code(&[row(0, 0, End::Skipped("no".into()))], true), ExitCode::FAILURE);
        assert_eq!(code(&[], true), ExitCode::FAILURE);
    }
}
