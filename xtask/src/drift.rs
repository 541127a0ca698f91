//! Generated files that are committed: what differs, how it is shown, and how it is settled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use similar::{ChangeTag, TextDiff};

use crate::style;
use crate::workspace::Workspace;

/// A generated file that is not what it should be.
pub(crate) struct Drift {
    path: PathBuf,
    /// What it should hold; nothing for a file that is generated from nothing any more.
    wanted: Option<String>,
    found: Option<String>,
}

impl Drift {
    /// Of a file that should hold this text, where it does not.
    pub(crate) fn of(path: PathBuf, wanted: String) -> Option<Self> {
        let found = fs::read_to_string(&path).ok();
        (found.as_ref() != Some(&wanted)).then_some(Self { path, wanted: Some(wanted), found })
    }

    /// Of a file that should not be there.
    pub(crate) fn leftover(path: PathBuf) -> Self {
        let found = fs::read_to_string(&path).ok();
        Self { path, wanted: None, found }
    }

    /// The difference, line by line, with its removed and added lines.
    pub(crate) fn describe(&self, workspace: &Workspace) -> String {
        let name = workspace.relative(&self.path);
        let (found, wanted) = match (&self.found, &self.wanted) {
            (None, _) => return format!("{name} is missing"),
            (_, None) => return format!("{name} is generated from nothing any more"),
            (Some(found), Some(wanted)) => (found, wanted),
        };
        let mut text = format!("{name} differs:");
        for (sign, line) in difference(found, wanted) {
            let colour = if sign == '-' { style::BAD } else { style::GOOD };
            text.push_str(&format_args!("\n  {}{sign}{line}{}", colour.render(), colour.render_reset()).to_string());
        }
        text
    }

    fn settle(&self) -> Result<()> {
        let context = || format!("cannot write {}", self.path.display());
        match &self.wanted {
            Some(text) => {
                fs::create_dir_all(self.path.parent().unwrap_or(Path::new("."))).with_context(context)?;
                fs::write(&self.path, text).with_context(context)
            }
            None => fs::remove_file(&self.path).with_context(context),
        }
    }
}

/// Writes what differs, or, where it is only to be checked, shows it and fails.
pub(crate) fn conclude(workspace: &Workspace, drifts: &[Drift], check: bool, command: &str) -> Result<ExitCode> {
    if drifts.is_empty() {
        anstream::println!("The generated files are up to date.");
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        for drift in drifts {
            anstream::println!("{}", drift.describe(workspace));
        }
        anstream::println!("Run `{command}` and commit what it writes.");
        return Ok(ExitCode::FAILURE);
    }
    for drift in drifts {
        drift.settle()?;
        let done = if drift.wanted.is_some() { "wrote" } else { "removed" };
        anstream::println!("{done} {}", workspace.relative(&drift.path));
    }
    Ok(ExitCode::SUCCESS)
}

/// The lines that were removed and added, each with its sign.
fn difference<'a>(found: &'a str, wanted: &'a str) -> Vec<(char, &'a str)> {
    let diff = TextDiff::from_lines(found, wanted);
    let changes = diff.iter_all_changes().filter_map(|change| match change.tag() {
        ChangeTag::Equal => None,
        ChangeTag::Delete => Some(('-', change.value().trim_end_matches('\n'))),
        ChangeTag::Insert => Some(('+', change.value().trim_end_matches('\n'))),
    });
    changes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_the_lines_that_came_and_went() {
        let shown = |found, wanted| {
            let changes = difference(found, wanted).into_iter().map(|(sign, line)| format!("{sign}{line}"));
            changes.collect::<String>()
        };
        assert_eq!(shown("a\nb\nc\n", "a\nx\nc\n"), "-b+x");
        assert_eq!(shown("a\nb\nc\nd\n", "a\nc\nd\ne\n"), "-b+e");
        assert_eq!(shown("a\na\n", "a\na\na\n"), "+a");
        assert_eq!(shown("", "a\nb\n"), "+a+b");
        assert_eq!(shown("a\nb\n", "a\nb\n"), "");
    }

    #[test]
    fn what_differs_is_shown_until_it_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Cargo.toml"), "").unwrap();
        let workspace = Workspace::locate(Some(folder.path().to_owned())).unwrap();
        let path = workspace.root().join("docs").join("list.txt");
        let drift = || Drift::of(path.clone(), "a\nb\n".to_owned());
        assert_eq!(drift().unwrap().describe(&workspace), "docs/list.txt is missing");

        drift().unwrap().settle().unwrap();
        assert!(drift().is_none());

        fs::write(&path, "a\nc\n").unwrap();
        let said = drift().unwrap().describe(&workspace);
        assert!(said.starts_with("docs/list.txt differs:") && said.contains("-c") && said.contains("+b"), "{said}");

        Drift::leftover(path.clone()).settle().unwrap();
        assert!(!path.exists());
    }
}
