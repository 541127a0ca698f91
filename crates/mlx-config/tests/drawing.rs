//! Broken rules with the line that they are about, as people see them.
#![allow(clippy::unwrap_used, reason = "tests")]

use mlx_errors::{Location, Violation, Violations};

const YAML: &str = "nats:\n  embedded:\n    port: 99\n";

fn at(line: usize, column: usize) -> Location {
    Location::new("cluster.yaml", line, column)
}

/// One with everything that a violation can say.
fn port() -> Violation {
    Violation::new("nats.embedded.port", "range", "is not a port")
        .found("99".to_owned())
        .expected("1024 to 65535".to_owned())
        .suggestion("0 picks a free port".to_owned())
        .location(at(3, 11))
}

fn violations(of: &[Violation]) -> Violations {
    of.to_vec().into()
}

fn draw(violation: Violation, source: &str) -> String {
    mlx_config::draw(&Violations::from(vec![violation]), |_| Some(source.to_owned()), false)
}

#[test]
fn f1_a_violation_is_drawn_with_its_line() {
    let violation = port().location(at(3, 11));
    assert_eq!(
        draw(violation, YAML),
        "\
error[range]: nats.embedded.port: is not a port
 --> cluster.yaml:3:11
  |
3 |     port: 99
  |           ^^ found 99, expected 1024 to 65535
  |
  = help: 0 picks a free port
"
    );
}

#[test]
fn f1_colour_is_for_terminals_only() {
    let all = violations(&[port()]);
    let source = |_: &std::path::Path| Some(YAML.to_owned());
    assert!(mlx_config::draw(&all, source, true).contains("\u{1b}["));
    assert!(!mlx_config::draw(&all, source, false).contains('\u{1b}'));
}

#[test]
fn f1_a_line_that_is_not_there_is_left_out() {
    for (location, source) in [(at(9, 1), Some(YAML)), (at(3, 11), None), (at(0, 0), Some(YAML)), (at(1, 1), Some(""))]
    {
        let all = violations(&[port().location(location)]);
        let drawn = mlx_config::draw(&all, |_| source.map(Into::into), false);
        assert!(drawn.contains("--> cluster.yaml:"), "{drawn}");
        assert!(drawn.contains("found 99") && drawn.contains("help: 0 picks"), "{drawn}");
        assert!(!drawn.contains("port: 99"), "{drawn}");
    }
    let without = violations(&[port().location(None), Violation::new("a", "r", "m")]);
    let drawn = mlx_config::draw(&without, |_| None, false);
    assert!(drawn.contains("note: found 99") && drawn.contains("error[r]: a: m"), "{drawn}");
}

#[test]
fn f1_any_column_of_any_text_can_be_drawn() {
    let source = "äöü: \"größe\"\t\u{1b}[2J  # ok\r\n\u{feff}x: [é, ñ]\n\n'a b': 'c d'";
    for line in 0..6 {
        for column in 0..40 {
            let drawn = draw(Violation::new("x", "type", "m").location(at(line, column)), source);
            assert!(drawn.contains("error[type]: x: m") && !drawn.contains('\u{1b}'), "{line}:{column}: {drawn}");
        }
    }
    let quoted = draw(Violation::new("x", "type", "m").location(at(4, 8)), source);
    assert!(quoted.contains("^^^^^"), "the quoted word is marked whole: {quoted}");
}

#[test]
fn f1_text_of_a_document_cannot_steer_a_terminal() {
    let violation = Violation::new("key\u{1b}", "rule\u{1b}", "two\nlines")
        .found("\u{1b}[31m\n".to_owned())
        .suggestion("\u{7}".to_owned())
        .location(Location::new("a\u{1b}b", 1, 1));
    for text in [
        draw(violation.clone(), "a: 1"),
        draw(violation.clone(), ""),
        violations(std::slice::from_ref(&violation)).render_plain(),
        violation.to_string(),
    ] {
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }
}

#[test]
fn x1_a_line_that_may_hold_a_secret_is_not_drawn() {
    let typo = Violation::new("nats.passwrd", "unknownKey", "m").suggestion("did you mean `password`?".to_owned());
    for (violation, line, column, source) in [
        (Violation::new("nats.password", "type", "is not a string"), 2, 13, "nats:\n  password: 12canary\n"),
        (typo, 2, 3, "nats:\n  passwrd: canary\n"),
        (Violation::new("", "syntax", "m"), 1, 27, "nats: { 'password': \"canary, port: 1 }"),
        (Violation::new("", "syntax", "m"), 4, 3, "nats:\n  password: |\n\n     canary\n    canary\n"),
        (Violation::new("", "syntax", "m"), 1, 12, "AUTH_TOKEN=canary"),
        (Violation::new("nats.serverUrl", "url", "m"), 1, 12, "serverUrl: nats://me:canary@host:x"),
        (Violation::new("nats.serverUrl", "url", "m"), 1, 24, "serverUrl: nats://me:canary@host:x"),
        (Violation::new("nats.serverUrl", "url", "m at nats://me:canary@host"), 1, 1, "serverUrl: x"),
        // Where the credentials end is not known, so the line is left out.
        (Violation::new("nats.serverUrl", "url", "m"), 1, 12, "serverUrl: \"nats://me:canary 1@host\""),
        (Violation::new("nats.serverUrl", "url", "m"), 1, 12, "serverUrl: nats://me:1\"canary@host:x"),
        (
            Violation::new("nats.servers[1]", "url", "m"),
            2,
            5,
            "servers:\n  - nats://a:canary@b, nats://me:c anary@host",
        ),
        (Violation::new("nats.serverUrl", "url", "m"), 1, 12, "serverUrl: \"nats://me:canary\n  2@host\"\nuser: x"),
        (Violation::new("", "syntax", "m"), 3, 3, "serverUrl:\n  \"nats://me:1\n  canary@host\""),
    ] {
        let drawn = draw(violation.location(at(line, column)), source);
        assert!(!drawn.contains("canary"), "{drawn}");
        assert!(drawn.contains("cluster.yaml"), "{drawn}");
    }
    let harmless =
        draw(Violation::new("s.firstTokenTimeoutMs", "type", "m").location(at(1, 22)), "firstTokenTimeoutMs: x");
    assert!(harmless.contains("firstTokenTimeoutMs: x"), "{harmless}");
    let url = "serverUrl: nats://me:canary@host:x # me@example.org\nuser: a@b\n";
    let harmless = Violation::new("nats.serverUrl", "url", "m").location(at(1, 12));
    let harmless = draw(harmless, url);
    assert!(harmless.contains("nats://[redacted]@host:x # me@example.org"), "{harmless}");
}
