//! The schema that editors use and the loader accept and refuse the same documents; and what ships, ships whole.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "test data")]

#[path = "../../mlx-types/tests/support/documents.rs"]
mod documents;

use std::fs;
use std::path::{Path, PathBuf};

use documents::{Choices, mutate, sample};
use jsonschema::Validator;
use mlx_config::{ClusterConfig, Loader};
use mlx_errors::ErrorKind;
use mlx_types::NatsUrl;
use proptest::prelude::*;
use serde_json::Value;

/// The rules between members, which a schema cannot say.
const RELATIONS: [&str; 6] = ["required", "exclusive", "together", "credentials", "order", "address"];

fn validator(schema: &Value) -> Validator {
    let options = jsonschema::options().should_validate_formats(true);
    options.with_format("nats-url", |text: &str| text.parse::<NatsUrl>().is_ok()).build(schema).unwrap()
}

fn load(text: &str) -> Result<ClusterConfig, mlx_errors::Error> {
    Loader::new().text("test.yaml", text).without_env().load().map(mlx_config::Loaded::into_config)
}

/// Whether the loader finds nothing wrong but rules between members.
fn holds_by_itself(outcome: &Result<ClusterConfig, mlx_errors::Error>) -> bool {
    match outcome.as_ref().map_err(mlx_errors::Error::kind) {
        Ok(_) => true,
        Err(ErrorKind::ConfigValidation { violations }) => violations.iter().all(|violation| {
            // A missing key of an item is a bound of the item; external mode without a URL is a relation.
            let missing_key = violation.rule == "required" && violation.path != "nats.mode";
            RELATIONS.contains(&violation.rule.as_str()) && !missing_key
        }),
        // A document that is `null`.
        Err(ErrorKind::ConfigSyntax { .. }) => false,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn f4_schema_and_loader_agree() {
    for schema in [mlx_types::schema::config(), mlx_types::schema::config_draft_07()] {
        let validator = validator(&schema);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(800)
        });
        let outcome = runner.run(&any::<u64>(), |seed| {
            let mut choices = Choices::new(seed);
            let mut document = sample(&schema, &schema, &mut choices);
            mutate(&mut document, &mut choices);
            let by_schema = validator.validate(&document).map_err(|error| error.to_string());
            let by_loader = load(&document.to_string());
            prop_assert_eq!(
                holds_by_itself(&by_loader),
                by_schema.is_ok(),
                "{}\n{:?}\n{:?}",
                document,
                by_loader,
                by_schema
            );
            Ok(())
        });
        outcome.unwrap();
    }
}

/// What a configuration writes, it reads, but for what it does not show.
#[test]
fn f4_a_configuration_survives_a_round_trip() {
    let schema = mlx_types::schema::config();
    let mut loaded = 0;
    for seed in 0..3000 {
        if loaded == 40 {
            return;
        }
        let document = sample(&schema, &schema, &mut Choices::new(seed));
        let Ok(mut config) = load(&document.to_string()) else { continue };
        loaded += 1;
        config.nats.password = None;
        config.nats.user = None;
        config.nats.token = None;
        config.controller.api_keys.clear();
        config.worker.engine.api_key = None;
        config.nats.server_url = config.nats.server_url.as_ref().map(NatsUrl::without_credentials);
        config.nats.servers = config.nats.servers.map(|urls| urls.iter().map(NatsUrl::without_credentials).collect());
        config.nats.embedded.allow_anonymous = true;
        assert_eq!(load(&serde_json::to_string(&config).unwrap()).unwrap(), config, "as JSON");
        assert_eq!(load(&serde_yaml::to_string(&config).unwrap()).unwrap(), config, "as YAML");
    }
    panic!("only {loaded} of 3000 documents load");
}

#[test]
fn f3_null_means_unset_at_every_key() {
    let mut document = serde_json::to_value(ClusterConfig::default()).unwrap();
    erase(&mut document);
    assert_eq!(load(&document.to_string()).unwrap(), ClusterConfig::default());
    // Whole sections too.
    let sections: serde_json::Map<_, _> =
        document.as_object().unwrap().keys().map(|key| (key.clone(), Value::Null)).collect();
    assert_eq!(load(&Value::Object(sections.clone()).to_string()).unwrap(), ClusterConfig::default());
    for schema in [mlx_types::schema::config(), mlx_types::schema::config_draft_07()] {
        let validator = validator(&schema);
        assert!(validator.is_valid(&document) && validator.is_valid(&Value::Object(sections.clone())));
    }
}

#[test]
fn f4_every_shipped_file_loads_and_matches_the_schema() {
    let mut files = 0;
    for path in yaml_files(&shipped("")) {
        files += 1;
        let text = fs::read_to_string(&path).unwrap();
        let modeline = "# yaml-language-server: $schema=./schemas/cluster.schema.json\n";
        assert!(text.starts_with(modeline), "{}", path.display());
        Loader::new().file(&path).without_env().load().unwrap();
        let document: Value = serde_yaml::from_str(&text).unwrap();
        for schema in ["cluster.schema.json", "cluster.draft-07.schema.json"] {
            let schema = serde_json::from_str(&fs::read_to_string(shipped("schemas").join(schema)).unwrap()).unwrap();
            let errors: Vec<_> = validator(&schema).iter_errors(&document).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        }
    }
    assert!(files >= 2);
}

#[test]
fn the_example_holds_every_key_at_its_default() {
    let text = mlx_config::example();
    let loaded = Loader::new().text("example.yaml", text.as_str()).without_env().load().unwrap();
    assert_eq!(loaded.config(), &ClusterConfig::default());
    let document: Value = serde_yaml::from_str(&text).unwrap();
    for (path, ..) in loaded.values() {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(document.pointer(&pointer).is_some(), "{path}");
    }
}

/// Our reading of YAML is the one of a second parser, for texts that both are made for.
#[test]
fn documents_mean_what_another_parser_takes_them_for() {
    let schema = mlx_types::schema::config();
    for seed in 0..200 {
        let mut choices = Choices::new(seed);
        let mut document = sample(&schema, &schema, &mut choices);
        mutate(&mut document, &mut choices);
        let yaml = serde_yaml::to_string(&document).unwrap();
        let (ours, theirs) = (load(&yaml), load(&serde_yaml::from_str::<Value>(&yaml).unwrap().to_string()));
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{yaml}"),
            (Err(ours), Err(theirs)) => assert_eq!(paths(&ours), paths(&theirs), "{yaml}"),
            (ours, theirs) => panic!("{yaml}\n{ours:?}\n{theirs:?}"),
        }
    }
}

/// What is broken, without the places, which differ between the two ways to write it.
fn paths(error: &mlx_errors::Error) -> Vec<String> {
    let (ErrorKind::ConfigValidation { violations } | ErrorKind::ConfigSyntax { violations }) = error.kind() else {
        panic!("{error:?}")
    };
    let mut paths: Vec<_> =
        violations.iter().map(|violation| format!("{} {}", violation.path, violation.rule)).collect();
    paths.sort();
    paths
}

/// Makes every key but the sections `null`.
fn erase(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(erase),
        other => *other = Value::Null,
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name)
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}
