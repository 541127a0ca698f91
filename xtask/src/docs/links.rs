//! Links that lead nowhere: of the pages as they are in the repository, and of the site that they become.
//!
//! Links to other sites are not followed, because that would need the network, but they have to be addresses.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

use super::pages;
use crate::workspace::Workspace;

/// One line for each broken link of the pages in the repository, and for each page that the book leaves out.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let summary = pages::read(workspace, Path::new("docs/SUMMARY.md"))?;
    for page in pages::all(workspace)? {
        let text = pages::read(workspace, &page)?;
        for link in pages::links(&text) {
            if let Some(fault) = fault(workspace, &page, &text, &link.target)? {
                faults.push(format!("{}:{}: {fault}", page.display(), link.line));
            }
        }
        if let Ok(name) = page.strip_prefix("docs")
            && !summary.contains(&format!("({})", name.display()))
        {
            faults.push(format!("docs/SUMMARY.md does not list {}", page.display()));
        }
    }
    Ok(faults)
}

fn fault(workspace: &Workspace, page: &Path, text: &str, target: &str) -> Result<Option<String>> {
    if is_elsewhere(target) {
        return Ok(malformed(target).then(|| format!("`{target}` is not an address")));
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = page.parent().unwrap_or(Path::new(""));
    let linked = if path.is_empty() { page.to_owned() } else { normal(&folder.join(path)) };
    if !workspace.root().join(&linked).exists() {
        return Ok(Some(format!("there is no {}", linked.display())));
    }
    if anchor.is_empty() || linked.extension().is_none_or(|kind| kind != "md") {
        return Ok(None);
    }
    let other;
    let text = if linked == page {
        text
    } else {
        other = pages::read(workspace, &linked)?;
        &other
    };
    let missing = !pages::anchors(text).contains(anchor);
    Ok(missing.then(|| format!("{} has no heading #{anchor}", linked.display())))
}

/// One line for each link of the rendered pages that leads nowhere, the API's own pages aside: rustdoc checks those.
pub(super) fn check_site(site: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    collect(site, site, &mut pages)?;
    let mut faults = Vec::new();
    for (page, html) in &pages {
        for target in attributes(html, "href").chain(attributes(html, "src")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            if is_elsewhere(target) || path.starts_with("data:") {
                continue;
            }
            let folder = page.parent().unwrap_or(Path::new(""));
            let mut linked = if path.is_empty() { page.clone() } else { normal(&folder.join(path)) };
            if site.join(&linked).is_dir() {
                linked.push("index.html");
            }
            let shown = page.display();
            if !site.join(&linked).is_file() {
                faults.push(format!("{shown} of the site: `{target}` leads nowhere"));
            } else if let Some(html) = pages.get(&linked).filter(|_| !anchor.is_empty())
                && !attributes(html, "id").any(|id| id == anchor)
            {
                faults.push(format!("{shown} of the site: {} has no #{anchor}", linked.display()));
            }
        }
    }
    faults.dedup();
    Ok(faults)
}

fn collect(site: &Path, folder: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.strip_prefix(site).unwrap_or(&path).to_owned();
        if path.is_dir() {
            if name != Path::new("api") {
                collect(site, &path, pages)?;
            }
        } else if path.extension().is_some_and(|kind| kind == "html") && !path.ends_with("404.html") {
            let html = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            pages.insert(name, html);
        }
    }
    Ok(())
}

/// The values of an attribute, which mdBook writes in double quotes.
fn attributes<'a>(html: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let opening = format!(" {name}=\"");
    html.match_indices(&opening)
        .map(move |(start, opening)| html.split_at(start + opening.len()).1)
        .filter_map(|rest| rest.split('"').next())
        .collect::<Vec<_>>()
        .into_iter()
}

fn is_elsewhere(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

/// Nothing is served in the clear but on this machine.
fn malformed(target: &str) -> bool {
    if target.starts_with("http://127.0.0.1:") {
        return false;
    }
    let rest = target.strip_prefix("https://").or_else(|| target.strip_prefix("mailto:"));
    rest.is_none_or(|rest| !rest.contains('.') || rest.contains(char::is_whitespace))
}

/// The path without `.` and `..`.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            part => path.push(part),
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_link_to_nothing_is_named_with_its_line() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("docs")).unwrap();
        fs::create_dir_all(root.path().join("crates")).unwrap();
        for page in ["Cargo.toml", "CONTRIBUTING.md", "CHANGELOG.md"] {
            fs::write(root.path().join(page), "").unwrap();
        }
        fs::write(root.path().join("README.md"), "[a](docs/a.md#here)\n\n[b](docs/b.md) [c](#none)\n").unwrap();
        fs::write(
            root.path().join("docs/a.md"),
            "# Here\n[d](../README.md) [e](#gone) [f](http://x) [g](https://x.y) [h](http://127.0.0.1:80)",
        )
        .unwrap();
        fs::write(root.path().join("docs/SUMMARY.md"), "").unwrap();
        let workspace = Workspace::locate(Some(root.path().to_owned())).unwrap();
        let expected = [
            "README.md:3: there is no docs/b.md",
            "README.md:3: README.md has no heading #none",
            "docs/a.md:2: docs/a.md has no heading #gone",
            "docs/a.md:2: `http://x` is not an address",
            "docs/SUMMARY.md does not list docs/a.md",
        ];
        assert_eq!(check(&workspace).unwrap(), expected);
    }

    #[test]
    fn a_page_of_the_site_that_links_to_nothing_is_named() {
        let site = tempfile::tempdir().unwrap();
        fs::create_dir(site.path().join("api")).unwrap();
        fs::write(site.path().join("api/index.html"), "<a href=\"nowhere.html\">").unwrap();
        let links = "<h1 id=\"x\"><a href=\"#x\"><a href=\"api\"><a href=\"b.html#y\"><img src=\"c.png\">";
        fs::write(site.path().join("a.html"), links).unwrap();
        fs::write(site.path().join("b.html"), "<p id=\"z\">").unwrap();
        let expected = ["a.html of the site: b.html has no #y", "a.html of the site: `c.png` leads nowhere"];
        assert_eq!(check_site(site.path()).unwrap(), expected);
    }
}
