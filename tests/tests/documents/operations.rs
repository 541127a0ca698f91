//! The settings that pages show are settings that work, and no error code is left without advice.

use std::collections::HashMap;
use std::process::Command;

use futures_util::StreamExt;
use mlx_config::Loader;
use mlx_embedded::Binary;
use mlx_errors::ErrorCode;
use mlx_nats::Client;
use mlx_tests::{Authority, ConfiguredServer, LIMIT, TEST_MODEL, TestWorker, WorkerOptions, within};
use mlx_types::config::{ClusterConfig, NatsConfig};
use mlx_types::messages::InferenceRequest;
use mlx_types::{Secret, WorkerId};

use super::page::{self, Part, Step};

const PAGE: &str = "docs/operations.md";

fn steps_of(path: &str) -> Vec<Step> {
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
        server.args(["-t", "-c"]).arg(&file).envs([("CONTROLLER_PASSWORD", "a"), ("WORKER_PASSWORD", "b")]);
        let output = server.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{PAGE}, line {}: {said}", step.line);
        tested += 1;
    }
    assert!(tested >= 2, "{tested} servers");
}

#[tokio::test]
async fn the_permissions_on_the_page_are_enough_for_a_cluster() {
    let steps = steps_of(PAGE);
    let step = steps.iter().find(|step| step.part == Part::Server { permissions: true }).expect("permissions");
    let settings = step.text.replace("$CONTROLLER_PASSWORD", "one").replace("$WORKER_PASSWORD", "two");
    let settings: Vec<_> = settings.lines().filter(|line| !line.starts_with("port:")).collect();
    let server = ConfiguredServer::start(&settings.join("\n")).await;
    let config_of = |user: &str, password: &str| NatsConfig {
        user: Some(user.to_owned()),
        password: Some(Secret::new(password.to_owned())),
        ..server.config("nats", "")
    };
    let controller = Client::connect(&config_of("controller", "one")).await.unwrap();
    let workers = controller.workers().await.unwrap();
    let options = WorkerOptions::new(WorkerId::new(), &ClusterConfig::default());
    let worker = Client::connect(&config_of("worker", "two")).await.unwrap();
    let worker = TestWorker::start(&worker, options).await.unwrap();
    let known = workers.wait_until(LIMIT, |known| known.iter().any(|worker| worker.registration.is_some()));
    known.await.unwrap();

    let request = InferenceRequest { max_tokens: Some(3), ..InferenceRequest::new(TEST_MODEL, "count") };
    let mut tokens = controller.infer(worker.id(), &request).await.unwrap();
    let mut count = 0;
    while let Some(token) = within("the end of the answer", tokens.next()).await {
        token.unwrap();
        count += 1;
    }
    assert_eq!(count, 3);
    let mut stopped = controller.infer(worker.id(), &InferenceRequest::new(TEST_MODEL, "count")).await.unwrap();
    within("a token", stopped.next()).await.unwrap().unwrap();
    stopped.stop().await.unwrap();
    while let Some(token) = within("the end of the answer", stopped.next()).await {
        token.unwrap();
    }
    worker.leave(LIMIT).await.unwrap();
    controller.flush(LIMIT).await.unwrap();
    let refused: Vec<_> = server.log().lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect();
    assert_eq!(refused, Vec::<String>::new());
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
