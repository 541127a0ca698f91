//! What each member takes from the workspace, and what a publishable one says about itself.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use toml::{Table, Value};

use crate::workspace::Workspace;

pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let root = read(&workspace.root().join("Cargo.toml"))?;

    let mut faults: Vec<String> = unversioned_paths(&root).map(|fault| format!("Cargo.toml: {fault}")).collect();
    for package in workspace.members()? {
        let path = package.manifest_path.as_std_path();
        let manifest = read(path)?;
        let file = workspace.relative(path);
        faults.extend(member_faults(&manifest, &root).into_iter().map(|fault| format!("{file}: {fault}")));
    }
    Ok(faults)
}

fn read(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse().with_context(|| format!("cannot parse {}", path.display()))
}

/// Dependencies of the workspace that could not be published, for want of a version beside their path.
fn unversioned_paths(root: &Table) -> impl Iterator<Item = String> + '_ {
    let dependencies = table(root, &["workspace", "dependencies"]).into_iter().flatten();
    dependencies
        .filter(|(_, wanted)| wanted.get("path").is_some() && wanted.get("version").is_none())
        .map(|(name, _)| format!("`{name}` has a path and no version, so what uses it cannot be published"))
}

fn member_faults(manifest: &Table, root: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    if !table(manifest, &["lints"]).is_some_and(inherits) {
        faults.push("the workspace's lints are not inherited: add `[lints]` with `workspace = true`".to_owned());
    }

    let shared = table(root, &["workspace", "package"]).into_iter().flatten().map(|(key, _)| key);
    let package = table(manifest, &["package"]);
    for key in shared {
        if !package.and_then(|package| package.get(key)).and_then(Value::as_table).is_some_and(inherits) {
            faults.push(format!("`{key}` is not the workspace's: write `{key}.workspace = true`"));
        }
    }

    let publishable = package.is_some_and(|package| package.get("publish") != Some(&Value::Boolean(false)));
    let wanted: &[&str] =
        if publishable { &["description", "keywords", "categories", "readme", "include"] } else { &["description"] };
    for key in wanted {
        if package.is_none_or(|package| package.get(*key).is_none()) {
            faults.push(format!("`{key}` is missing from [package]"));
        }
    }

    for (section, dependencies) in dependency_sections(manifest) {
        for (name, wanted) in dependencies {
            // A crate whose tests have its features names itself, without a version, which it could not be published with.
            let is_itself = wanted.get("path").and_then(Value::as_str) == Some(".");
            if !wanted.as_table().is_some_and(inherits) && !is_itself {
                faults.push(format!(
                    "`{name}` in [{section}] is not inherited: put it into [workspace.dependencies] and write \
                     `{name}.workspace = true`"
                ));
            }
        }
    }
    faults
}

/// Every table of dependencies, by the name of its section: of all kinds, and of single targets too.
fn dependency_sections(manifest: &Table) -> Vec<(String, &Table)> {
    let mut sections = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        sections.extend(table(manifest, &[kind]).map(|found| (kind.to_owned(), found)));
        for (target, settings) in table(manifest, &["target"]).into_iter().flatten() {
            let found = settings.get(kind).and_then(Value::as_table);
            sections.extend(found.map(|found| (format!("target.\"{target}\".{kind}"), found)));
        }
    }
    sections
}

fn table<'a>(root: &'a Table, path: &[&str]) -> Option<&'a Table> {
    path.iter().try_fold(root, |table, key| table.get(*key)?.as_table())
}

fn inherits(table: &Table) -> bool {
    table.get("workspace") == Some(&Value::Boolean(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace.package]\nversion = '1.0.0'\nlicense = 'Apache-2.0'\n";
    const SOUND: &str = "
        [package]
        name = 'mlx-sound'
        description = 'Sound.'
        keywords = []
        categories = []
        readme = 'README.md'
        include = []
        version.workspace = true
        license.workspace = true
        [dependencies]
        serde.workspace = true
        [target.'cfg(unix)'.dependencies]
        rustix = { workspace = true, features = ['fs'] }
        [lints]
        workspace = true
    ";

    #[test]
    fn a_member_that_inherits_everything_passes() {
        assert_eq!(faults(SOUND), Vec::<String>::new());
    }

    #[test]
    fn lints_that_are_not_the_workspaces_are_a_fault() {
        assert_one(&SOUND.replace("[lints]\n        workspace = true", ""), "lints are not inherited");
        assert_one(&SOUND.replace("[lints]\n        workspace = true", "[lints.rust]"), "lints are not inherited");
    }

    #[test]
    fn a_dependency_with_a_version_of_its_own_is_a_fault_in_every_section() {
        assert_one(&SOUND.replace("serde.workspace = true", "serde = '1'"), "`serde` in [dependencies]");
        let dev = format!("{SOUND}\n[dev-dependencies]\ntokio = {{ path = '../tokio' }}");
        assert_one(&dev, "`tokio` in [dev-dependencies]");
        let build = format!("{SOUND}\n[build-dependencies.cc]\nversion = '1'");
        assert_one(&build, "`cc` in [build-dependencies]");
        let target = SOUND.replace("{ workspace = true, features = ['fs'] }", "'1.0'");
        assert_one(&target, "`rustix` in [target.\"cfg(unix)\".dependencies]");
    }

    #[test]
    fn package_data_of_its_own_is_a_fault() {
        assert_one(&SOUND.replace("version.workspace = true", "version = '0.2.0'"), "`version` is not the workspace's");
        assert_one(&SOUND.replace("license.workspace = true", ""), "`license` is not the workspace's");
    }

    #[test]
    fn what_is_published_says_what_it_is() {
        assert_one(&SOUND.replace("keywords = []", ""), "`keywords` is missing");
        assert_eq!(faults(&SOUND.replace("keywords = []", "publish = false")), Vec::<String>::new());
    }

    #[test]
    fn a_path_without_a_version_is_a_fault_of_the_workspace() {
        let root = "[workspace.dependencies]\na = { path = 'a' }\nb = { path = 'b', version = '1' }\nc = '1'\n";
        let found: Vec<_> = unversioned_paths(&parse(root)).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("`a` "), "{found:?}");
    }

    fn assert_one(manifest: &str, part: &str) {
        let faults = faults(manifest);
        assert!(faults.len() == 1 && faults[0].contains(part), "expected one fault with {part:?}, got {faults:#?}");
    }

    fn faults(manifest: &str) -> Vec<String> {
        member_faults(&parse(manifest), &parse(ROOT))
    }

    fn parse(text: &str) -> Table {
        text.parse().unwrap()
    }
}
