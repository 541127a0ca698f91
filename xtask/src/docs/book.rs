//! The book: pages from all over the workspace in one folder, with their links following them.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{links, pages};
use crate::workspace::Workspace;

/// Where the API is, in the site.
const API: &str = "api";

/// Where files that are no pages are, in the site.
const FILES: &str = "files";

/// Writes what mdBook reads to `target`: each page where the summary expects it, its links changed accordingly.
pub(super) fn assemble(workspace: &Workspace, target: &Path) -> Result<()> {
    let source = target.join("src");
    fs::create_dir_all(&source)?;
    let docs = workspace.root().join("docs");
    fs::copy(docs.join("book.toml"), target.join("book.toml"))?;
    fs::copy(docs.join("SUMMARY.md"), source.join("SUMMARY.md"))?;
    for page in pages::all(workspace)? {
        let place = place(workspace.root(), &page);
        let text = with_links_from(workspace.root(), &page, &pages::read(workspace, &page)?);
        write(&source.join(&place), &text)?;
    }
    copy_pictures(&docs, &source)?;
    write(&source.join("api.md"), &api_page(workspace)?)
}

/// Where a file of the workspace is, in the book.
fn place(root: &Path, file: &Path) -> PathBuf {
    let parts: Vec<_> = file.iter().filter_map(OsStr::to_str).collect();
    match *parts {
        ["README.md" | "CONTRIBUTING.md" | "CHANGELOG.md"] => file.to_owned(),
        ["docs", .., last] if [".md", ".png", ".svg"].iter().any(|kind| last.ends_with(kind)) => {
            file.strip_prefix("docs").unwrap_or(file).to_owned()
        }
        ["crates", name, "README.md"] => PathBuf::from("crates").join(format!("{name}.md")),
        _ if root.join(file).is_dir() => Path::new(FILES).join(file).join("index.html"),
        // As plain text, which browsers show rather than save.
        [.., last] => Path::new(FILES).join(file.with_file_name(format!("{last}.txt"))),
        [] => PathBuf::from(FILES),
    }
}

/// The page with each relative link changed to where its target is in the book.
fn with_links_from(root: &Path, page: &Path, text: &str) -> String {
    let up = "../".repeat(place(root, page).iter().count().saturating_sub(1));
    let mut changed = text.to_owned();
    for link in pages::links(text).iter().rev() {
        let (path, anchor) = link.target.split_once('#').map_or((&*link.target, None), |(path, at)| (path, Some(at)));
        let target = match link.target.strip_prefix("https://docs.rs/mlx-") {
            Some(name) => format!("{API}/mlx_{}/index.html", name.trim_end_matches('/').replace('-', "_")),
            None if path.is_empty() || path.contains("://") || path.starts_with("mailto:") => continue,
            None => {
                let folder = page.parent().unwrap_or(Path::new(""));
                place(root, &links::normal(&folder.join(path))).display().to_string()
            }
        };
        let anchor = anchor.map(|anchor| format!("#{anchor}")).unwrap_or_default();
        changed.replace_range(link.range.clone(), &format!("{up}{target}{anchor}"));
    }
    changed
}

fn api_page(workspace: &Workspace) -> Result<String> {
    let mut page = "# API reference\n\nEvery public item, with units, bounds, errors and examples:\n\n".to_owned();
    let mut names = Vec::new();
    for entry in fs::read_dir(workspace.root().join("crates"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names {
        writeln!(page, "- [`{name}`]({API}/{}/index.html)", name.replace('-', "_"))?;
    }
    Ok(page)
}

/// Puts the files and folders that pages link to into the site.
pub(super) fn put_files_beside(workspace: &Workspace, site: &Path) -> Result<()> {
    for page in pages::all(workspace)? {
        let folder = page.parent().unwrap_or(Path::new(""));
        for link in pages::links(&pages::read(workspace, &page)?) {
            let path = link.target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            let linked = links::normal(&folder.join(path));
            if place(workspace.root(), &linked).starts_with(FILES) {
                put_beside(workspace, &linked, site)?;
            }
        }
    }
    Ok(())
}

/// A file as plain text, a folder as a page that lists what is in it.
fn put_beside(workspace: &Workspace, linked: &Path, site: &Path) -> Result<()> {
    let (from, to) = (workspace.root().join(linked), site.join(place(workspace.root(), linked)));
    if to.exists() {
        return Ok(());
    }
    if from.is_file() {
        let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        fs::create_dir_all(to.parent().unwrap_or(site))?;
        return fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()));
    }
    let mut entries = fs::read_dir(&from)
        .with_context(|| format!("cannot read {}", from.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    entries.sort();
    let mut list = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{0}</title>\n<h1>{0}</h1>\n<ul>\n",
        linked.display()
    );
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        put_beside(workspace, &linked.join(&name), site)?;
        let href = if entry.is_dir() { format!("{name}/index.html") } else { format!("{name}.txt") };
        writeln!(list, "<li><a href=\"{href}\">{name}</a></li>")?;
    }
    write(&to, &(list + "</ul>\n"))
}

/// Renders the API, and copies it into the site.
pub(super) fn put_api_beside(workspace: &Workspace, site: &Path) -> Result<()> {
    let mut doc = workspace.cargo();
    // As `lint` does it, so that one of the two finds it done.
    doc.args(["doc", "--workspace", "--no-deps"]);
    let status = crate::process::run(doc)?;
    ensure!(status.success(), "`cargo doc` ended with {status}: see above");
    copy(&workspace.metadata()?.target_directory.into_std_path_buf().join("doc"), &site.join(API))
}

fn copy_pictures(docs: &Path, source: &Path) -> Result<()> {
    let images = docs.join("images");
    if images.is_dir() { copy(&images, &source.join("images")) } else { Ok(()) }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_the_pages_into_the_book() {
        let root = Workspace::locate(None).unwrap();
        let moved = |page: &str, text: &str| with_links_from(root.root(), Path::new(page), text);
        let cases = [
            ("README.md", "[a](docs/a.md#b) [c](docs/images/d.png)", "[a](a.md#b) [c](images/d.png)"),
            ("docs/a.md", "[a](../README.md) [b](#b) [c](https://c.d)", "[a](README.md) [b](#b) [c](https://c.d)"),
            (
                "docs/a.md",
                "[a](../config/a.yaml) [b](../tests/tests)",
                "[a](files/config/a.yaml.txt) [b](files/tests/tests/index.html)",
            ),
            ("docs/a.md", "[a](../crates/mlx-nats/README.md#b)", "[a](crates/mlx-nats.md#b)"),
            ("crates/mlx-nats/README.md", "[a](https://docs.rs/mlx-errors)", "[a](../api/mlx_errors/index.html)"),
            ("crates/mlx-nats/README.md", "[a](../../docs/b.md)", "[a](../b.md)"),
        ];
        for (page, text, expected) in cases {
            assert_eq!(moved(page, text), expected);
        }
    }
}
