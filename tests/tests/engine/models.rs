//! Which models a worker says that it has.

use std::process::Stdio;

use mlx_tests::{ModelServer, TestServer, eventually, mlx_node, shipped_config, within};
use mlx_types::messages::WorkerStatus;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::{MODEL, Scene, available, said_to_prompts, start_worker};

#[tokio::test]
async fn a_worker_waits_for_a_slow_server_and_follows_what_it_has() {
    let mut scene = Scene::before_models(ModelServer::not_yet(), &[], &[]).await;
    let nothing = |worker: &mlx_nats::WorkerInfo| worker.registration.is_some() && available(worker).is_empty();
    let waiting = scene.until("a worker without models", nothing).await;
    assert_eq!(waiting.registration.unwrap().status, WorkerStatus::Degraded);
    eventually("a line in the log", || scene.worker.log().contains("the engine does not list its models")).await;
    assert!(scene.worker.log().contains(&scene.models.url()), "{}", scene.worker.log());

    scene.models.bring_up();
    let ready = scene.until("its models", |worker| available(worker) == [MODEL]).await;
    assert_eq!(ready.registration.unwrap().status, WorkerStatus::Online);
    eventually("another line", || scene.worker.log().contains("the engine answers now")).await;
    assert_eq!(scene.worker.log().matches("does not list").count(), 1, "once is enough");

    scene.models.set_models(["large", "small"]);
    scene.until("other models", |worker| available(worker) == ["large", "small"]).await;

    scene.models.take_down().await;
    let lost = scene.until("no models any more", nothing).await;
    assert_eq!(lost.status, WorkerStatus::Degraded);
    scene.end().await;
}

#[tokio::test]
async fn an_address_without_its_v1_is_pointed_at() {
    let models = ModelServer::start();
    let bus = TestServer::start().await;
    let worker = start_worker(&bus.embedded().client_url(), models.url().trim_end_matches("/v1"), &[], &[]);
    eventually("a line in the log", || worker.log().contains("does its address lack a `/v1`")).await;
    worker.stop().await;
    bus.stop().await;
}

#[tokio::test]
async fn a_server_on_this_machine_is_reached_past_any_proxy() {
    let nowhere = "http://127.0.0.1:9";
    let proxies = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, nowhere));
    let scene = Scene::with(ModelServer::start(), &[], &proxies).await;
    assert_eq!(scene.answer().await.text(), "You said: hello there");
    scene.end().await;
}

#[tokio::test]
async fn a_controller_hands_the_engine_on_to_its_workers() {
    let models = ModelServer::start();
    let arguments = ["--engine-api", "completions", "--max-tokens", "5", "first question", "second question"];
    let said = said_to_prompts(&models.url(), &arguments).await;
    assert!(said.contains("You said: first question") && said.contains("You said: second question"), "{said}");
    assert!(said.contains("2 of 2 prompts answered"), "{said}");
    let asked = models.requests();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|asked| asked.path == "/v1/completions" && asked.body["max_tokens"] == 5), "{asked:?}");
}

#[tokio::test]
async fn a_worker_that_dies_before_it_has_a_model_is_not_waited_for() {
    let models = ModelServer::not_yet();
    let mut cluster = Command::from(mlx_node(&shipped_config()));
    cluster.args(["demo", "--workers", "2", "--engine", &format!("openai={}", models.url()), "a question"]);
    let mut cluster = cluster.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut said = BufReader::new(cluster.stderr.take().unwrap()).lines();
    let mut next = async || within("what the cluster says next", said.next_line()).await.unwrap();

    let mut worker = None;
    loop {
        let line = next().await.expect("a cluster that waits for its engines");
        if let Some((_, process)) = line.split_once("worker 2 is process ") {
            worker = process.split(',').next().map(str::to_owned);
        } else if line.contains("waiting for the engines") {
            break;
        }
    }
    let killed = Command::new("kill").args(["-KILL", &worker.expect("its process id")]).status().await.unwrap();
    assert!(killed.success());

    let mut rest = String::new();
    while let Some(line) = next().await {
        rest += &line;
    }
    assert!(rest.contains("worker 2 ended before it had a model: signal: 9"), "{rest}");
    assert_eq!(within("its end", cluster.wait()).await.unwrap().code(), Some(1));
}
