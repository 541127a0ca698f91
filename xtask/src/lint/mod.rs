//! `cargo xtask lint`: what a change must satisfy, short of its tests.

mod arguments;
mod floors;
mod layers;
mod length;
mod manifests;
mod package;
mod tools;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::api;
use crate::docs;
use crate::drift::Drift;
use crate::process::Interrupted;
use crate::schema;
use crate::style;
use crate::workspace::Workspace;

pub(crate) use arguments::{LINT_HELP, LintArguments};

/// A check with a name. The quick ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// each crate depends on lower layers only
    Layers,
    /// no room of a crate uses one above it, and no two use each other; draws the rooms of those with floors
    Floors,
    /// every member inherits the workspace's lints, dependencies and package data
    Manifests,
    /// cargo package: what would be published is complete, small and without secrets (not compiled)
    Package,
    /// no file over 600 lines without a stated reason
    Length,
    /// each link of the READMEs and of docs/ leads somewhere, and the book has every page
    Links,
    /// typos: nothing is misspelt
    Spelling,
    /// the generated files are what the types say
    Schema,
    /// cargo fmt --check
    Fmt,
    /// cargo clippy, all members and targets, warnings denied
    Clippy,
    /// cargo clippy on each member that has features, without any and with each alone
    Features,
    /// cargo doc, warnings denied
    Doc,
    /// mdBook: docs/ as one site with rustdoc beside it, in which each link leads somewhere
    Site,
    /// crates/*/api.txt is what the crates offer
    Api,
    /// cargo deny: licences, duplicates and sources of what we depend on
    Deny,
    /// cargo deny: known vulnerabilities in what we depend on
    Advisories,
}

/// How a step ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing found.
    Passed,
    /// The faults, or, where a tool has printed its own, a word about that.
    Failed(Vec<String>),
    /// Not run, and why.
    Skipped(String),
}

impl Outcome {
    fn of(faults: Vec<String>) -> Self {
        if faults.is_empty() { Self::Passed } else { Self::Failed(faults) }
    }

    fn of_drifts(workspace: &Workspace, drifts: &[Drift]) -> Self {
        Self::of(drifts.iter().map(|drift| drift.describe(workspace)).collect())
    }
}

/// # Errors
/// Only that we were interrupted.
pub(crate) fn run(workspace: &Workspace, arguments: &LintArguments) -> Result<ExitCode> {
    let chosen =
        Step::value_variants().iter().filter(|step| arguments.only.is_empty() || arguments.only.contains(step));
    if arguments.list {
        for step in chosen {
            anstream::println!("{:<10} {}", step.name(), step.purpose());
        }
        return Ok(ExitCode::SUCCESS);
    }

    let mut rows = Vec::new();
    for step in chosen {
        anstream::println!(
            "{}{}{}: {}",
            style::HEADING.render(),
            step.name(),
            style::HEADING.render_reset(),
            step.purpose()
        );
        let started = Instant::now();
        let outcome = step.check(workspace)?;
        if let Outcome::Failed(faults) = &outcome {
            for fault in faults {
                anstream::println!("  {}fault{}: {fault}", style::BAD.render(), style::BAD.render_reset());
            }
        }
        rows.push((*step, outcome, started.elapsed().as_secs_f64()));
    }
    Ok(close(&rows))
}

/// The table, and the exit code that it amounts to.
fn close(rows: &[(Step, Outcome, f64)]) -> ExitCode {
    anstream::println!();
    for (step, outcome, seconds) in rows {
        let (style, word, note) = match outcome {
            Outcome::Passed => (style::GOOD, "passed", String::new()),
            Outcome::Failed(faults) => (style::BAD, "failed", faults.first().cloned().unwrap_or_default()),
            Outcome::Skipped(reason) => (style::WARN, "skipped", reason.clone()),
        };
        let line =
            format!("{:<10} {}{word:<8}{}{seconds:>7.1} s  {note}", step.name(), style.render(), style.render_reset());
        anstream::println!("{}", line.trim_end());
    }
    let failed = rows.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_))).count();
    if failed == 0 {
        anstream::println!("lint: {}clean{}", style::GOOD.render(), style::GOOD.render_reset());
        return ExitCode::SUCCESS;
    }
    anstream::println!(
        "lint: {}{failed} of {} steps failed{}",
        style::BAD.render(),
        rows.len(),
        style::BAD.render_reset()
    );
    ExitCode::FAILURE
}

impl Step {
    /// # Errors
    /// Only that we were interrupted: what else goes wrong is a fault of this step.
    fn check(self, workspace: &Workspace) -> Result<Outcome> {
        let outcome = match self {
            Self::Layers => layers::check(workspace).map(Outcome::of),
            Self::Floors => floors::check(workspace).map(Outcome::of),
            Self::Manifests => manifests::check(workspace).map(Outcome::of),
            Self::Package => package::check(workspace).map(Outcome::of),
            Self::Length => length::check(workspace).map(Outcome::of),
            Self::Schema => schema::drifts(workspace).map(|drifts| Outcome::of_drifts(workspace, &drifts)),
            Self::Links => docs::broken_links(workspace).map(Outcome::of),
            Self::Spelling => tools::spelling(workspace),
            Self::Site => tools::site(workspace),
            Self::Fmt => tools::fmt(workspace),
            Self::Clippy => tools::clippy(workspace),
            Self::Features => tools::features(workspace),
            Self::Doc => tools::doc(workspace),
            Self::Api => match api::obstacle(workspace) {
                Ok(None) => api::drifts(workspace).map(|drifts| Outcome::of_drifts(workspace, &drifts)),
                Ok(Some(reason)) => Ok(Outcome::Skipped(reason)),
                Err(error) => Err(error),
            },
            Self::Deny => tools::deny(workspace),
            Self::Advisories => tools::advisories(workspace),
        };
        match outcome {
            Err(error) if !error.is::<Interrupted>() => Ok(Outcome::Failed(vec![format!("{error:#}")])),
            outcome => outcome,
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn purpose(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }
}
