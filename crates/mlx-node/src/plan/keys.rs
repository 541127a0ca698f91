//! Every key of the configuration, with who acts on it and which test shows it: a change of a key changes the plan, or is a
//! warning. The table of it is in `docs/configuration.md`, which is written here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use mlx_config::Loader;
use mlx_types::config::ClusterConfig;
use serde_json::{Value, json};

use super::{Plan, STAND_IN_RATE, Surroundings, unused};

/// Who acts on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acts {
    Node,
    Connection,
    Server,
    Gateway,
    Dispatcher,
    Worker,
    Log,
    /// Nobody: its use is a warning.
    Nobody,
}

impl Acts {
    fn as_str(self) -> &'static str {
        match self {
            Self::Node => "the node",
            Self::Connection => "the connection to the bus",
            Self::Server => "the embedded server",
            Self::Gateway => "the gateway",
            Self::Dispatcher => "the choice of a worker",
            Self::Worker => "the worker",
            Self::Log => "the log",
            Self::Nobody => "nobody: a warning names it",
        }
    }
}

/// A key, what else has to be set for it to matter, another value for it, and a test that shows what it does.
struct Case {
    key: &'static str,
    acts: Acts,
    base: &'static [(&'static str, &'static str)],
    value: Value,
    test: &'static str,
}

type Base = &'static [(&'static str, &'static str)];

const ALONE: Base = &[];
const EXTERNAL: Base = &[("nats.mode", "external"), ("nats.serverUrl", "nats://h:1")];
const EXTERNAL_MODE: Base = &[("nats.serverUrl", "nats://h:1")];
const CERTIFICATE: Base = &[("nats.tls.certFile", "a.pem"), ("nats.tls.keyFile", "b.pem")];
const GATEWAY: Base = &[("controller.enabled", "true")];
const SESSIONS: Base = &[("controller.enabled", "true"), ("loadBalancing.sessionAffinity.enabled", "true")];
const RETRY: Base = &[("controller.enabled", "true"), ("requestRouting.retry.enabled", "true")];
const BREAKER: Base = &[("controller.enabled", "true"), ("requestRouting.circuitBreaker.enabled", "true")];
const ENGINE: Base = &[("worker.engine.kind", "openai"), ("worker.engine.url", "http://h:1/v1")];
const ENGINE_URL: Base = &[("worker.engine.url", "http://h:1/v1")];
const MODELS: Base = &[("worker.preWarming.models", "[{model: a}, {model: b}]")];
const WARMING: Base =
    &[("worker.preWarming.enabled", "true"), ("worker.preWarming.models", "[{model: a}, {model: b}]")];
const WARMING_ON: Base = &[("worker.preWarming.enabled", "true")];
const LIMITS: Base = &[("worker.resourceLimits.enabled", "true")];
const QUEUE: Base = &[("worker.requestQueue.enabled", "true")];
const BATCHING: Base = &[("worker.continuousBatching.enabled", "true")];
const WORKER: Base = &[("mode", "worker")];
const JETSTREAM: Base = &[("nats.embedded.jetstream.enabled", "true")];
const DURABLE: Base = &[("nats.embedded.jetstream.enabled", "true")];

const WARNS: &str = "p3_every_key_acts_or_warns";

#[expect(clippy::too_many_lines, reason = "a table")]
#[rustfmt::skip] // a table
fn cases() -> Vec<Case> {
    use Acts::{Connection, Dispatcher, Gateway, Log, Node, Nobody, Server, Worker};
    let rows: Vec<(&'static str, Acts, Base, Value, &'static str)> = vec![
        ("mode", Node, GATEWAY, json!("worker"), "p1_each_role_runs_alone"),
        ("nats.mode", Node, EXTERNAL_MODE, json!("external"), "in_external_mode_the_server_is_nobodys_and_stays"),
        ("nats.serverUrl", Connection, EXTERNAL, json!("nats://other:1"), "a_client_needs_no_more_than_a_url"),
        ("nats.servers", Connection, &[], json!(["nats://a:1", "nats://b:1"]), "c7_each_server_is_shown_the_credentials_of_its_own_url_and_no_others"),
        ("nats.user", Connection, &[("nats.password", "p")], json!("u"), "a_user_and_password_work_in_the_settings_and_in_the_url"),
        ("nats.password", Connection, &[("nats.user", "u")], json!("p"), "a_user_and_password_work_in_the_settings_and_in_the_url"),
        ("nats.token", Connection, ALONE, json!("t"), "a_token_works_in_the_settings_and_in_the_url"),
        ("nats.credentialsFile", Connection, EXTERNAL, json!("a.creds"), "a_credentials_file_works"),
        ("nats.nkeySeedFile", Connection, EXTERNAL, json!("a.nk"), "an_nkey_seed_works"),
        ("nats.inboxPrefix", Connection, ALONE, json!("_INBOX_a"), "a_user_with_a_private_inbox_connects_by_its_prefix_and_is_told_of_the_key_without_it"),
        ("nats.discoveredServers", Connection, ALONE, json!("ignore"), "addresses_that_servers_tell_of_are_ignored_on_request"),
        ("nats.reconnect", Connection, ALONE, json!(false), "p1_a_worker_waits_for_its_bus_unless_it_is_told_not_to"),
        ("nats.maxReconnectAttempts", Connection, ALONE, json!(3), "c7_giving_up_is_told_with_the_attempts_made"),
        ("nats.reconnectTimeWait", Connection, ALONE, json!(50), "c7_giving_up_is_told_with_the_attempts_made"),
        ("nats.connectTimeoutMs", Connection, ALONE, json!(100), "c8_a_half_open_connection_is_found_within_three_ping_intervals_and_replaced"),
        ("nats.requestTimeoutMs", Connection, ALONE, json!(100), "c4_an_inbox_that_is_taken_away_fails_who_waits_and_is_asked_for_again"),
        ("nats.pingIntervalMs", Connection, ALONE, json!(500), "c8_a_frozen_server_is_found_within_three_ping_intervals"),
        ("nats.publishWhileDisconnected", Connection, ALONE, json!("buffer"), "c2_what_is_published_while_disconnected_can_be_kept_and_arrives_in_order"),
        ("nats.publishBufferBytes", Connection, &[("nats.publishWhileDisconnected", "buffer")], json!(1000), "c2_what_is_published_while_disconnected_can_be_kept_and_arrives_in_order"),
        ("nats.tls.caFile", Connection, ALONE, json!("ca.pem"), "tls_and_mutual_tls_work"),
        ("nats.tls.certFile", Connection, CERTIFICATE, json!("other.pem"), "tls_and_mutual_tls_work"),
        ("nats.tls.keyFile", Connection, CERTIFICATE, json!("other.pem"), "tls_and_mutual_tls_work"),
        ("nats.tls.handshakeFirst", Connection, ALONE, json!(true), "tls_before_the_first_line_works_by_its_key_and_the_error_names_the_key"),
        ("nats.embedded.host", Server, ALONE, json!("127.0.0.2"), "m5_loopback_is_the_default_and_a_wide_bind_needs_credentials"),
        ("nats.embedded.port", Server, ALONE, json!(5222), "m4_port_taken_by_something_else"),
        ("nats.embedded.monitoring", Server, ALONE, json!(false), "without_monitoring_the_error_names_the_setting"),
        ("nats.embedded.httpPort", Server, ALONE, json!(9222), "m4_port_taken_by_another_nats_server"),
        ("nats.embedded.logLevel", Server, ALONE, json!("debug"), "m7_the_level_is_the_one_set"),
        ("nats.embedded.binary", Server, ALONE, json!("/opt/nats-server"), "m4_a_named_binary_that_does_not_work_is_an_error_at_once"),
        ("nats.embedded.maxPayloadBytes", Server, ALONE, json!(4096), "c9_a_payload_over_the_limit_fails_before_sending"),
        ("nats.embedded.startTimeoutMs", Server, ALONE, json!(50), "m4_start_timeout"),
        ("nats.embedded.allowAnonymous", Server, ALONE, json!(true), "m5_loopback_is_the_default_and_a_wide_bind_needs_credentials"),
        ("nats.embedded.jetstream.enabled", Server, ALONE, json!(true), "without_jetstream_the_error_says_how_to_switch_it_on"),
        ("nats.embedded.jetstream.storeDir", Server, JETSTREAM, json!("/var/js"), "m5_no_value_can_add_a_setting"),
        ("nats.embedded.jetstream.maxMemoryBytes", Server, JETSTREAM, json!(1_048_576), "p3_jetstream_takes_no_more_than_its_limits"),
        ("nats.embedded.jetstream.maxFileBytes", Server, JETSTREAM, json!(1_048_576), "p3_jetstream_takes_no_more_than_its_limits"),
        ("nats.embedded.restart.maxRestarts", Server, ALONE, json!(1), "m6_ten_kills_under_traffic_are_survived_and_the_eleventh_is_the_end"),
        ("nats.embedded.restart.windowMs", Server, ALONE, json!(1000), "m6_restarts_older_than_the_window_are_forgiven"),
        ("nats.embedded.restart.unresponsiveAfterMs", Server, ALONE, json!(1000), "m6_a_server_that_does_not_answer_is_degraded_and_then_counts_as_crashed"),
        ("controller.enabled", Gateway, ALONE, json!(true), "p1_each_role_runs_alone"),
        ("controller.bindAddress", Gateway, GATEWAY, json!("127.0.0.2"), "p3_the_gateway_listens_where_its_keys_say"),
        ("controller.port", Gateway, GATEWAY, json!(9000), "p3_the_gateway_listens_where_its_keys_say"),
        ("controller.dashboardPort", Gateway, GATEWAY, json!(9001), "p3_the_gateway_listens_where_its_keys_say"),
        ("controller.allowHosts", Gateway, GATEWAY, json!(["a.example"]), "p3_keys_hosts_and_origins_say_who_may_ask"),
        ("controller.allowOrigins", Gateway, GATEWAY, json!(["https://a.example"]), "p3_keys_hosts_and_origins_say_who_may_ask"),
        ("controller.apiKeys", Gateway, GATEWAY, json!(["k"]), "p3_keys_hosts_and_origins_say_who_may_ask"),
        ("worker.port", Worker, ALONE, json!(9000), "p3_a_worker_tells_what_its_keys_say"),
        ("worker.workerId", Worker, ALONE, json!("0195e5c0-0000-7000-8000-000000000001"), "p3_a_worker_tells_what_its_keys_say"),
        ("worker.maxConcurrent", Worker, ALONE, json!(9), "p3_a_worker_tells_what_its_keys_say"),
        ("worker.engine.kind", Worker, ENGINE_URL, json!("openai"), "the_files_of_the_docs_make_one_cluster_of_two_machines"),
        ("worker.engine.url", Worker, ENGINE, json!("http://other:1/v1"), "the_files_of_the_docs_make_one_cluster_of_two_machines"),
        ("worker.engine.api", Worker, ENGINE, json!("completions"), "a_prompt_goes_as_it_is_where_completions_are_asked_for"),
        ("worker.engine.apiKey", Worker, ENGINE, json!("k"), "p3_a_key_of_the_configuration_reaches_the_model_server"),
        ("worker.preWarming.enabled", Worker, MODELS, json!(true), "p3_models_are_loaded_before_the_first_request"),
        ("worker.preWarming.parallel", Worker, WARMING, json!(true), "p3_models_are_loaded_before_the_first_request"),
        ("worker.preWarming.models", Worker, WARMING_ON, json!([{ "model": "c", "priority": "high" }]), "p3_models_are_loaded_before_the_first_request"),
        ("worker.preWarming.timeoutPerModelMs", Worker, WARMING, json!(1000), "p3_models_are_loaded_before_the_first_request"),
        ("worker.preWarming.registerWhen", Worker, WARMING, json!("complete"), "p3_models_are_loaded_before_the_first_request"),
        ("worker.resourceLimits.enabled", Worker, ALONE, json!(true), "p3_a_machine_that_is_short_of_memory_is_degraded_and_then_refuses"),
        ("worker.resourceLimits.softMemoryLimitGB", Worker, LIMITS, json!(9), "p3_a_machine_that_is_short_of_memory_is_degraded_and_then_refuses"),
        ("worker.resourceLimits.hardMemoryLimitGB", Worker, LIMITS, json!(11), "p3_a_machine_that_is_short_of_memory_is_degraded_and_then_refuses"),
        ("worker.resourceLimits.checkIntervalMs", Worker, LIMITS, json!(1), "p3_a_machine_that_is_short_of_memory_is_degraded_and_then_refuses"),
        ("worker.requestQueue.enabled", Worker, ALONE, json!(true), "p3_requests_wait_at_a_worker_that_has_a_queue"),
        ("worker.requestQueue.maxDepth", Worker, QUEUE, json!(1), "p3_requests_wait_at_a_worker_that_has_a_queue"),
        ("worker.requestQueue.rejectWhenFull", Nobody, QUEUE, json!(false), WARNS),
        ("worker.requestQueue.priorityLevels", Nobody, QUEUE, json!(2), WARNS),
        ("worker.continuousBatching.enabled", Worker, ALONE, json!(true), "p3_a_worker_tells_what_its_keys_say"),
        ("worker.continuousBatching.maxBatchSize", Worker, BATCHING, json!(3), "p3_a_worker_tells_what_its_keys_say"),
        ("worker.continuousBatching.adaptiveTimeout", Nobody, BATCHING, json!(false), WARNS),
        ("worker.continuousBatching.minBatchSize", Nobody, BATCHING, json!(2), WARNS),
        ("worker.continuousBatching.batchTimeoutMs", Nobody, BATCHING, json!(60), WARNS),
        ("discovery.controllerIp", Connection, WORKER, json!("10.0.0.1"), "p1_a_worker_in_another_namespace_finds_the_bus_by_the_address_of_its_controller"),
        ("discovery.enabled", Dispatcher, GATEWAY, json!(false), "p3_an_entry_means_a_worker_by_its_id_or_by_where_it_is"),
        ("discovery.heartbeatIntervalMs", Worker, ALONE, json!(100), "w1_heartbeats_tell_what_is_true"),
        ("discovery.offlineTimeoutMs", Dispatcher, ALONE, json!(6000), "w3_a_worker_that_dies_before_its_first_token_is_replaced_within_the_deadline"),
        ("workers.static", Dispatcher, GATEWAY, json!([{ "url": "http://h:1", "name": "first", "priority": 90 }]), "p3_an_entry_means_a_worker_by_its_id_or_by_where_it_is"),
        ("loadBalancing.strategy", Dispatcher, GATEWAY, json!("round_robin"), "weights_decide_over_shares_and_a_worker_that_has_the_model_loaded_comes_first"),
        ("loadBalancing.stickySession", Dispatcher, GATEWAY, json!(true), "w4_requests_of_a_session_go_to_one_worker_until_it_leaves"),
        ("loadBalancing.sessionAffinity.enabled", Dispatcher, GATEWAY, json!(true), "w4_requests_of_a_session_go_to_one_worker_until_it_leaves"),
        ("loadBalancing.sessionAffinity.ttlMs", Dispatcher, SESSIONS, json!(1000), "w4_a_session_stays_where_it_is_and_only_those_of_a_worker_that_leaves_move"),
        ("loadBalancing.sessionAffinity.cleanupIntervalMs", Dispatcher, SESSIONS, json!(1000), "w4_a_session_stays_where_it_is_and_only_those_of_a_worker_that_leaves_move"),
        ("requestRouting.timeoutMs", Dispatcher, GATEWAY, json!(1000), "w6_who_is_asked_while_all_are_busy_waits_and_is_refused_in_time_with_when_to_come_back"),
        ("requestRouting.streamingTimeoutMs", Dispatcher, GATEWAY, json!(1000), "openai_client_takes_refusals_for_what_they_are"),
        ("requestRouting.circuitBreaker.enabled", Dispatcher, GATEWAY, json!(true), "w3_a_worker_that_fails_again_and_again_is_left_alone_for_a_while"),
        ("requestRouting.circuitBreaker.failureThreshold", Dispatcher, BREAKER, json!(1), "w3_failures_in_a_row_open_it_and_successes_close_it"),
        ("requestRouting.circuitBreaker.successThreshold", Dispatcher, BREAKER, json!(1), "w3_failures_in_a_row_open_it_and_successes_close_it"),
        ("requestRouting.circuitBreaker.timeoutMs", Dispatcher, BREAKER, json!(1000), "w3_failures_in_a_row_open_it_and_successes_close_it"),
        ("requestRouting.retry.enabled", Dispatcher, GATEWAY, json!(true), "w3_what_may_not_be_asked_again_is_not"),
        ("requestRouting.retry.maxRetries", Dispatcher, RETRY, json!(1), "w3_what_may_not_be_asked_again_is_not"),
        ("requestRouting.retry.retryDelayMs", Dispatcher, RETRY, json!(1), "w3_what_may_not_be_asked_again_is_not"),
        ("requestRouting.retry.retryOnErrors", Dispatcher, RETRY, json!(["A"]), "w3_what_may_not_be_asked_again_is_not"),
        ("requestRouting.durable.enabled", Nobody, DURABLE, json!(true), WARNS),
        ("requestRouting.durable.replicas", Nobody, DURABLE, json!(3), WARNS),
        ("requestRouting.durable.maxAgeMs", Nobody, DURABLE, json!(3_600_001), WARNS),
        ("requestRouting.durable.maxBytes", Nobody, DURABLE, json!(2_000_000), WARNS),
        ("requestRouting.durable.firstTokenTimeoutMs", Nobody, DURABLE, json!(1000), WARNS),
        ("requestRouting.durable.ackWaitMs", Nobody, DURABLE, json!(9000), WARNS),
        ("requestRouting.durable.maxDeliveries", Nobody, DURABLE, json!(4), WARNS),
        ("requestRouting.durable.duplicateWindowMs", Nobody, DURABLE, json!(500_000), WARNS),
        ("requestRouting.durable.deadLetterMaxAgeMs", Nobody, DURABLE, json!(500_000_000), WARNS),
        ("streaming.firstTokenTimeoutMs", Worker, ALONE, json!(1000), "s1_silence_before_the_first_token_and_between_two_is_bounded"),
        ("streaming.interTokenTimeoutMs", Worker, ALONE, json!(1000), "s1_silence_before_the_first_token_and_between_two_is_bounded"),
        ("streaming.coalesce", Worker, ALONE, json!(false), "the_wire_contract_is_what_nats_py_sees"),
        ("logging.level", Log, ALONE, json!("debug"), "p3_the_log_of_a_node_is_as_its_keys_say"),
        ("logging.format", Log, ALONE, json!("text"), "p3_the_log_of_a_node_is_as_its_keys_say"),
        ("logging.file", Log, ALONE, json!("a.log"), "p3_the_log_of_a_node_is_as_its_keys_say"),
    ];
    rows.into_iter().map(|(key, acts, base, value, test)| Case { key, acts, base, value, test }).collect()
}

fn load(base: Base, changed: Option<(&str, &Value)>) -> ClusterConfig {
    let loader = base.iter().fold(Loader::new().without_env().text("base", "{}"), |loader, (key, value)| {
        let value: Value = match *value {
            "true" => json!(true),
            text if text.starts_with('[') => json!([{ "model": "a" }, { "model": "b" }]),
            text => json!(text),
        };
        loader.set(*key, value)
    });
    let loader = changed.into_iter().fold(loader, |loader, (key, value)| loader.set(key, value.clone()));
    loader.load().unwrap_or_else(|error| panic!("{changed:?}: {error}")).into_config()
}

fn plan(config: &ClusterConfig, key: &str) -> String {
    let around = Surroundings {
        folder: "/state".into(),
        reconnects_are_set: key == "nats.maxReconnectAttempts",
        engine_key: None,
        tokens_per_second: STAND_IN_RATE,
        listen: None,
    };
    format!("{:?}", Plan::new(config, &around))
}

/// Whether a warning names the key, or a section that it is in.
fn warns(config: &ClusterConfig, key: &str) -> bool {
    unused(config).iter().any(|unused| key == unused.key || key.starts_with(&format!("{}.", unused.key)))
}

#[test]
fn p3_every_key_acts_or_warns() {
    for case in cases() {
        // A pair that belongs together is set together, so that the base alone may be none.
        let apart = matches!(case.key, "nats.user" | "nats.password" | "worker.engine.kind");
        let base = load(if apart { ALONE } else { case.base }, None);
        let changed = load(case.base, Some((case.key, &case.value)));
        let key = case.key;
        if case.acts == Acts::Nobody {
            assert!(warns(&changed, key) && !warns(&base, key), "{key} changes nothing, and nothing says so");
        } else {
            assert_ne!(plan(&base, key), plan(&changed, key), "{key} changes nothing");
            assert!(!warns(&changed, key), "{key} acts, and a warning denies it: {:?}", unused(&changed));
        }
    }
}

#[test]
fn p3_the_table_of_keys_is_whole_and_its_tests_exist() {
    let all: BTreeSet<String> = {
        let loaded = Loader::new().without_env().text("none", "{}").load().unwrap();
        loaded.values().into_iter().map(|(path, ..)| path).collect()
    };
    let listed: Vec<&str> = cases().iter().map(|case| case.key).collect();
    let found: BTreeSet<String> = listed.iter().map(ToString::to_string).collect();
    assert_eq!(listed.len(), found.len(), "a key is listed twice");
    assert_eq!(found, all);
    let sources = sources();
    for case in cases() {
        assert!(sources.contains(&format!("fn {}(", case.test)), "{}: no test is called {}", case.key, case.test);
    }
}

#[test]
fn p3_a_key_without_effect_on_a_node_is_named() {
    let names = |sets: &[(&str, Value)]| {
        let sets = sets.iter().fold(Loader::new().without_env().text("base", "{}"), |loader, (key, value)| {
            loader.set(*key, value.clone())
        });
        unused(sets.load().unwrap().config()).into_iter().map(|unused| unused.key).collect::<Vec<_>>()
    };
    assert!(names(&[]).is_empty());
    let worker = ("mode", json!("worker"));
    assert_eq!(names(&[worker.clone(), ("controller.port", json!(9000))]), ["controller"]);
    assert_eq!(names(&[worker.clone(), ("loadBalancing.strategy", json!("round_robin"))]), ["loadBalancing"]);
    assert_eq!(names(&[worker, ("requestRouting.timeoutMs", json!(1))]), ["requestRouting"]);
    assert_eq!(names(&[("mode", json!("controller")), ("worker.port", json!(9000))]), ["worker"]);
    assert_eq!(names(&[("controller.port", json!(9000))]), ["controller"]);
    assert_eq!(names(&[("discovery.controllerIp", json!("10.0.0.1"))]), ["discovery.controllerIp"]);
    let external = [("nats.mode", json!("external")), ("nats.serverUrl", json!("nats://h:1"))];
    assert_eq!(names(&[&external[..], &[("nats.embedded.port", json!(5222))]].concat()), ["nats.embedded"]);
    assert_eq!(names(&[("worker.preWarming.enabled", json!(true))]), ["worker.preWarming"]);
    assert_eq!(names(&[("worker.requestQueue.maxDepth", json!(1))]), ["worker.requestQueue"]);
    let batching = [("worker.continuousBatching.enabled", json!(true)), ("worker.maxConcurrent", json!(2))];
    assert_eq!(names(&batching), ["worker.maxConcurrent"]);
}

#[test]
fn p3_the_docs_have_the_table_of_keys() {
    let path = root().join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("where the table begins");
    let (_, after) = rest.split_once(END).expect("where the table ends");
    let expected = format!("{before}{BEGIN}\n\n{}\n{END}{after}", table());
    if page != expected {
        std::fs::write(&path, expected).unwrap();
        panic!("docs/configuration.md was stale and has been written anew: look at the change and commit it");
    }
}

const BEGIN: &str = "<!-- Generated by the tests of mlx-node from here -->";
const END: &str = "<!-- to here, by mlx-node -->";

fn table() -> String {
    let mut text = "| key | who acts on it | shown by the test |\n|---|---|---|\n".to_owned();
    for case in cases() {
        let _ = writeln!(text, "| `{}` | {} | `{}` |", case.key, case.acts.as_str(), case.test);
    }
    text
}

/// Every source of the workspace in which tests are.
fn sources() -> String {
    let mut text = String::new();
    let mut folders = vec![root().join("crates"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    text
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
