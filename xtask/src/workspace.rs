//! The workspace that a command works on.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Message, Metadata, MetadataCommand, Package};

#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    /// What its cargo finds in its environment beside ours.
    environment: Vec<(OsString, OsString)>,
}

impl Workspace {
    /// The workspace at `root`, or the one that this xtask was started or built from.
    pub(crate) fn locate(root: Option<PathBuf>) -> Result<Self> {
        let root = root.unwrap_or_else(|| {
            // `cargo run` says where the package is now; what the compiler saw may have been moved since.
            let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
            Path::new(&package).join("..")
        });
        let root = root.canonicalize().with_context(|| format!("there is no folder {}", root.display()))?;
        ensure!(
            root.join("Cargo.toml").is_file(),
            "{} holds no Cargo.toml: give the workspace's folder with --root",
            root.display()
        );
        Ok(Self { root, environment: Vec::new() })
    }

    /// The same, whose cargo finds these in its environment.
    pub(crate) fn with_environment(&self, environment: Vec<(OsString, OsString)>) -> Self {
        Self { root: self.root.clone(), environment }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where tools for this workspace are put.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target").join("tools")
    }

    /// `path` as seen from the root, with `/` between its parts, for messages.
    pub(crate) fn relative(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    /// The workspace, as its manifests describe it.
    ///
    /// Nothing is resolved, so that this reads one whose dependencies form a cycle, too.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        MetadataCommand::new()
            .cargo_path(cargo_program())
            .manifest_path(self.root.join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("`cargo metadata --no-deps` cannot read the workspace")
    }

    pub(crate) fn members(&self) -> Result<Vec<Package>> {
        Ok(self.metadata()?.packages)
    }

    /// Cargo, in the root, as a person would have called it.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            if is_of_cargo_run(&name) {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Builds the target `name` of `package`, which `selection` picks; the path of its program, wherever cargo was told to
    /// put it.
    pub(crate) fn build(&self, package: &str, selection: &[&str], name: &str) -> Result<PathBuf> {
        let mut command = self.cargo();
        command.args(["build", "--package", package]).args(selection);
        // Json on standard output, and what a person reads on standard error, as ever.
        command.args(["--message-format", "json-render-diagnostics"]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        ensure!(output.status.success(), "`{name}` of {package} could not be built ({}): see above", output.status);
        let messages = Message::parse_stream(output.stdout.as_slice());
        let program = messages.filter_map(Result::ok).find_map(|message| match message {
            Message::CompilerArtifact(artifact) if artifact.target.name == name => artifact.executable,
            _ => None,
        });
        program.map(PathBuf::from).with_context(|| format!("cargo built `{name}` and did not say where it is"))
    }
}

fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Whether `cargo run` set this variable for xtask alone. Handed on, they make build scripts that watch them (ring's, for
/// one) run again each time a person switches between `cargo xtask test` and `cargo test`.
fn is_of_cargo_run(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| {
        name.starts_with("CARGO_PKG_")
            || ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PRIMARY_PACKAGE"].contains(&name)
    })
}

/// Whether a member is for a registry, and not `publish = false`.
pub(crate) fn is_published(package: &Package) -> bool {
    package.publish != Some(Vec::new())
}
