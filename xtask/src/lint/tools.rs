//! The steps that other tools do.

use std::env;
use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::Outcome;
use crate::workspace::Workspace;

pub(super) fn fmt(workspace: &Workspace) -> Result<Outcome> {
    cargo(workspace, &["fmt", "--all", "--check"], &[])
}

pub(super) fn clippy(workspace: &Workspace) -> Result<Outcome> {
    cargo(workspace, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])
}

pub(super) fn doc(workspace: &Workspace) -> Result<Outcome> {
    let flags = match env::var("RUSTDOCFLAGS") {
        Ok(flags) => format!("{flags} -D warnings"),
        Err(_) => "-D warnings".to_owned(),
    };
    cargo(workspace, &["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", &flags)])
}

pub(super) fn deny(workspace: &Workspace) -> Result<Outcome> {
    let mut probe = workspace.cargo();
    let probe = probe.args(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        return Ok(Outcome::Skipped("cargo-deny is not installed (`cargo install --locked cargo-deny`)".to_owned()));
    }
    cargo(workspace, &["deny", "--workspace", "check"], &[])
}

fn cargo(workspace: &Workspace, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Outcome> {
    let mut command = workspace.cargo();
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    let status = command.status().context("cannot run cargo")?;
    if status.success() {
        return Ok(Outcome::Passed);
    }
    Ok(Outcome::Failed(vec![format!("`cargo {}` ended with {status}; see above", arguments.join(" "))]))
}
