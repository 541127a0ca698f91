//! `cargo xtask docs`: the pages of the workspace as one site, with the API beside them, and every link followed.

mod book;
mod links;
mod pages;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::cli::DocsArguments;
use crate::nats::{self, MDBOOK, Pip, TYPOS};
use crate::workspace::Workspace;
use crate::{process, style};

pub(crate) use links::check as broken_links;

pub(crate) fn run(workspace: &Workspace, arguments: &DocsArguments) -> Result<ExitCode> {
    let mut faults = broken_links(workspace)?;
    let pip = Pip::find().context("pip is needed to fetch mdBook, and is not installed")?;
    let site = render(workspace, &pip)?;
    faults.extend(links::check_site(&site)?);
    for fault in &faults {
        anstream::println!("{}fault{}: {fault}", style::BAD.render(), style::BAD.render_reset());
    }
    let front = site.join("index.html");
    anstream::println!("{}", front.display());
    if arguments.open {
        let browser = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        let opened = Command::new(browser).arg(&front).status();
        let opened = opened.with_context(|| format!("cannot run {browser}: open {} by hand", front.display()))?;
        ensure!(opened.success(), "`{browser} {}` ended with {opened}", front.display());
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Renders the site, and says which of its links lead nowhere.
pub(crate) fn broken_links_of_site(workspace: &Workspace, pip: &Pip) -> Result<Vec<String>> {
    links::check_site(&render(workspace, pip)?)
}

/// What is misspelt is on standard output; whether nothing is.
///
/// # Errors
/// The speller cannot be fetched or run.
pub(crate) fn is_spelt_right(workspace: &Workspace, pip: &Pip) -> Result<bool> {
    let mut typos = Command::new(nats::provide_package(workspace, &TYPOS, pip)?);
    typos.current_dir(workspace.root()).args(["--format", "brief"]);
    Ok(process::run(typos)?.success())
}

/// Writes the site to `target/site`.
fn render(workspace: &Workspace, pip: &Pip) -> Result<PathBuf> {
    let site = workspace.root().join("target").join("site");
    let source = workspace.root().join("target").join("book");
    remove(&site)?;
    remove(&source)?;
    book::assemble(workspace, &source)?;
    let mut mdbook = Command::new(nats::provide_package(workspace, &MDBOOK, pip)?);
    mdbook.arg("build").arg(&source).arg("--dest-dir").arg(&site);
    let status = process::run(mdbook)?;
    ensure!(status.success(), "mdBook ended with {status}: see above");
    book::put_files_beside(workspace, &site)?;
    book::put_api_beside(workspace, &site)?;
    Ok(site)
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}
