//! One run of the tests: what they are told of it, and how it leaves the machine.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use mlx_embedded::binary::BINARY_VARIABLE;
use mlx_embedded::binary::{Binary, Origin};
use tempfile::TempDir;

use super::arguments::TestArguments;
use super::docker::{self, Docker, HOST_VARIABLE};
use super::needs::Needs;
use crate::style;

/// A run under way. [`end`](Self::end) has to be called, whatever happened in between.
pub(super) struct Session {
    id: String,
    /// For the temporary files of the tests: a test that is killed cannot remove its own.
    folder: TempDir,
    environment: Vec<(&'static str, OsString)>,
    keep: bool,
    docker: bool,
}

impl Session {
    pub(super) fn begin(arguments: &TestArguments, server: &Binary, needs: &Needs, docker: &Docker) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("mlx-test-").tempdir().context("cannot make a temporary folder")?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("{:x}-{:x}", process::id(), since.as_millis());

        let mut environment: Vec<(&'static str, OsString)> =
            vec![("MLX_TEST_RUN_ID", id.clone().into()), ("TMPDIR", folder.path().into())];
        let mut tell = |name, value: Option<OsString>| environment.extend(value.map(|value| (name, value)));
        let chosen = server.origin == Origin::Tools;
        tell(BINARY_VARIABLE, chosen.then(|| server.path.clone().into()));
        tell("MLX_TEST_KEEP", arguments.keep.then(|| "1".into()));
        tell("MLX_TEST_SEED", arguments.seed.map(|seed| seed.to_string().into()));
        tell("MLX_TEST_SOAK_MINUTES", arguments.soak.map(|minutes| minutes.to_string().into()));
        tell("MLX_TEST_IMAGE", arguments.image.as_ref().map(Into::into));
        if let Docker::Answers { host: Some(host), .. } = docker {
            tell(HOST_VARIABLE, Some(host.into()));
        }
        environment.extend(needs.environment().map(|(name, value)| (name, value.clone())));

        Ok(Self { id, folder, environment, keep: arguments.keep, docker: docker.missing().is_none() })
    }

    /// What the tests find in their environment.
    pub(super) fn environment(&self) -> &[(&'static str, OsString)] {
        &self.environment
    }

    /// Removes what the run left, and says so; whether that was nothing, as it should be.
    pub(super) fn end(self, interrupted: bool) -> bool {
        if self.keep {
            self.name_what_is_kept();
            let _ = self.folder.keep();
            return true;
        }
        remove(self.folder.path());
        if !self.docker {
            return true;
        }
        let (word, plain) = (style::BAD.render(), style::BAD.render_reset());
        match docker::sweep(&self.id, interrupted) {
            Ok(removed) => {
                // Tests that were killed had no chance to tidy up.
                for leftover in removed.iter().filter(|_| !interrupted) {
                    anstream::println!("{word}left behind{plain}: {leftover}, now removed");
                }
                interrupted || removed.is_empty()
            }
            Err(error) => {
                anstream::println!("{word}left behind{plain}: {error:#}");
                false
            }
        }
    }

    fn name_what_is_kept(&self) {
        anstream::println!("kept: {}", self.folder.path().display());
        if !self.docker {
            return;
        }
        match docker::leftovers(&self.id) {
            Ok(kept) => {
                for leftover in &kept {
                    anstream::println!("kept: {leftover}");
                }
                if !kept.is_empty() {
                    anstream::println!("to remove them: {}", docker::removal_of(&self.id));
                }
            }
            Err(error) => anstream::println!("kept, with the label of the run {}: {error:#}", self.id),
        }
    }
}

/// Whether Docker has to be there: asked for, or on a machine whose job it is to run everything.
pub(super) fn requires_docker(arguments: &TestArguments) -> Option<&'static str> {
    if arguments.require_docker {
        return Some("--require-docker");
    }
    env::var("CI").is_ok_and(|value| value == "true" || value == "1").then_some("CI=true")
}

/// A process that was killed may still be writing its last file.
fn remove(folder: &Path) {
    for _ in 0..3 {
        if std::fs::remove_dir_all(folder).is_ok() || !folder.exists() {
            return;
        }
    }
}
