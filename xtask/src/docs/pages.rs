//! The pages of the workspace: their links, and the places in them that a link can name.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::workspace::Workspace;

/// A link of a page, as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The line, from 1.
    pub(super) line: usize,
    pub(super) target: String,
    /// Where in the page the target is written.
    pub(super) range: Range<usize>,
}

/// Every page that readers may come to, from the root of the workspace.
pub(super) fn all(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).into();
    for folder in ["docs", "crates"] {
        let path = workspace.root().join(folder);
        for entry in std::fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))? {
            let name = PathBuf::from(folder).join(entry?.file_name());
            let page = if folder == "crates" { name.join("README.md") } else { name };
            let is_page = page.extension().is_some_and(|kind| kind == "md") && !page.ends_with("SUMMARY.md");
            if is_page && workspace.root().join(&page).is_file() {
                pages.push(page);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

pub(super) fn read(workspace: &Workspace, page: &Path) -> Result<String> {
    std::fs::read_to_string(workspace.root().join(page)).with_context(|| format!("cannot read {}", page.display()))
}

/// The links and images of a page.
pub(super) fn links(text: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        let (Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }), false) = (event, range.is_empty())
        else {
            continue;
        };
        let written = text.get(range.clone()).unwrap_or_default();
        // The last one: the words of a link may hold what it links to.
        let Some(start) = written.rfind(dest_url.as_ref()) else { continue };
        let start = range.start + start;
        let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
        links.push(Link { line, range: start..start + dest_url.len(), target: dest_url.into_string() });
    }
    links
}

/// The names under which the headings of a page can be linked to, as code hosts and mdBook make them.
pub(super) fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(words) | Event::Code(words) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                let name = anchor(&heading.take().unwrap_or_default());
                let numbered = (1..).map(|number| format!("{name}-{number}"));
                let free = std::iter::once(name.clone()).chain(numbered).find(|name| !anchors.contains(name));
                anchors.extend(free);
            }
            _ => {}
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_named_as_code_hosts_name_them() {
        let text = "# 1. See it run\n\n## `nats.tls`\n\n## Again\n\n## Again\n\n## What's *left*: to others\n";
        let expected = ["1-see-it-run", "again", "again-1", "natstls", "whats-left-to-others"];
        assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn links_are_found_with_their_places_and_those_in_code_are_not() {
        let text = "a [b](b.md#c) `[d](e)`\n\n| [f](g) |\n|---|\n| ![h](i.png) |\n";
        let links = links(text);
        let found: Vec<_> = links.iter().map(|link| (link.line, link.target.as_str())).collect();
        assert_eq!(found, [(1, "b.md#c"), (3, "g"), (5, "i.png")]);
        assert!(links.iter().all(|link| text[link.range.clone()] == link.target));
    }
}
