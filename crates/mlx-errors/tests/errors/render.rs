//! Broken rules and whole errors, as people see them.

use std::error::Error as StdError;
use std::io;

use crate::samples::{port, violations};
use mlx_errors::{Error, ErrorKind, Failure, RemoteError, Violation, report};

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
    let only = |found: Option<&str>, expected: Option<&str>| {
        Violation::new("a", "r", "m").found(found.map(Into::into)).expected(expected.map(Into::into))
    };
    assert_eq!(
        violations(&[only(Some("1"), None), only(None, Some("2"))]).render_plain(),
        "a: m; found 1\na: m; expected 2\n"
    );
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
