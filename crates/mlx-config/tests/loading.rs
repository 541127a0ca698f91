//! What loads, and as what.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use mlx_config::{ClusterConfig, Loader, Origin};

fn load(yaml: &str) -> ClusterConfig {
    Loader::new().text("test.yaml", yaml).without_env().load().unwrap().into_config()
}

fn report(loader: &Loader) -> Vec<String> {
    match loader.load().unwrap_err().into_kind() {
        mlx_errors::ErrorKind::ConfigValidation { violations } | mlx_errors::ErrorKind::ConfigSyntax { violations } => {
            violations.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn shipped(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name)
}

#[test]
fn the_default_file_loads() {
    let config = mlx_config::load(shipped("cluster.yaml")).unwrap();
    let mut expected = ClusterConfig::default();
    expected.controller.enabled = true;
    expected.controller.bind_address = "127.0.0.1".to_owned();
    expected.discovery.heartbeat_interval_ms = mlx_types::Millis::new(1000).unwrap();
    expected.discovery.offline_timeout_ms = mlx_types::Millis::new(5000).unwrap();
    assert_eq!(config, expected);
}

#[test]
fn an_empty_map_is_the_defaults() {
    assert_eq!(load("{}"), ClusterConfig::default());
}

#[test]
fn f2_a_value_from_the_environment_stays_one_text() {
    for value in
        ["a: b\n- \"x\"", ">", "#", " # no comment", "\"", "'", "\n", "{", "[", "*x", "&x", "!!int 3", "null", "~", " "]
    {
        for yaml in ["nats:\n  user: ${V}\n  password: x\n", "nats:\n  user: \"${V}\"\n  password: x\n"] {
            let loaded = Loader::new().text("t", yaml).env_map([("V", value)]).load().unwrap();
            assert_eq!(loaded.config().nats.user.as_deref(), Some(value), "{yaml}");
        }
        let yaml = "nats:\n  user: x${V}y\n  password: x\n";
        let loaded = Loader::new().text("t", yaml).env_map([("V", value)]).load().unwrap();
        assert_eq!(loaded.config().nats.user.as_deref(), Some(format!("x{value}y").as_str()));
    }
}

#[test]
fn f2_variables_are_resolved() {
    let yaml = r#"
nats:
  user: ${NAME:-nobody}
  password: "$${not} $x ${EMPTY}${EMPTY:-default}"
  reconnect: ${FLAG}
  embedded:
    port: ${PORT}
    httpPort: "${HTTP_PORT:-9222}"
worker:
  resourceLimits:
    hardMemoryLimitGB: ${GB:?give the memory}
"#;
    let variables = [("EMPTY", ""), ("FLAG", "false"), ("PORT", "0"), ("GB", "12.5")];
    let config = Loader::new().text("t", yaml).env_map(variables).load().unwrap().into_config();
    assert_eq!(config.nats.user.as_deref(), Some("nobody"));
    assert_eq!(config.nats.password.unwrap().expose(), "${not} $x default");
    assert!(!config.nats.reconnect);
    assert_eq!((config.nats.embedded.port, config.nats.embedded.http_port), (0, 9222));
    assert!((config.worker.resource_limits.hard_memory_limit_gb - 12.5).abs() < 1e-9);
}

#[test]
fn f5_later_sources_win_and_the_origin_is_known() {
    let loaded = Loader::new()
        .text("a.yaml", "nats:\n  embedded:\n    port: 5000\n    httpPort: 5001\n  user: a\n  password: b\n")
        .text("b.yaml", "nats:\n  embedded:\n    port: 6000\n    httpPort: null\n")
        .env_map([
            ("MLX_NATS__USER", "c"),
            ("MLX_NATS__EMBEDDED__MAX_PAYLOAD_BYTES", "2048"),
            ("MLX_NATS_SERVER", "/opt/nats-server"),
            ("MLX_MODE", "worker"),
            ("MLX_WORKER__RESOURCE_LIMITS__HARD_MEMORY_LIMIT_GB", "64"),
            ("MLX_NATS__SERVERS", "[nats://a, nats://b:1]"),
        ])
        .set("nats.embedded.maxPayloadBytes", 4096)
        .load()
        .unwrap();
    let config = loaded.config();
    assert_eq!((config.nats.embedded.port, config.nats.embedded.http_port), (6000, 5001));
    assert_eq!(config.nats.user.as_deref(), Some("c"));
    assert_eq!(config.nats.embedded.max_payload_bytes, 4096);
    assert_eq!(config.mode, mlx_types::config::Mode::Worker);
    assert_eq!(config.nats.servers.as_ref().unwrap().len(), 2);
    assert_eq!(loaded.origin("nats.embedded.port").to_string(), "b.yaml:3:11");
    assert_eq!(loaded.origin("nats.embedded.httpPort").to_string(), "a.yaml:4:15");
    assert_eq!(loaded.origin("nats.user"), Origin::Environment("MLX_NATS__USER".into()));
    assert_eq!(loaded.origin("nats.servers[1]"), Origin::Environment("MLX_NATS__SERVERS".into()));
    assert_eq!(loaded.origin("nats.embedded.maxPayloadBytes"), Origin::Override);
    assert_eq!(loaded.origin("nats.token"), Origin::Default);
}

#[test]
fn f1_everything_that_is_wrong_is_reported_in_one_pass() {
    let yaml = "nats:\n  embedded:\n    prot: 4222\n    port: 80\nload_balancing: {}\nmode: dual\nmode: both\ndiscovery:\n  heartbeatIntervalMs: 5\n  offlineTimeoutMs: 5\n";
    let report = report(&Loader::new().text("test.yaml", yaml).without_env());
    assert_eq!(
        report,
        [
            "test.yaml:3:5: nats.embedded.prot: there is no such key (did you mean `port`?)",
            "test.yaml:4:11: nats.embedded.port: not a valid value; found `80`, expected a port from 1024 to 65535, or 0 for a free one",
            "test.yaml:5:1: load_balancing: there is no such key (did you mean `loadBalancing`?)",
            "test.yaml:6:7: mode: not a valid value; found the text \"dual\", expected one of `controller`, `worker`, `both`",
            "test.yaml:7:1: mode: this key is already given on line 6",
            "test.yaml:10:21: discovery.offlineTimeoutMs: must be longer than `discovery.heartbeatIntervalMs`, which is 5; found `5`",
        ]
    );
}

#[test]
fn f5_overrides_take_any_value() {
    let loaded = Loader::new()
        .text("t.yaml", "\u{feff}nats:\n  user: !!str 12\n  password: x\nworkers:\n  static:\n    - url: http://h\n")
        .without_env()
        .set("nats.reconnect", false)
        .set("nats.user", serde_json::Value::Null)
        .set("worker.preWarming", serde_json::json!({ "enabled": true, "models": [{ "model": "llama-3" }] }))
        .set("worker.resourceLimits.hardMemoryLimitGB", "64")
        .load()
        .unwrap();
    let config = loaded.config();
    assert!(!config.nats.reconnect && config.worker.pre_warming.enabled);
    assert_eq!(config.nats.user.as_deref(), Some("12"), "null leaves what is there");
    assert_eq!(config.worker.pre_warming.models[0].model, "llama-3");
    assert_eq!(loaded.origin("workers.static[0].url").to_string(), "t.yaml:6:12");
    assert_eq!(loaded.origin("worker.preWarming.models[0].model").to_string(), "override");
    for none in ["workers.static[1]", "workers.static[x]", "nats..mode", "", "nats.mode.deeper", "nats[0]"] {
        assert_eq!(loaded.origin(none).to_string(), "default", "{none}");
    }
}

#[test]
fn f6_what_is_nested_too_deep_is_refused() {
    let deep: String = (0..80).map(|level| " ".repeat(level) + "a:\n").collect();
    let said = report(&Loader::new().text("t.yaml", deep).without_env());
    assert!(said[0].ends_with("nested deeper than 64 levels"), "{said:?}");
    let within: String = (0..40).map(|level| " ".repeat(level) + "a:\n").collect();
    assert_eq!(report(&Loader::new().text("t.yaml", within).without_env()), ["t.yaml:1:1: a: there is no such key"]);
}

#[test]
fn f6_a_text_larger_than_any_configuration_is_refused() {
    let error = Loader::new().text("t.yaml", "#".repeat(2_000_000)).without_env().load().unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration file t.yaml; it is larger than 1048576 bytes");
}

#[test]
fn the_reference_names_every_key_and_the_page_holds_it() {
    let reference = mlx_config::reference();
    let loaded = Loader::new().without_env().load().unwrap();
    for (path, ..) in loaded.values() {
        assert!(reference.contains(&format!("| `{path}` |\n")), "{path} has no variable");
        let key = path.rsplit('.').next().unwrap();
        assert!(reference.contains(&format!("\n| `{key}` |")), "{path} is in no table");
    }
    let page = std::fs::read_to_string(shipped("../docs/configuration.md")).unwrap();
    assert!(page.contains(&reference), "run `cargo xtask schema`");
}

#[test]
fn a_file_that_cannot_be_read_is_drawn_with_its_causes() {
    let missing = Loader::new().file("no-such-file.yaml");
    let drawn = missing.draw(&missing.load().unwrap_err(), false);
    assert!(drawn.starts_with("cannot read the configuration file no-such-file.yaml"), "{drawn}");
    assert!(drawn.contains("caused by: "), "{drawn}");
}

#[test]
fn f2_a_default_may_hold_references_as_compose_has_it() {
    let value = |yaml: &str, variables: &[(&str, &str)]| {
        let loader = Loader::new().text("t", format!("nats: {{user: '{yaml}', password: x}}\n"));
        loader.env_map(variables.iter().copied()).load().unwrap().into_config().nats.user.unwrap()
    };
    assert_eq!(value("${A:-${B:-x}}", &[]), "x");
    assert_eq!(value("${A:-${B:-x}}", &[("B", "b")]), "b");
    assert_eq!(value("${A:-${B:-x}}", &[("A", "a"), ("B", "b")]), "a");
    assert_eq!(value("${A:-a${B:-x}c}d", &[]), "axcd");
    assert_eq!(value("${A:-${B:-${C:-${D}}}}", &[("D", "d")]), "d");
    assert_eq!(value("$${A:-${B:-x}}", &[]), "${A:-x}");
    // What is not needed need not be there.
    assert_eq!(value("${A:-${B}}", &[("A", "a")]), "a");
}

#[test]
fn f5_a_variable_that_is_nearly_one_of_ours_is_a_warning() {
    let variables = [
        ("MLX_NATS_MODE", "external"),
        ("mlx_nats__mode", "external"),
        ("MLX_NATS_SERVER", "/opt/nats-server"),
        ("MLX_LOG", "info"),
        ("MLX_MODE", "worker"),
    ];
    let loaded = Loader::new().text("t", "mode: both").env_map(variables).load().unwrap();
    let warnings: Vec<String> = loaded.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "the environment variable `MLX_NATS_MODE` sets nothing (did you mean `MLX_NATS__MODE`?)",
            "the environment variable `mlx_nats__mode` sets nothing (did you mean `MLX_NATS__MODE`?)",
        ]
    );
}

#[test]
fn f2_a_secret_that_ends_in_a_line_break_is_a_warning_and_a_hint() {
    let yaml = "nats:\n  user: me\n  password: ${PASSWORD}\n";
    let loaded = Loader::new().text("t.yaml", yaml).env_map([("PASSWORD", "canary\r\n")]).load().unwrap();
    let warnings: Vec<String> = loaded.warnings().iter().map(ToString::to_string).collect();
    assert!(
        warnings[0].starts_with("t.yaml:3:13: nats.password: the environment variable `PASSWORD` ends in a line break")
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let error = Loader::new()
        .text("t.yaml", "nats:\n  embedded:\n    port: ${PORT}\n")
        .env_map([("PORT", "4222\r")])
        .load()
        .unwrap_err();
    assert!(error.to_string().contains("take the line break off"), "{error}");
}

#[test]
fn anchors_on_keys_and_tabs_behind_colons_are_read_as_yaml_has_them() {
    let yaml = "&key mode:\tboth\nnats:\t{user: *key, password: x}\n";
    let config = Loader::new().text("t", yaml).without_env().load().unwrap().into_config();
    assert_eq!(config.nats.user.as_deref(), Some("mode"));
}

#[test]
fn m5_an_empty_credential_is_an_error_wherever_it_comes_from() {
    let none: &[(&str, &str)] = &[];
    let cases = [
        ("nats.token", "nats: {token: ''}", none),
        ("nats.token", "nats: {token: '${TOKEN}'}", &[("TOKEN", "")][..]),
        ("nats.token", "{}", &[("MLX_NATS__TOKEN", "")][..]),
        ("nats.password", "nats: {user: me, password: ''}", none),
        ("nats.user", "nats: {user: '', password: x}", none),
        ("nats.serverUrl", "nats: {mode: external, serverUrl: 'nats://me:@h'}", none),
        ("nats.serverUrl", "nats: {mode: external, serverUrl: 'nats://@h'}", none),
    ];
    for (path, yaml, variables) in cases {
        let open = yaml.replace("nats: {", "nats: {embedded: {host: 0.0.0.0}, ");
        for yaml in [yaml.to_owned(), open] {
            let error = Loader::new().text("t", yaml.clone()).env_map(variables.iter().copied()).load().unwrap_err();
            assert!(error.to_string().contains(path), "{yaml}: {error}");
        }
    }
    for path in ["nats.token", "nats.password"] {
        let error = Loader::new().without_env().set("nats.user", "me").set(path, "").load().unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
}
