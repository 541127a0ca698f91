//! What would be published: each package is made as `cargo publish` makes it, and looked through.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::Package;

use crate::process;
use crate::workspace::{Workspace, is_published};

/// What a package may hold, unpacked, in bytes. Ours hold source, and stay far below; a registry's limit is ten times this.
const LIMIT: u64 = 1024 * 1024;

/// What a package is not to be had without.
const NEEDED: [&str; 4] = ["Cargo.toml", "LICENSE", "README.md", "src/lib.rs"];

/// The endings of files that hold credentials.
const PRIVATE: [&str; 7] = ["creds", "env", "jwt", "key", "nk", "p12", "pem"];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let members = workspace.members()?;
    let published: Vec<_> = members.iter().filter(|package| is_published(package)).collect();
    let mut faults = make(workspace, &published)?;
    if faults.is_empty() {
        for package in published {
            let contents = Contents::of(workspace, package)?;
            faults.extend(contents.faults().into_iter().map(|fault| format!("{}: {fault}", package.name)));
        }
    }
    Ok(faults)
}

/// Has cargo make the packages; what it has to say against them.
///
/// They are not compiled, which would take minutes, and hold no lock file, which cargo would need the network to write.
fn make(workspace: &Workspace, packages: &[&Package]) -> Result<Vec<String>> {
    let mut command = workspace.cargo();
    command.args(["package", "--no-verify", "--exclude-lockfile", "--allow-dirty", "--offline", "--color", "never"]);
    command.args(packages.iter().flat_map(|package| ["--package", package.name.as_str()]));
    let output = process::output(command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(if output.status.success() { warnings(&said) } else { vec![said.trim_end().to_owned()] })
}

/// The warnings among what cargo says, but for tests and benchmarks that are left out on purpose.
fn warnings(said: &str) -> Vec<String> {
    let is_warning = |line: &&str| line.starts_with("warning: ");
    let is_meant = |line: &&str| {
        ["warning: ignoring test ", "warning: ignoring benchmark "].iter().any(|start| line.starts_with(start))
    };
    said.lines().filter(is_warning).filter(|line| !is_meant(line)).map(ToOwned::to_owned).collect()
}

/// The files of a package, by their paths in it.
#[derive(Debug, Default)]
struct Contents {
    /// With their sizes in bytes.
    files: Vec<(PathBuf, u64)>,
    /// Source files, and the files that each reads into the program.
    included: Vec<(PathBuf, PathBuf)>,
}

impl Contents {
    fn of(workspace: &Workspace, package: &Package) -> Result<Self> {
        let mut command = workspace.cargo();
        let list = ["package", "--list", "--exclude-lockfile", "--allow-dirty", "--offline", "--package"];
        command.args(list).arg(package.name.as_str());
        let output = process::output(command)?;
        ensure!(output.status.success(), "`cargo package --list` ended with {}", output.status);

        let folder = package.manifest_path.parent().context("a manifest is in a folder")?.as_std_path();
        let mut contents = Self::default();
        for name in String::from_utf8_lossy(&output.stdout).lines() {
            let (name, path) = (PathBuf::from(name), folder.join(name));
            // Cargo makes a few of its own, which are in no folder.
            let size = fs::metadata(&path).map_or(0, |found| found.len());
            if name.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let read = includes(&text).map(|target| (name.clone(), resolve(&name, target)));
                contents.included.extend(read);
            }
            contents.files.push((name, size));
        }
        Ok(contents)
    }

    fn faults(&self) -> Vec<String> {
        let has = |wanted: &Path| self.files.iter().any(|(name, _)| name == wanted);
        let mut faults: Vec<_> = NEEDED
            .into_iter()
            .filter(|needed| !has(Path::new(needed)))
            .map(|needed| format!("`{needed}` is not in the package"))
            .collect();
        let missing = self.included.iter().filter(|(_, target)| !has(target));
        faults.extend(missing.map(|(source, target)| {
            format!("{} includes `{}`, which is not in the package", source.display(), target.display())
        }));
        let private = self.files.iter().filter(|(name, _)| is_private(name));
        faults.extend(private.map(|(name, _)| format!("`{}` looks like a secret", name.display())));
        let size: u64 = self.files.iter().map(|(_, size)| size).sum();
        if size > LIMIT {
            let largest = self.files.iter().max_by_key(|(_, size)| *size);
            let largest = largest.map(|(name, size)| format!(" (largest: {}, {size})", name.display()));
            faults.push(format!("the package has {size} bytes, over {LIMIT}{}", largest.unwrap_or_default()));
        }
        faults
    }
}

/// The paths that a source file includes as text or bytes, as it writes them.
fn includes(text: &str) -> impl Iterator<Item = &str> {
    ["include_str!(\"", "include_bytes!(\"", "include!(\""]
        .into_iter()
        .flat_map(move |call| text.split(call).skip(1).filter_map(|rest| rest.split_once('"')).map(|(path, _)| path))
}

/// `target` as seen from the package, where `source` is the file that names it.
fn resolve(source: &Path, target: &str) -> PathBuf {
    let mut path = source.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(target).components() {
        // What leads out of the package keeps its dots, and so is not found in it.
        if part == Component::ParentDir && path.file_name().is_some() {
            path.pop();
        } else {
            path.push(part);
        }
    }
    path
}

fn is_private(name: &Path) -> bool {
    let is_named_so = |part: Option<&std::ffi::OsStr>| {
        part.is_some_and(|part| PRIVATE.iter().any(|private| part.eq_ignore_ascii_case(private)))
    };
    is_named_so(name.extension()) || name.file_name().is_some_and(|name| name == ".env")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_needs_its_licence_its_readme_and_its_source() {
        assert_eq!(with(&[]).faults(), Vec::<String>::new());
        for needed in NEEDED {
            let mut contents = with(&[]);
            contents.files.retain(|(name, _)| name != Path::new(needed));
            assert_eq!(contents.faults(), [format!("`{needed}` is not in the package")]);
        }
    }

    #[test]
    fn a_file_that_source_includes_has_to_be_packed_too() {
        let includes = |target: &str| {
            let mut contents = with(&[("schemas/line.json", 1)]);
            contents.included.push(("src/schema.rs".into(), resolve(Path::new("src/schema.rs"), target)));
            contents.faults()
        };
        assert_eq!(includes("../schemas/line.json"), Vec::<String>::new());
        assert_eq!(
            includes("../schemas/none.json"),
            ["src/schema.rs includes `schemas/none.json`, which is not in the package"]
        );
        assert_eq!(
            includes("../../LICENSE"),
            ["src/schema.rs includes `../LICENSE`, which is not in the package"],
            "a file above the package is not one of it, whatever its name"
        );
    }

    #[test]
    fn every_way_to_include_a_file_is_seen() {
        let text = r#"#[doc = include_str!("../README.md")] const B: &[u8] = include_bytes!("b"); include!("c.rs");"#;
        assert_eq!(includes(text).collect::<Vec<_>>(), ["../README.md", "b", "c.rs"]);
    }

    #[test]
    fn what_looks_like_a_secret_or_is_too_large_is_a_fault() {
        assert_eq!(with(&[("tests/user.creds", 1)]).faults(), ["`tests/user.creds` looks like a secret"]);
        assert_eq!(with(&[(".env", 1)]).faults(), ["`.env` looks like a secret"]);
        assert_eq!(with(&[("src/key.rs", 1)]).faults(), Vec::<String>::new());
        let said = with(&[("src/model.bin", LIMIT)]).faults();
        assert!(said.len() == 1 && said[0].contains("(largest: src/model.bin, 1048576)"), "{said:?}");
    }

    #[test]
    fn warnings_of_cargo_are_faults_but_for_tests_left_out() {
        let said = "   Packaging mlx-log v0.1.0\nwarning: ignoring test `log` as `tests/log/main.rs` is not included\n\
                    warning: manifest has no documentation\n  |\n    Packaged 24 files\n";
        assert_eq!(warnings(said), ["warning: manifest has no documentation"]);
    }

    fn with(more: &[(&str, u64)]) -> Contents {
        let needed = NEEDED.map(|name| (name, 1));
        let files = needed.iter().chain(more).map(|(name, size)| (PathBuf::from(name), *size));
        Contents { files: files.collect(), included: Vec::new() }
    }
}
