//! How long a file may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::workspace::Workspace;

/// Lines that a file may have without saying why it has more.
const LIMIT: usize = 600;

/// What states the reason, in a comment among the first lines of the file.
const MARK: &str = "long file:";

/// Where the reason must stand, in lines from the top.
const TOP: usize = 10;

/// What people write and read; generated and locked files are as long as they are.
const EXTENSIONS: [&str; 7] = ["rs", "md", "toml", "yaml", "yml", "sh", "py"];

const SKIPPED_FOLDERS: [&str; 3] = ["target", ".git", "node_modules"];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(workspace.root(), &mut files)?;
    files.sort();
    let mut faults = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        faults.extend(fault(&workspace.relative(&file), &text));
    }
    Ok(faults)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name();
        if kind.is_dir() && !SKIPPED_FOLDERS.iter().any(|skipped| name == *skipped) {
            collect(&path, files)?;
        } else if kind.is_file()
            && path.extension().is_some_and(|found| EXTENSIONS.iter().any(|wanted| found == *wanted))
        {
            files.push(path);
        }
    }
    Ok(())
}

fn fault(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    if lines <= LIMIT || text.lines().take(TOP).any(states_reason) {
        return None;
    }
    Some(format!(
        "{name} has {lines} lines, over {LIMIT}: split it, or say why not in a comment within its first {TOP} lines, \
         as `{MARK} <reason>`"
    ))
}

fn states_reason(line: &str) -> bool {
    let comment = ["//", "#", "<!--"].iter().any(|start| line.trim_start().starts_with(start));
    let reason = line.split_once(MARK).map_or("", |(_, reason)| reason.trim().trim_end_matches("-->"));
    comment && reason.split_whitespace().count() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_hundred_lines_pass_and_one_more_does_not() {
        assert_eq!(fault("a.rs", &"x\n".repeat(LIMIT)), None);
        let said = fault("src/a.rs", &"x\n".repeat(LIMIT + 1)).unwrap();
        assert!(said.starts_with("src/a.rs has 601 lines, over 600"), "{said}");
    }

    #[test]
    fn a_reason_at_the_top_is_heard() {
        let body = "x\n".repeat(LIMIT);
        for top in [
            "// long file: one table, read as one",
            "# long file: one table, read as one",
            "<!-- long file: one table, read as one -->",
        ] {
            assert_eq!(fault("a.rs", &format!("{top}\n{body}")), None, "{top}");
        }
    }

    #[test]
    fn a_mark_without_a_reason_or_far_down_or_outside_a_comment_is_not() {
        let body = "x\n".repeat(LIMIT);
        for text in [
            format!("// long file:\n{body}"),
            format!("// long file: yes\n{body}"),
            format!("let s = \"long file: because I say so\";\n{body}"),
            format!("{body}// long file: one table, read as one\n"),
        ] {
            assert!(fault("a.rs", &text).is_some(), "{}", &text[..40]);
        }
    }
}
