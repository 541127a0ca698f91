//! The steps that other tools do.

use std::env;
use std::process::{ExitStatus, Stdio};

use anyhow::Result;

use super::Outcome;
use crate::docs;
use crate::nats::Pip;
use crate::process;
use crate::workspace::Workspace;

pub(super) fn fmt(workspace: &Workspace) -> Result<Outcome> {
    cargo(workspace, &["fmt", "--all", "--check"], &[])
}

pub(super) fn clippy(workspace: &Workspace) -> Result<Outcome> {
    cargo(workspace, &["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"], &[])
}

/// Within the workspace a feature that one member asks for is on for all, so clippy on everything sees one build only.
pub(super) fn features(workspace: &Workspace) -> Result<Outcome> {
    let mut faults = Vec::new();
    for package in workspace.members()?.iter().filter(|package| !package.features.is_empty()) {
        let alone = package.features.keys().filter(|feature| *feature != "default").map(String::as_str);
        for features in std::iter::once("").chain(alone) {
            let clippy = ["clippy", "-p", package.name.as_str(), "--all-targets", "--no-default-features"];
            let arguments = [clippy.as_slice(), &["--features", features, "--", "-D", "warnings"]].concat();
            if let Outcome::Failed(more) = cargo(workspace, &arguments, &[])? {
                faults.extend(more);
            }
        }
    }
    Ok(Outcome::of(faults))
}

pub(super) fn doc(workspace: &Workspace) -> Result<Outcome> {
    let flags = match env::var("RUSTDOCFLAGS") {
        Ok(flags) => format!("{flags} -D warnings"),
        Err(_) => "-D warnings".to_owned(),
    };
    cargo(workspace, &["doc", "--workspace", "--no-deps", "--keep-going"], &[("RUSTDOCFLAGS", &flags)])
}

pub(super) fn spelling(workspace: &Workspace) -> Result<Outcome> {
    let Some(pip) = Pip::find() else { return Ok(Outcome::Skipped(NO_PIP.to_owned())) };
    let fault = "misspelt words; see above. What is meant as it is goes into _typos.toml";
    Ok(if docs::is_spelt_right(workspace, &pip)? { Outcome::Passed } else { Outcome::Failed(vec![fault.to_owned()]) })
}

pub(super) fn site(workspace: &Workspace) -> Result<Outcome> {
    let Some(pip) = Pip::find() else { return Ok(Outcome::Skipped(NO_PIP.to_owned())) };
    docs::broken_links_of_site(workspace, &pip).map(Outcome::of)
}

pub(super) fn deny(workspace: &Workspace) -> Result<Outcome> {
    if !has_deny(workspace)? {
        return Ok(Outcome::Skipped(NO_DENY.to_owned()));
    }
    cargo(workspace, &["deny", "--workspace", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"], &[])
}

pub(super) fn advisories(workspace: &Workspace) -> Result<Outcome> {
    if !has_deny(workspace)? {
        return Ok(Outcome::Skipped(NO_DENY.to_owned()));
    }
    let arguments = ["deny", "--workspace", "check", "advisories"];
    let mut command = workspace.cargo();
    command.args(arguments);
    let output = process::output(command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && said.contains("failed to fetch advisory database") {
        return Ok(Outcome::Skipped("the advisory database cannot be fetched from here".to_owned()));
    }
    anstream::eprint!("{said}");
    Ok(judge(output.status, &arguments))
}

const NO_PIP: &str = "pip is not installed, which fetches the tool";
const NO_DENY: &str = "cargo-deny is not installed (`cargo install --locked cargo-deny`)";

fn has_deny(workspace: &Workspace) -> Result<bool> {
    let mut probe = workspace.cargo();
    probe.args(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(process::run(probe)?.success())
}

fn cargo(workspace: &Workspace, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Outcome> {
    let mut command = workspace.cargo();
    command.args(arguments).envs(environment.iter().copied());
    Ok(judge(process::run(command)?, arguments))
}

fn judge(status: ExitStatus, arguments: &[&str]) -> Outcome {
    if status.success() {
        return Outcome::Passed;
    }
    Outcome::Failed(vec![format!("`cargo {}` ended with {status}; see above", arguments.join(" "))])
}
