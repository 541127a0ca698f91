//! What a user writes, and the errors for what cannot be.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;

use garde::Validate;
use mlx_errors::ErrorCode;
use mlx_log::{Format, Level, LogConfig, Setup};
use serde_json::json;

#[test]
fn the_defaults_are_info_json_and_standard_error() {
    let config = LogConfig::default();
    assert_eq!((config.level, config.format, config.file.clone()), (Level::Info, Format::Json, None));
    assert_eq!(serde_json::from_value::<LogConfig>(json!({})).unwrap(), config);
    assert_eq!(serde_json::to_value(&config).unwrap(), json!({ "level": "info", "format": "json" }));
    let all = json!({ "level": "debug", "format": "text", "file": "logs/mlx.log" });
    assert_eq!(serde_json::to_value(serde_json::from_value::<LogConfig>(all.clone()).unwrap()).unwrap(), all);
}

#[test]
fn the_schema_and_the_loader_accept_and_refuse_the_same() {
    let schema = jsonschema::validator_for(schemars::schema_for!(LogConfig).as_value()).unwrap();
    let accepts = |value: &serde_json::Value| {
        serde_json::from_value::<LogConfig>(value.clone()).is_ok_and(|config| config.validate().is_ok())
    };
    for (value, right) in [
        (json!({}), true),
        (json!({ "level": "error", "format": "text", "file": "a.log" }), true),
        (json!({ "file": null }), true),
        (json!({ "level": "trace" }), false),
        (json!({ "level": "INFO" }), false),
        (json!({ "format": "xml" }), false),
        (json!({ "file": "" }), false),
        (json!({ "file": 5 }), false),
        (json!({ "colour": true }), false),
    ] {
        assert_eq!((schema.is_valid(&value), accepts(&value)), (right, right), "{value}");
    }
}

#[test]
fn levels_read_back_and_are_ordered_by_how_much_they_show() {
    for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
        assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
        assert_eq!(tracing::Level::from(level).to_string().to_lowercase(), level.as_str());
    }
    assert!(Level::Error < Level::Warn && Level::Info < Level::Debug);
    let unknown = "verb\u{1b}ose".parse::<Level>().unwrap_err();
    assert_eq!(unknown.to_string(), "unknown log level `verb\\u{1b}ose`; the levels are debug, info, warn and error");
}

#[test]
fn a_log_that_cannot_be_set_up_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig::default().file(folder.path().to_owned());
    let error = Setup::new(&config).build().err().unwrap();
    assert_eq!(error.code(), ErrorCode::Log);
    let text = format!("{:#}", mlx_errors::report(&error));
    assert!(text.contains(&folder.path().display().to_string()) && text.contains("directory"), "{text}");

    for (directives, part) in
        [(OsString::from("debg"), "`debg` is not a log directive"), (OsString::from_vec(vec![0xff]), "UTF-8")]
    {
        let error = Setup::new(&LogConfig::default()).directives(directives).build().err().unwrap();
        assert_eq!(error.code(), ErrorCode::Log);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn the_environment_wins_over_the_configuration() {
    let file = tempfile::tempdir().unwrap().path().join("deep/er/mlx.log");
    let config = LogConfig::default().file(file.clone());
    let environment = |name: &str| (name == "MLX_LOG").then(|| OsString::from("error,loud=trace"));
    let (dispatch, guard) = Setup::new(&config).environment(environment).build().unwrap();
    assert_eq!(guard.handle().directives(), "loud=trace,error");
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info!("quiet");
        tracing::trace!(target: "loud::inner", "heard");
    });
    drop(guard);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("heard") && !text.contains("quiet"), "{text}");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "prompts may be in it: {mode:o}");
}
