//! Broken configuration files, and exactly what is said of each.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use mlx_config::Loader;
use mlx_errors::{Error, report};

/// What the environment of these tests holds.
const VARIABLES: [(&str, &str); 3] = [("PORT", "text"), ("EMPTY", ""), ("SECRET", "canary-env")];

/// Loads each document, and writes down what is said of it; none of them may load.
fn reports(cases: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, yaml) in cases {
        let loader = Loader::new().text("cluster.yaml", *yaml).env_map(VARIABLES);
        let error = loader.load().map(|_| panic!("`{name}` loads")).unwrap_err();
        write!(text, "=== {name}\n{}\n", said(&loader, &error)).unwrap();
    }
    text
}

/// Compares with the snapshot of the running test.
#[track_caller]
fn assert_report(name: &str, text: &str) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

/// The report as drawn, checked to say no less and no more than the error itself.
fn said(loader: &Loader, error: &Error) -> String {
    let drawn = loader.draw(error, false);
    let everything = format!("{drawn}{error}{error:?}{:#}", report(error));
    assert!(!everything.contains("canary"), "{everything}");
    assert!(drawn.lines().all(|line| line.chars().count() < 260), "a line without end: {drawn}");
    drawn
}

#[test]
fn f1_what_is_not_well_formed_is_said_with_its_place() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (before, name) in ('a'..='f').zip('b'..='g') {
        writeln!(bomb, "{name}: &{name} [*{before}{}]", format!(", *{before}").repeat(9)).unwrap();
    }
    let deep = "[".repeat(100_000);
    assert_report(
        "syntax",
        &reports(&[
            ("a tab for indentation", "nats:\n\tmode: embedded\n"),
            ("a missing colon", "nats:\n  mode embedded\n  reconnect: true\n"),
            ("a missing colon at the end", "mode: both\nnats\n"),
            ("a missing space after the colon", "mode:both\n"),
            ("wrong indentation", "nats:\n    mode: embedded\n  reconnect: true\n"),
            ("a text with a colon", "nats:\n  user: a: b\n"),
            ("an open quote", "mode: \"both\nnats: {}\n"),
            ("an open bracket", "nats:\n  servers: [nats://h\n"),
            ("a variable between braces", "nats: {embedded: {port: ${PORT}}}\n"),
            ("a reserved character", "mode: @both\n"),
            ("an unknown escape", "mode: \"\\q\"\n"),
            ("an alias of nothing", "mode: *nothing\n"),
            ("an alias inside of itself", "nats: &a\n  tls: *a\n"),
            ("an alias bomb", &bomb),
            ("100,000 brackets", &deep),
            ("a list for a key", "[a, b]: c\n"),
            ("two documents", "mode: both\n---\nmode: worker\n"),
            ("an empty file", ""),
            ("a file of comments", "# nothing\n\n# at all\n"),
            ("a file that is null", "null\n"),
            ("a control character", "mode: \u{1}\n"),
            ("a NUL", "mode: bo\0th\n"),
            ("an error in a file of carriage returns", "mode: both\rnats:\r  mode embedded\r  reconnect: true\r"),
        ]),
    );
}

#[test]
fn f3_unknown_and_duplicate_keys_are_errors() {
    assert_report(
        "keys",
        &reports(&[
            ("a duplicate key", "mode: both\nnats: {}\nmode: worker\n"),
            ("a duplicate key in a list", "workers:\n  static:\n    - url: http://h\n      url: http://i\n"),
            ("a misspelt key", "nats:\n  embedded:\n    prot: 4222\n"),
            ("a key in snake_case", "load_balancing:\n  strategy: smart\n"),
            ("a key in capitals", "Mode: both\n"),
            ("a section one level too high", "nats:\n  jetstream:\n    enabled: true\n"),
            ("a key that is nowhere", "database:\n  host: h\n"),
            ("a merge key", "base: &base {}\nnats:\n  <<: *base\n"),
            ("a number for a key", "nats:\n  1: 2\n"),
            ("a tag", "mode: !mine both\nnats: !!map {}\n"),
        ]),
    );
}

#[test]
fn f1_a_value_of_the_wrong_kind_is_said_with_what_was_expected() {
    let long = format!("mode: {}\n", "x".repeat(1_000_000));
    assert_report(
        "values",
        &reports(&[
            ("a value that is none of its choices", "mode: dual\n"),
            ("a choice in capitals", "nats:\n  mode: External\n"),
            ("a choice with a hyphen", "loadBalancing:\n  strategy: least-loaded\n"),
            ("a port below 1024", "nats:\n  embedded:\n    port: 80\n"),
            ("a port above 65535", "nats:\n  embedded:\n    port: 70000\n    httpPort: -1\n"),
            ("a port in quotes", "nats:\n  embedded:\n    port: \"4222\"\n"),
            ("a worker port of 0", "worker:\n  port: 0\n"),
            ("a fraction for a whole number", "nats:\n  maxReconnectAttempts: 1.5\n"),
            ("a number without end", "nats:\n  maxReconnectAttempts: 99999999999999999999\n"),
            ("a password with a slash in a URL", "nats:\n  mode: external\n  serverUrl: nats://u:a/b@h\n"),
            ("a token with a number sign in a URL", "nats:\n  mode: external\n  serverUrl: 'nats://a#b@h'\n"),
            ("an empty token", "nats:\n  token: ''\n"),
            ("an error in a file of carriage returns", "mode: both\rnats:\r  pingIntervalMs: 0\r"),
            ("a span of 0 ms", "nats:\n  pingIntervalMs: 0\n"),
            ("a span with a unit", "nats:\n  pingIntervalMs: 10s\n"),
            ("yes for true", "nats:\n  reconnect: yes\n"),
            ("a number for a text", "nats:\n  user: 12\n  password: x\n"),
            ("a text for a number", "worker:\n  resourceLimits:\n    softMemoryLimitGB: eight\n"),
            ("a list where a map belongs", "nats:\n  - mode: embedded\n"),
            ("a map where a list belongs", "workers:\n  static:\n    url: http://h\n"),
            ("a text where a list belongs", "nats:\n  servers: nats://h\n"),
            ("an empty list", "nats:\n  servers: []\n"),
            ("null in a list", "requestRouting:\n  retry:\n    retryOnErrors: [A, null]\n"),
            ("a list at the top", "- mode: both\n"),
            ("a text at the top", "both\n"),
            ("a UUID that is none", "worker:\n  workerId: 0f8fad5b\n"),
            ("an address that is none", "discovery:\n  controllerIp: 10.0.0.256\n"),
            ("a host with a port", "nats:\n  embedded:\n    host: localhost:4222\n"),
            ("a WebSocket URL", "nats:\n  mode: external\n  serverUrl: ws://h\n"),
            ("a URL without a scheme", "nats:\n  mode: external\n  servers: [nats://a, \"b:4222\"]\n"),
            ("a missing key", "worker:\n  preWarming:\n    models:\n      - priority: high\n"),
            ("a priority above 100", "workers:\n  static:\n    - url: http://h\n      priority: 101\n"),
            ("a line of 1 MB", &long),
        ]),
    );
}

#[test]
fn f2_a_variable_that_cannot_be_resolved_is_an_error_with_its_position() {
    assert_report(
        "variables",
        &reports(&[
            ("an unset variable", "nats:\n  user: ${UNSET}\n  password: x\n"),
            ("an unset variable within a text", "nats:\n  servers:\n    - nats://h:${UNSET}\n"),
            ("a variable of the wrong type", "nats:\n  embedded:\n    port: ${PORT}\n"),
            ("an empty variable for a number", "nats:\n  embedded:\n    port: ${EMPTY}\n"),
            ("a default of the wrong type", "nats:\n  embedded:\n    port: ${UNSET:-none}\n"),
            ("a required variable", "nats:\n  user: ${EMPTY:?name a user}\n  password: ${UNSET:?}\n"),
            ("no closing brace", "nats:\n  user: a${PORT\n  password: x\n"),
            ("no name", "nats:\n  user: \"${}${1A}${-x}\"\n  password: x\n"),
            ("an unknown form", "nats:\n  user: ${PORT:=x}\n  password: ${PORT-x}\n"),
            ("variables of a text with several lines", "nats:\n  user: |\n    a\n    ${UNSET}\n  password: x\n"),
        ]),
    );
}

#[test]
fn f1_rules_between_keys_are_checked() {
    assert_report(
        "rules",
        &reports(&[
            ("external mode without a URL", "nats:\n  mode: external\n"),
            ("two ways to name servers", "nats:\n  serverUrl: nats://a\n  servers: [nats://b]\n"),
            ("a user without a password", "nats:\n  user: a\n"),
            ("a password without a user", "nats:\n  password: a\n"),
            ("two kinds of credential", "nats:\n  user: a\n  password: b\n  token: c\n"),
            (
                "credentials beside a URL that has some",
                "nats:\n  mode: external\n  serverUrl: nats://a:b@h\n  token: c\n",
            ),
            ("a certificate without its key", "nats:\n  tls:\n    certFile: a.pem\n"),
            ("a key without its certificate", "nats:\n  tls:\n    keyFile: a.pem\n"),
            ("open to the network without credentials", "nats:\n  embedded:\n    host: 0.0.0.0\n"),
            ("a time-out below the interval", "discovery:\n  heartbeatIntervalMs: 20000\n"),
            ("a soft limit above the hard one", "worker:\n  resourceLimits:\n    softMemoryLimitGB: 12\n"),
            ("a smallest batch above the largest", "worker:\n  continuousBatching:\n    minBatchSize: 9\n"),
            (
                "a static worker without an address",
                "workers:\n  static:\n    - name: a\n    - ip: 10.0.0.1\n    - port: 8080\n",
            ),
            ("a static worker with two", "workers:\n  static:\n    - {url: \"http://h\", ip: 10.0.0.1, port: 8080}\n"),
            ("a user without a password, beside an unknown key", "nats:\n  user: a\n  embedded: {prot: 1}\n  x: 1\n"),
            ("a user without a password, beside a bad port", "nats:\n  user: a\n  embedded: {port: 1}\n"),
            (
                "what is wrong inside a misspelt section",
                "load_balancing:\n  strategy: best\nNATS:\n  user: a\n  Embedded: {port: 1}\n",
            ),
            ("two errors in one file", "nats:\n  embedded:\n    port: 80\ndiscovery:\n  offlineTimeoutMs: 1000\n"),
            (
                "a rule whose other side is broken",
                "worker:\n  resourceLimits:\n    softMemoryLimitGB: 12\n    hardMemoryLimitGB: x\n",
            ),
        ]),
    );
}

#[test]
fn x1_secrets_are_never_echoed() {
    assert_report(
        "secrets",
        &reports(&[
            ("a password in the wrong place", "worker:\n  password: canary\n"),
            ("a password one level too deep", "nats:\n  user:\n    password: canary\n"),
            ("a password that is a number", "nats:\n  user: a\n  password: 1234\n"),
            ("a password that is a list", "nats:\n  user: a\n  password: [canary]\n"),
            ("a password without a colon", "nats:\n  password canary\n  user: a\n"),
            ("a password without a colon at the end", "nats:\n  user: a\n  password canary\n"),
            ("a password with an open quote", "nats:\n  password: \"canary\n  user: a\n"),
            ("a password of several lines", "nats:\n  user: a\n  password: |\n    canary${UNSET}\n"),
            ("a misspelt password", "nats:\n  user: a\n  passwrod: canary\n"),
            ("a URL with credentials and a fault", "nats:\n  mode: external\n  serverUrl: nats://u:canary@h/x\n"),
            ("a URL with credentials in the wrong place", "nats:\n  embedded:\n    port: nats://u:canary@h\n"),
            ("a worker's URL with credentials", "workers:\n  static:\n    - url: http://u:canary@h\n"),
            (
                "a variable with a secret in the wrong place",
                "nats:\n  embedded:\n    port: ${SECRET}\nmode: x${SECRET}\n",
            ),
        ]),
    );
}

#[test]
fn x1_what_is_loaded_does_not_show_its_secrets() {
    let yaml = "nats:\n  mode: external\n  user: a\n  serverUrl: nats://h\n  password: canary\n";
    let sources =
        Loader::new().text("t.yaml", yaml).env_map([("MLX_NATS__PASSWORD", "canary")]).set("nats.password", "canary");
    let loaded = sources.load().unwrap();
    assert_eq!(loaded.config().nats.password.as_ref().unwrap().expose(), "canary");
    let shown =
        format!("{sources:?}{loaded:?}{:?}{}", loaded.values(), serde_yaml::to_string(loaded.config()).unwrap());
    assert!(!shown.contains("canary") && shown.contains("[redacted]"), "{shown}");
    assert!(shown.contains("t.yaml") && shown.contains("nats.password"), "{shown}");
}

#[test]
fn what_is_no_readable_file_is_said_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("cluster.yaml"), "mode: both\n").unwrap();
    fs::write(path("latin1.yaml"), b"mode: both\n# caf\xe9\n").unwrap();
    fs::write(path("utf16.yaml"), b"\xff\xfem\0o\0d\0e\0").unwrap();
    fs::write(path("large.yaml"), "# ".repeat(600_000)).unwrap();
    let names =
        ["", "clusterr.yaml", "nothing.yaml", "missing/cluster.yaml", "latin1.yaml", "utf16.yaml", "large.yaml"];
    let mut text = String::new();
    for name in names {
        let loader = Loader::new().file(path(name)).without_env();
        let said = said(&loader, &loader.load().unwrap_err());
        let said = said.replace(folder.path().to_str().unwrap(), "FOLDER");
        write!(text, "=== {name}\n{said}\n").unwrap();
    }
    assert_report("files", &text);
}

#[test]
fn f6_a_pipe_is_refused_instead_of_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Loader::new().file(&pipe).without_env().load().unwrap_err();
    assert!(error.to_string().ends_with("it is not a regular file"), "{error}");
}

#[test]
fn f5_the_environment_and_overrides_are_checked_too() {
    let loader = Loader::new()
        .text("cluster.yaml", "mode: both\n")
        .env_map([
            ("MLX_NATS__EMBEDDED__PROT", "1"),
            ("MLX_NATS__EMBEDDED__PORT", "canary"),
            ("MLX_NATS__SERVERS", "[canary"),
            ("MLX_NATS__EMBEDDED", "{}"),
            ("MLX_WORKERS__STATIC", "[{url: \"http://h\", ip: canary}]"),
            ("MLX_METAL_DEBUG", "1"),
        ])
        .set("nats.embedded.httpPort", 80)
        .set("nats..mode", "embedded")
        .set("nats.mod", "embedded");
    assert_report("environment", &said(&loader, &loader.load().unwrap_err()));

    let loader = Loader::new().text("cluster.yaml", "nats:\n  user: ${NAME}\n").env_map([
        ("NAME", std::ffi::OsString::from_vec(vec![0xff])),
        ("MLX_NATS__USER", std::ffi::OsString::from_vec(vec![0xff])),
    ]);
    assert_report("environment-not-utf8", &said(&loader, &loader.load().unwrap_err()));
}
