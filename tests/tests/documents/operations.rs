//! The settings that pages show are settings that work, and no error code is left without advice.

use std::collections::HashMap;
use std::process::Command;

use mlx_config::Loader;
use mlx_embedded::Binary;
use mlx_errors::ErrorCode;
use mlx_tests::Authority;

use super::page::{self, Part, Step};

pub(super) const PAGE: &str = "docs/operations.md";

pub(super) fn steps_of(path: &str) -> Vec<Step> {
    page::steps(&page::read(path)).unwrap_or_else(|problem| panic!("{path}, {problem}"))
}

#[test]
fn every_configuration_on_every_page_loads() {
    let mut loaded = 0;
    for path in page::all_of_docs() {
        for step in steps_of(&path) {
            let place = format!("{path}, line {}", step.line);
            match step.part {
                Part::Configuration => {
                    let environment = HashMap::from(["NATS_PASSWORD", "BUS_PASSWORD"].map(|name| (name, "secret")));
                    let sources = Loader::new().text("cluster.yaml", step.text).env_map(environment);
                    let _ = sources.load().unwrap_or_else(|error| panic!("{place}:\n{}", sources.draw(&error, false)));
                    loaded += 1;
                }
                Part::Shown(language) => assert_ne!(language, "yaml", "{place}: is it a `configuration` or a `file`?"),
                _ => {}
            }
        }
    }
    assert!(loaded > 5, "{loaded} configurations");
}

#[test]
fn every_server_on_the_page_is_one_that_nats_server_would_start() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Authority::new(folder.path(), "authority").certify("nats-1");
    let mut tested = 0;
    for step in steps_of(PAGE).into_iter().filter(|step| matches!(step.part, Part::Server { .. })) {
        let settings = step
            .text
            .replace("/etc/nats/server.crt", certificate.file.to_str().unwrap())
            .replace("/etc/nats/server.key", certificate.key_file.to_str().unwrap());
        let file = folder.path().join("nats-server.conf");
        std::fs::write(&file, settings).unwrap();
        let mut server = Command::new(Binary::find(None).unwrap().path);
        server.args(["-t", "-c"]).arg(&file).envs([
            ("CONTROLLER_PASSWORD", "a"),
            ("WORKER_PASSWORD", "b"),
            ("OBSERVER_PASSWORD", "c"),
        ]);
        let output = server.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{PAGE}, line {}: {said}", step.line);
        tested += 1;
    }
    assert!(tested >= 2, "{tested} servers");
}

#[test]
fn troubleshooting_has_every_error_code_once() {
    let text = page::read(PAGE);
    let (_, troubleshooting) = text.split_once("\n## Troubleshooting\n").expect("a section on troubleshooting");
    let rows: Vec<_> = troubleshooting.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
    for code in ErrorCode::ALL {
        let advice: Vec<_> = rows.iter().filter(|(of, _)| *of == code.as_str()).collect();
        assert_eq!(advice.len(), 1, "{code} has {} rows in {PAGE}", advice.len());
    }
    for (code, _) in rows {
        assert!(code.parse::<ErrorCode>().is_ok(), "{PAGE} knows a code {code} that does not exist");
    }
}
