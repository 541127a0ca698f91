//! `docs/promises.md` names the tests that hold each promise, and no test speaks of a promise that is not on the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/promises.md";
/// Where tests are.
const FOLDERS: [&str; 4] = ["crates", "tests", "bench", "xtask"];

#[test]
fn every_promise_names_the_tests_that_hold_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap();
    let tests = tests_by_promise(&root);

    let (written, promised) = fill_in(&page, &tests);
    for promise in &promised {
        assert!(tests.contains_key(promise), "no test holds {}", promise.to_uppercase());
    }
    for (promise, tests) in &tests {
        assert!(
            promised.contains(promise),
            "{PAGE} has no promise {}, of which {tests:?} speaks",
            promise.to_uppercase()
        );
    }
    if written != page {
        std::fs::write(&path, written).unwrap();
        panic!("{PAGE} did not name the tests as they are. It does now: read it and commit it");
    }
}

/// A test, and the file that it is in, from the folder of the workspace.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    name: String,
    file: String,
}

/// The page with the lists of tests as they are, and the promises that are on it, in lower case as in the names of tests.
fn fill_in(page: &str, tests: &BTreeMap<String, Vec<Test>>) -> (String, Vec<String>) {
    let mut written = String::new();
    let mut promised = Vec::new();
    // A section is a heading with what is below it.
    for section in format!("\n{page}").split("\n#").skip(1) {
        let text = section.split("\n<details>").next().unwrap().trim_end();
        let separator = if written.is_empty() { "" } else { "\n" };
        writeln!(written, "{separator}#{text}").unwrap();
        if let Some(promise) = text.strip_prefix("## ").and_then(|text| text.lines().next()).map(str::to_lowercase) {
            write_list(&mut written, tests.get(&promise).map_or(&[], Vec::as_slice));
            promised.push(promise);
        }
    }
    (written, promised)
}

/// Folded, because some promises are held by twenty tests.
fn write_list(page: &mut String, tests: &[Test]) {
    let count = match tests.len() {
        0 => return,
        1 => "a test".to_owned(),
        many => format!("{many} tests"),
    };
    writeln!(page, "\n<details>\n<summary>Held by {count}</summary>\n").unwrap();
    for Test { name, file } in tests {
        writeln!(page, "- [`{name}`](../{file})").unwrap();
    }
    page.push_str("\n</details>\n");
}

/// What the tests of the workspace are named after: `c6_c7_name` is about C6 and about C7.
fn tests_by_promise(root: &Path) -> BTreeMap<String, Vec<Test>> {
    let mut tests: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    for file in FOLDERS.iter().flat_map(|folder| sources(&root.join(folder))) {
        let code = std::fs::read_to_string(&file).unwrap();
        let file = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        for name in tests_in(&code) {
            for promise in name.split('_').take_while(|part| is_promise(part)) {
                tests.entry(promise.to_owned()).or_default().push(Test { name: name.to_owned(), file: file.clone() });
            }
        }
    }
    for tests in tests.values_mut() {
        tests.sort();
    }
    tests
}

fn is_promise(part: &str) -> bool {
    let mut characters = part.chars();
    characters.next().is_some_and(|first| "ecsdwmflxrp".contains(first))
        && !characters.as_str().is_empty()
        && characters.all(|character| character.is_ascii_digit())
}

/// The names of the functions behind a test's attribute.
fn tests_in(code: &str) -> impl Iterator<Item = &str> {
    let mut lines = code.lines().map(str::trim);
    std::iter::from_fn(move || {
        lines.find(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))?;
        let line = lines.find(|line| line.contains("fn "))?;
        Some(line.split_once("fn ")?.1.split('(').next()?.trim())
    })
}

/// The Rust files below a folder, in the order of their paths.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != "node_modules") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_list_is_written_behind_its_promise_and_written_again_without_a_change() {
    let tests =
        BTreeMap::from([("c1".to_owned(), vec![Test { name: "c1_a".to_owned(), file: "tests/a.rs".to_owned() }])]);
    let page = "# Page\n\n### C1\n\nText.\n\n### C2\n\nMore.\n";
    let (once, promised) = fill_in(page, &tests);
    assert_eq!(promised, ["c1", "c2"]);
    let list = "<details>\n<summary>Held by a test</summary>\n\n- [`c1_a`](../tests/a.rs)\n\n</details>";
    assert_eq!(once, format!("# Page\n\n### C1\n\nText.\n\n{list}\n\n### C2\n\nMore.\n"));
    assert_eq!(fill_in(&once, &tests).0, once);
    let without = fill_in(&once, &BTreeMap::new()).0;
    assert_eq!(without, page);
}
