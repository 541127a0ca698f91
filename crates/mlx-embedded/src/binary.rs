//! Finding a nats-server that will do, or saying where it was looked for and how to get one.

mod install;
mod places;
mod probe;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use mlx_errors::{Error, ErrorKind, Result, TriedPath};
use semver::Version;

pub use places::workspace_tools_dir;
use probe::Unusable;

/// The oldest nats-server that will do.
pub const MINIMUM_VERSION: Version = Version::new(2, 10, 0);

/// The environment variable that names a binary.
pub const BINARY_VARIABLE: &str = "MLX_NATS_SERVER";

/// The environment variable that names the folders with programs.
const PATH_VARIABLE: &str = "PATH";

/// The configuration key that names a binary.
const BINARY_SETTING: &str = "nats.embedded.binary";

/// The file looked for in folders.
const FILE_NAME: &str = "nats-server";

/// A nats-server that runs and is new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Binary {
    /// Its absolute path.
    pub path: PathBuf,
    /// What `nats-server --version` says.
    pub version: Version,
    /// Which place it was found in.
    pub origin: Origin,
}

impl Binary {
    /// The binary of this process's environment; `setting` is `nats.embedded.binary`.
    ///
    /// See [`Finder::find`] for the order, the errors and how long it may take.
    pub fn find(setting: Option<&Path>) -> Result<Self> {
        Finder::from_process(setting.map(Path::to_path_buf)).find()
    }
}

/// Which place a binary was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The setting `nats.embedded.binary`.
    Setting,
    /// The environment variable `MLX_NATS_SERVER`.
    Variable,
    /// A folder of `PATH`.
    Path,
    /// `target/tools/` of the enclosing workspace, where `cargo xtask nats` puts it.
    Tools,
    /// A folder where a package manager puts programs.
    WellKnown,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Setting => BINARY_SETTING,
            Self::Variable => BINARY_VARIABLE,
            Self::Path => "PATH",
            Self::Tools => "target/tools",
            Self::WellKnown => "a package manager's folder",
        })
    }
}

/// Where to look for a nats-server. Everything that the search depends on is a field, so that a search can be repeated.
///
/// ```no_run
/// # fn main() -> mlx_errors::Result<()> {
/// let binary = mlx_embedded::Finder::from_process(None).find()?;
/// println!("nats-server {} at {} (by {})", binary.version, binary.path.display(), binary.origin);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Finder {
    /// `nats.embedded.binary`.
    pub setting: Option<PathBuf>,
    /// The environment; `MLX_NATS_SERVER` and `PATH` are read, and no other is shown by `Debug`.
    pub env: HashMap<OsString, OsString>,
    /// `target/tools` of the enclosing workspace.
    pub tools_dir: Option<PathBuf>,
    /// Folders where package managers put programs, in the order of the search.
    pub well_known: Vec<PathBuf>,
}

mlx_errors::setters! {
    Finder {
        setting: option PathBuf,
        env: set HashMap<OsString, OsString>,
        tools_dir: option PathBuf,
        well_known: set Vec<PathBuf>,
    }
}

impl Finder {
    /// A search through this process's environment, the workspace around the current folder or the current program, and
    /// the package managers' folders of this platform.
    pub fn from_process(setting: Option<PathBuf>) -> Self {
        let read = |name: &str| std::env::var_os(name).map(|value| (OsString::from(name), value));
        let env = [BINARY_VARIABLE, PATH_VARIABLE].into_iter().filter_map(read).collect();
        let well_known = places::well_known(std::env::var_os("HOME").as_deref().map(Path::new));
        Self { setting, env, tools_dir: workspace_tools_dir(), well_known }
    }

    /// The first binary that will do: of the setting, `MLX_NATS_SERVER`, `PATH`, `target/tools`, the well-known folders.
    ///
    /// A place that names one file decides: if that file will not do, it is an error and nothing else is tried. One that
    /// will not do in a folder is noted, and the search goes on.
    ///
    /// Blocks while `nats-server --version` runs: some 10 ms for each candidate, 5 s at the most. What a file answered
    /// is remembered for the life of the process, until the file changes.
    ///
    /// # Errors
    /// `EMBEDDED_SERVER_NOT_FOUND` with every place tried and how to install one on this machine;
    /// `EMBEDDED_SERVER_VERSION` if one older than [`MINIMUM_VERSION`] was named, or nothing newer was found.
    pub fn find(&self) -> Result<Binary> {
        let mut search = Search { finder: self, tried: Vec::new(), too_old: None };
        if let Some(path) = &self.setting {
            return search.named(path, Origin::Setting);
        }
        search.note(BINARY_SETTING, "not set");
        match self.env.get(&OsString::from(BINARY_VARIABLE)) {
            Some(path) if !path.is_empty() => return search.named(Path::new(path), Origin::Variable),
            Some(_) => search.note(BINARY_VARIABLE, "empty"),
            None => search.note(BINARY_VARIABLE, "not set"),
        }
        search.folders().ok_or_else(|| search.into_error())
    }
}

impl fmt::Debug for Finder {
    /// Shows only the variables that are read: the environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read: BTreeMap<_, _> = [BINARY_VARIABLE, PATH_VARIABLE]
            .into_iter()
            .filter_map(|name| Some((name, self.env.get(&OsString::from(name))?)))
            .collect();
        f.debug_struct("Finder")
            .field("setting", &self.setting)
            .field("env", &read)
            .field("tools_dir", &self.tools_dir)
            .field("well_known", &self.well_known)
            .finish()
    }
}

/// A search under way: what was tried so far.
struct Search<'a> {
    finder: &'a Finder,
    tried: Vec<TriedPath>,
    too_old: Option<(PathBuf, Version)>,
}

impl Search<'_> {
    fn named(mut self, path: &Path, origin: Origin) -> Result<Binary> {
        // Absolute, so that a bare name is this file and never a search through PATH.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        match probe::version(&path) {
            Ok(version) if version >= MINIMUM_VERSION => Ok(Binary { path, version, origin }),
            Ok(found) => {
                self.tried.clear();
                self.note(&path, format!("named by {origin}: version {found}"));
                self.too_old = Some((path, found));
                Err(self.into_error())
            }
            Err(unusable) => {
                // What the other places lack is beside the point here.
                self.tried.clear();
                self.note(path, format!("named by {origin}: {unusable}"));
                Err(self.into_error())
            }
        }
    }

    fn folders(&mut self) -> Option<Binary> {
        let finder = self.finder;
        match finder.env.get(&OsString::from(PATH_VARIABLE)) {
            Some(path) => {
                // A relative folder means another file in every working folder, and none that one would want to run.
                let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
                if let Some(binary) = self.any_of(folders, Origin::Path) {
                    return Some(binary);
                }
                self.note("PATH", "nothing usable in its folders");
            }
            None => self.note("PATH", "not set"),
        }
        match &finder.tools_dir {
            Some(folder) => {
                if let Some(binary) = self.folder(folder, Origin::Tools) {
                    return Some(binary);
                }
            }
            None => self.note("target/tools", "not inside a workspace"),
        }
        finder.well_known.iter().find_map(|folder| self.folder(folder, Origin::WellKnown))
    }

    fn any_of(&mut self, folders: impl Iterator<Item = PathBuf>, origin: Origin) -> Option<Binary> {
        for folder in folders {
            let path = folder.join(FILE_NAME);
            if path.exists()
                && let Some(binary) = self.candidate(path, origin)
            {
                return Some(binary);
            }
        }
        None
    }

    fn folder(&mut self, folder: &Path, origin: Origin) -> Option<Binary> {
        self.candidate(folder.join(FILE_NAME), origin)
    }

    fn candidate(&mut self, path: PathBuf, origin: Origin) -> Option<Binary> {
        match probe::version(&path) {
            Ok(version) if version >= MINIMUM_VERSION => return Some(Binary { path, version, origin }),
            Ok(found) => {
                self.note(&path, format!("version {found}; {MINIMUM_VERSION} or newer is needed"));
                self.too_old.get_or_insert((path, found));
            }
            Err(Unusable::Missing) => self.note(path, "not found"),
            Err(unusable) => self.note(path, unusable.to_string()),
        }
        None
    }

    fn note(&mut self, path: impl Into<PathBuf>, problem: impl Into<String>) {
        let (path, problem) = (path.into(), problem.into());
        // A folder of PATH may be a well-known one too.
        if !self.tried.iter().any(|tried| tried.path == path) {
            self.tried.push(TriedPath::new(path, problem));
        }
    }

    fn into_error(self) -> Error {
        let hint = install::hint(self.finder.tools_dir.is_some());
        match self.too_old {
            Some((path, found)) => Error::with_source(
                ErrorKind::ServerVersion { path, found: found.to_string(), needed: MINIMUM_VERSION.to_string() },
                Error::new(ErrorKind::ServerNotFound { tried: self.tried, hint }),
            ),
            None => Error::new(ErrorKind::ServerNotFound { tried: self.tried, hint }),
        }
    }
}
