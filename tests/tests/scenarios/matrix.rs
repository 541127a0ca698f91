//! `docs/scenarios.md` and the tests are about the same things.

use std::path::{Path, PathBuf};

/// Folders and files whose every test is a scenario.
const SCENARIOS: [&str; 2] = ["scenarios", "cluster_network"];

#[test]
fn every_test_that_the_matrix_names_is_there_and_every_scenario_is_in_it() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let matrix = std::fs::read_to_string(docs.join("scenarios.md")).unwrap();

    // [`name_of_the_test`](../path/to/its/file.rs)
    let mut named = Vec::new();
    for (_, link) in matrix.match_indices("[`").map(|(start, _)| matrix.split_at(start)) {
        let Some((name, rest)) = link[2..].split_once("`](") else { panic!("a broken link: {link}") };
        let path = rest.split_once(')').unwrap().0;
        let code = std::fs::read_to_string(docs.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(tests_in(&code).any(|test| test == name), "docs/scenarios.md names {name}, which is not in {path}");
        named.push(name);
    }
    assert!(!named.is_empty());

    let own_name = "every_test_that_the_matrix_names_is_there_and_every_scenario_is_in_it";
    for file in SCENARIOS.iter().flat_map(|scenario| sources(scenario)) {
        let code = std::fs::read_to_string(&file).unwrap();
        for test in tests_in(&code).filter(|test| *test != own_name) {
            assert!(named.contains(&test), "{test} in {} is not in docs/scenarios.md", file.display());
        }
    }
}

/// The names of the functions behind a test's attribute.
fn tests_in(code: &str) -> impl Iterator<Item = &str> {
    let mut lines = code.lines();
    std::iter::from_fn(move || {
        lines.find(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))?;
        let line = lines.find(|line| line.contains("fn ")).expect("a test is a function");
        Some(line.split_once("fn ")?.1.split('(').next()?.trim())
    })
}

/// The files of a target of ours, whether it is one file or a folder; none where there is no such target.
fn sources(target: &str) -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let single = tests.join(target).with_extension("rs");
    let Ok(folder) = std::fs::read_dir(tests.join(target)) else {
        return if single.exists() { vec![single] } else { Vec::new() };
    };
    folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "rs")).collect()
}
