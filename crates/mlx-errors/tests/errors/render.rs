//! Broken rules and whole errors, as people see them.

use std::error::Error as StdError;
use std::io;

use crate::samples::{port, violations};
use mlx_errors::{Error, ErrorKind, Failure, Location, RemoteError, Violation, Violations, report};

const YAML: &str = "nats:\n  embedded:\n    port: 99\n";

fn at(line: usize, column: usize) -> Location {
    Location { file: "cluster.yaml".into(), line, column }
}

fn draw(violation: Violation, source: &str) -> String {
    Violations::from(vec![violation]).render_annotated(|_| Some(source.to_owned()), false)
}

#[test]
fn f1_a_violation_is_drawn_with_its_line() {
    let violation = Violation { location: Some(at(3, 11)), ..port() };
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
fn f1_a_violation_is_told_plainly() {
    let two = violations(&[port(), Violation::new("", "type", "is not a map")]);
    assert_eq!(
        two.render_plain(),
        "cluster.yaml:3:11: nats.embedded.port: is not a port; found 99, expected 1024 to 65535 (0 picks a free port)\n\
         is not a map\n"
    );
    assert_eq!(
        two.to_string(),
        "cluster.yaml:3:11: nats.embedded.port: is not a port; found 99, expected 1024 to 65535 (0 picks a free port); is not a map"
    );
    assert_eq!((two.len(), two.is_empty(), two.iter().count()), (2, false, 2));
    let only = |found: Option<&str>, expected: Option<&str>| Violation {
        found: found.map(Into::into),
        expected: expected.map(Into::into),
        ..Violation::new("a", "r", "m")
    };
    assert_eq!(
        violations(&[only(Some("1"), None), only(None, Some("2"))]).render_plain(),
        "a: m; found 1\na: m; expected 2\n"
    );
}

#[test]
fn f1_colour_is_for_terminals_only() {
    let all = violations(&[port()]);
    let source = |_: &std::path::Path| Some(YAML.to_owned());
    assert!(all.render_annotated(source, true).contains("\u{1b}["));
    assert!(!all.render_annotated(source, false).contains('\u{1b}'));
}

#[test]
fn f1_a_line_that_is_not_there_is_left_out() {
    for (location, source) in [(at(9, 1), Some(YAML)), (at(3, 11), None), (at(0, 0), Some(YAML)), (at(1, 1), Some(""))]
    {
        let drawn = violations(&[Violation { location: Some(location), ..port() }])
            .render_annotated(|_| source.map(Into::into), false);
        assert!(drawn.contains("--> cluster.yaml:"), "{drawn}");
        assert!(drawn.contains("found 99") && drawn.contains("help: 0 picks"), "{drawn}");
        assert!(!drawn.contains("port: 99"), "{drawn}");
    }
    let without = violations(&[Violation { location: None, ..port() }, Violation::new("a", "r", "m")]);
    let drawn = without.render_annotated(|_| None, false);
    assert!(drawn.contains("note: found 99") && drawn.contains("error[r]: a: m"), "{drawn}");
}

#[test]
fn f1_any_column_of_any_text_can_be_drawn() {
    let source = "äöü: \"größe\"\t\u{1b}[2J  # ok\r\n\u{feff}x: [é, ñ]\n\n'a b': 'c d'";
    for line in 0..6 {
        for column in 0..40 {
            let drawn =
                draw(Violation { location: Some(at(line, column)), ..Violation::new("x", "type", "m") }, source);
            assert!(drawn.contains("error[type]: x: m") && !drawn.contains('\u{1b}'), "{line}:{column}: {drawn}");
        }
    }
    let quoted = draw(Violation { location: Some(at(4, 8)), ..Violation::new("x", "type", "m") }, source);
    assert!(quoted.contains("^^^^^"), "the quoted word is marked whole: {quoted}");
}

#[test]
fn f1_text_of_a_document_cannot_steer_a_terminal() {
    let violation = Violation {
        found: Some("\u{1b}[31m\n".into()),
        suggestion: Some("\u{7}".into()),
        location: Some(Location { file: "a\u{1b}b".into(), line: 1, column: 1 }),
        ..Violation::new("key\u{1b}", "rule\u{1b}", "two\nlines")
    };
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
    let typo = Violation {
        suggestion: Some("did you mean `password`?".into()),
        ..Violation::new("nats.passwrd", "unknownKey", "m")
    };
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
        let drawn = draw(Violation { location: Some(at(line, column)), ..violation }, source);
        assert!(!drawn.contains("canary"), "{drawn}");
        assert!(drawn.contains("cluster.yaml"), "{drawn}");
    }
    let harmless = draw(
        Violation { location: Some(at(1, 22)), ..Violation::new("s.firstTokenTimeoutMs", "type", "m") },
        "firstTokenTimeoutMs: x",
    );
    assert!(harmless.contains("firstTokenTimeoutMs: x"), "{harmless}");
    let url = "serverUrl: nats://me:canary@host:x # me@example.org\nuser: a@b\n";
    let harmless = Violation { location: Some(at(1, 12)), ..Violation::new("nats.serverUrl", "url", "m") };
    let harmless = draw(harmless, url);
    assert!(harmless.contains("nats://[redacted]@host:x # me@example.org"), "{harmless}");
}

#[test]
fn x1_a_canary_in_a_source_or_a_url_stays_inside() {
    #[derive(Debug)]
    struct Dialled(#[expect(dead_code, reason = "shown by Debug")] &'static str);
    impl std::fmt::Display for Dialled {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("cannot dial nats://me:canary@host:4222")
        }
    }
    impl StdError for Dialled {}

    let kind = ErrorKind::Publish { subject: "a".into(), reason: "lost nats://canary@host".into() };
    let error = Error::with_source(kind, Dialled("tls://me:canary@host"));
    let listed = ErrorKind::ConfigValidation {
        violations: violations(&[Violation::new("nats.serverUrl", "url", "nats://me:canary@host is not one")]),
    };
    for error in [error, listed.into()] {
        for text in [
            error.to_string(),
            format!("{error:?}"),
            format!("{error:#?}"),
            report(&error).to_string(),
            format!("{:#}", report(&error)),
            serde_json::to_string(&error).unwrap(),
            serde_json::to_string(&error.to_remote()).unwrap(),
            format!("{:?}", Failure::from(error)),
        ] {
            assert!(!text.contains("canary"), "{text}");
        }
    }
}

#[test]
fn a_report_lists_broken_rules_and_causes_line_by_line() {
    let all = violations(&[port(), Violation::new("nats.prot", "unknownKey", "there is no such key")]);
    let error = Error::with_source(ErrorKind::ConfigValidation { violations: all }, io::Error::other("below"));
    let expected = "the configuration is not valid [CONFIG_VALIDATION_ERROR]\n  \
        cluster.yaml:3:11: nats.embedded.port: is not a port; found 99, expected 1024 to 65535 (0 picks a free port)\n  \
        nats.prot: there is no such key\n  caused by: below";
    assert_eq!(format!("{:#}", report(&error)), expected);
    let failure = Failure::from(error);
    assert_eq!(format!("{failure:?}"), expected);
    assert!(failure.to_string().ends_with("there is no such key: below"), "{failure}");
}

#[test]
fn an_error_that_is_its_own_cause_or_cannot_be_shown_is_reported_all_the_same() {
    #[derive(Debug)]
    struct Loop(bool);
    impl std::fmt::Display for Loop {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("round")?;
            if self.0 { Ok(()) } else { Err(std::fmt::Error) }
        }
    }
    impl StdError for Loop {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(self)
        }
    }
    assert_eq!(report(&Loop(true)).to_string(), "round");
    assert_eq!(format!("{:#}", report(&Loop(false))), "round");
}

#[test]
fn the_typescript_form_of_an_error_is_understood() {
    for (wire, message, code) in [
        (r#"{"error":"no such model"}"#, "no such model", "REMOTE_ERROR"),
        (r#"{"error":"m","code":null}"#, "m", "REMOTE_ERROR"),
        (r#"{"error":"m","code":"","stack":"at x"}"#, "m", "REMOTE_ERROR"),
        (r#"{"code":"OVERLOADED","error":"m"}"#, "m", "OVERLOADED"),
        (r#"{"code":"GPU_TOO_HOT","error":"m"}"#, "m", "GPU_TOO_HOT"),
    ] {
        let received: RemoteError = serde_json::from_str(wire).unwrap();
        assert_eq!((received.message(), received.code()), (message, code), "{wire}");
        assert_eq!(serde_json::from_str::<RemoteError>(&serde_json::to_string(&received).unwrap()).unwrap(), received);
    }
    for wire in ["{}", r#"{"error":5}"#, r#"{"code":"OVERLOADED"}"#, "null"] {
        assert!(serde_json::from_str::<RemoteError>(wire).is_err(), "{wire}");
    }
}

#[test]
fn a_peer_can_neither_steer_our_terminal_nor_flood_it() {
    let error =
        Error::from(RemoteError::from_parts(format!("\u{1b}[2J{}", "x".repeat(100_000)), Some("A\u{9b}B".into())));
    let text = error.to_string();
    assert!(!text.contains(['\u{1b}', '\u{9b}']) && text.len() < 3000, "{text}");
    assert!(
        text.starts_with("the peer answered A\\u{9b}B: \\u{1b}[2Jxxx") && text.ends_with("... (100004 bytes)"),
        "{text}"
    );
}
