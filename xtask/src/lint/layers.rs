//! The order of the layers: a crate depends on those below it, never on those above.

use std::collections::BTreeSet;

use anyhow::Result;
use cargo_metadata::DependencyKind;

use crate::workspace::Workspace;

/// The layers, lowest first; the first is layer 1.
const LAYERS: [&str; 7] = ["mlx-errors", "mlx-log", "mlx-types", "mlx-config", "mlx-nats", "mlx-embedded", "mlx-node"];

/// Members above all layers: they may depend on any layer, and nothing may depend on them.
const TOP: [&str; 3] = ["mlx-bench", "mlx-tests", "xtask"];

/// A member of the workspace, and the names of the packages it depends on.
#[derive(Debug)]
struct Member {
    name: String,
    dependencies: Vec<(String, DependencyKind)>,
}

pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    Ok(faults(&members(workspace)?))
}

fn members(workspace: &Workspace) -> Result<Vec<Member>> {
    let members = workspace.members()?.into_iter().map(|package| Member {
        name: package.name.to_string(),
        dependencies: package.dependencies.into_iter().map(|wanted| (wanted.name, wanted.kind)).collect(),
    });
    Ok(members.collect())
}

fn faults(members: &[Member]) -> Vec<String> {
    let ours: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let mut faults = Vec::new();
    for member in members {
        let Some(from) = Position::of(&member.name) else {
            faults.push(format!("`{}` has no layer: give it one in {}", member.name, file!()));
            continue;
        };
        for (name, kind) in member.dependencies.iter().filter(|(name, _)| ours.contains(name.as_str())) {
            // A dependency without a place is reported as a member of its own.
            let Some(to) = Position::of(name) else { continue };
            // With it, the tests of a crate have its features.
            let is_for_own_tests = *name == member.name && *kind == DependencyKind::Development;
            if !from.may_depend_on(to) && !is_for_own_tests {
                faults.push(format!(
                    "`{}` ({}) must not depend on `{name}` ({}){}",
                    member.name,
                    from.describe(),
                    to.describe(),
                    describe_kind(*kind)
                ));
            }
        }
    }
    faults
}

#[derive(Clone, Copy, Debug)]
enum Position {
    Layer(usize),
    Top,
}

impl Position {
    fn of(name: &str) -> Option<Self> {
        match LAYERS.iter().position(|layer| *layer == name) {
            Some(index) => Some(Self::Layer(index + 1)),
            None => TOP.contains(&name).then_some(Self::Top),
        }
    }

    fn may_depend_on(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::Top) => false,
            (Self::Top, Self::Layer(_)) => true,
            (Self::Layer(from), Self::Layer(to)) => to < from,
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Layer(number) => format!("layer {number}"),
            Self::Top => "above all layers".to_owned(),
        }
    }
}

fn describe_kind(kind: DependencyKind) -> &'static str {
    match kind {
        DependencyKind::Development => ", in [dev-dependencies]",
        DependencyKind::Build => ", in [build-dependencies]",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_layer_may_be_used_by_every_higher_one() {
        for (index, upper) in LAYERS.iter().enumerate() {
            for lower in &LAYERS[..index] {
                assert_eq!(faults_of(upper, lower, DependencyKind::Normal), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn a_higher_layer_is_refused_by_name_whatever_the_kind() {
        let said = |kind| faults_of("mlx-types", "mlx-nats", kind);
        let plain = "`mlx-types` (layer 3) must not depend on `mlx-nats` (layer 5)";
        assert_eq!(said(DependencyKind::Normal), [plain]);
        assert_eq!(said(DependencyKind::Development), [format!("{plain}, in [dev-dependencies]")]);
        assert_eq!(said(DependencyKind::Build), [format!("{plain}, in [build-dependencies]")]);
    }

    #[test]
    fn nothing_depends_on_the_tools_nor_on_itself() {
        assert_eq!(
            faults_of("mlx-embedded", "xtask", DependencyKind::Development),
            ["`mlx-embedded` (layer 6) must not depend on `xtask` (above all layers), in [dev-dependencies]"]
        );
        assert_eq!(faults_of("xtask", "mlx-tests", DependencyKind::Normal).len(), 1);
        assert_eq!(faults_of("mlx-log", "mlx-log", DependencyKind::Build).len(), 1);
        assert_eq!(
            faults_of("mlx-log", "mlx-log", DependencyKind::Development).len(),
            0,
            "its tests have its features"
        );
    }

    #[test]
    fn a_member_that_no_layer_names_is_a_fault() {
        let faults = faults_of("mlx-scheduler", "mlx-types", DependencyKind::Normal);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("`mlx-scheduler` has no layer"), "{faults:?}");
    }

    #[test]
    fn packages_of_others_have_no_layer() {
        let serde = ("serde".to_owned(), DependencyKind::Normal);
        let member = Member { name: "mlx-log".to_owned(), dependencies: vec![serde] };
        assert_eq!(faults(&[member]), Vec::<String>::new());
    }

    fn faults_of(from: &str, to: &str, kind: DependencyKind) -> Vec<String> {
        let mut members = vec![Member { name: from.to_owned(), dependencies: vec![(to.to_owned(), kind)] }];
        if from != to {
            members.push(Member { name: to.to_owned(), dependencies: Vec::new() });
        }
        faults(&members)
    }
}
