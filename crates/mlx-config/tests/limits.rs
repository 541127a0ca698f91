//! What a file may take: bounded memory and time, whatever is in it, and what is said of it as well.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::time::{Duration, Instant};

use mlx_config::Loader;
use mlx_errors::{Error, ErrorKind, Violation};

/// Far more than any of these takes, even where nothing is optimised and the machine is busy; what grows with the square of the
/// file takes minutes.
const LIMIT: Duration = Duration::from_secs(30);

/// The violations of a load, and what is drawn of them.
fn said(loader: &Loader) -> (Vec<Violation>, String) {
    let began = Instant::now();
    let error: Error = loader.load().map(|_| panic!("it loads")).unwrap_err();
    let drawn = loader.draw(&error, false);
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    assert!(drawn.len() < 1 << 20, "{} bytes are drawn", drawn.len());
    let (ErrorKind::ConfigSyntax { violations } | ErrorKind::ConfigValidation { violations }) = error.kind() else {
        panic!("{error:?}");
    };
    (violations.iter().cloned().collect(), drawn)
}

fn of_text(yaml: impl Into<String>) -> (Vec<Violation>, String) {
    said(&Loader::new().text("cluster.yaml", yaml).without_env())
}

#[test]
fn f6_aliases_of_a_long_text_are_bounded_by_what_they_expand_to() {
    let long = "x".repeat(100_000);
    let (said, _) = of_text(format!("a: &a \"{long}\"\nb: [{}]\n", "*a, ".repeat(20_000)));
    assert!(said[0].message.contains("bytes, its aliases and variables expanded"), "{said:?}");
}

#[test]
fn f6_anchors_inside_of_anchors_are_bounded_by_what_they_keep() {
    let long = "x".repeat(900_000);
    let anchors = (0..60).fold(String::new(), |anchors, depth| anchors + &format!("&a{depth} ["));
    let (said, _) = of_text(format!("a: {anchors}\"{long}\"{}\n", "]".repeat(60)));
    assert!(said[0].message.contains("bytes, its aliases and variables expanded"), "{said:?}");
}

#[test]
fn f6_variables_are_bounded_by_what_they_expand_to() {
    let loader = Loader::new()
        .text("cluster.yaml", format!("a: [{}]\n", "'${BIG}', ".repeat(50_000)))
        .env_map([("BIG", "x".repeat(100_000))]);
    let (said, _) = said(&loader);
    assert!(said.iter().any(|said| said.message.contains("variables expanded")), "{said:?}");
}

#[test]
fn f6_a_long_path_is_refused_since_every_message_would_repeat_it() {
    let mut yaml = format!("? {}\n:\n", "k".repeat(400_000));
    for number in 0..20_000 {
        writeln!(yaml, "  a{number}: 1").unwrap();
    }
    let (said, drawn) = of_text(yaml);
    assert!(said[0].message.contains("1024 bytes"), "{said:?}");
    assert!(drawn.len() < 10_000, "{drawn}");
}

#[test]
fn f6_of_very_many_violations_the_first_are_told_and_the_others_counted() {
    let unknown: String = (0..90_000).fold(String::new(), |mut yaml, number| {
        writeln!(yaml, "k{number}: 1").unwrap();
        yaml
    });
    let wrong: String = (0..40_000).fold("workers:\n  static:\n".to_owned(), |mut yaml, _| {
        yaml.push_str("    - port: no\n");
        yaml
    });
    let duplicates = "mode: both\n".repeat(50_000);
    let unset = format!("nats:\n  servers: [{}]\n", "'${UNSET}', ".repeat(50_000));
    for (what, yaml) in
        [("unknown keys", unknown), ("wrong values", wrong), ("duplicates", duplicates), ("unset", unset)]
    {
        let (said, drawn) = of_text(yaml);
        assert_eq!(said.len(), 101, "{what}");
        assert!(
            said[100].message.starts_with("and ") && said[100].message.contains(" more"),
            "{what}: {:?}",
            said[100]
        );
        assert!(drawn.contains(&said[100].message), "{what}");
    }
}

#[test]
fn f6_many_files_share_one_budget() {
    let big = format!("a: \"{}\"\n", "x".repeat(1_000_000));
    let loader =
        (0..10).fold(Loader::new().without_env(), |loader, number| loader.text(format!("{number}.yaml"), big.clone()));
    let (said, _) = said(&loader);
    assert!(said.iter().any(|said| said.message.contains("holds more than")), "{said:?}");
}

#[test]
fn f6_references_inside_of_references_are_bounded() {
    for yaml in [
        format!("mode: \"{}\"\n", "${A:-".repeat(150_000)),
        format!("mode: \"{}both{}\"\n", "${A:-".repeat(60_000), "}".repeat(60_000)),
    ] {
        let (said, _) = of_text(yaml);
        assert_eq!(said[0].rule, "variable", "{said:?}");
    }
}
