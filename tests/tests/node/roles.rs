//! A controller, a worker, and both in one; a bus that is not there yet, and one that goes away.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_embedded::EmbeddedServer;
use mlx_tests::{Answer, LIMIT, ModelServer, eventually, within};
use mlx_types::config::NatsConfig;
use mlx_types::messages::InferenceRequest;
use mlx_types::subjects;

use crate::support::{Home, QUICK, chat, curl, free_port, json_of, nobody_is_left, text};

const CONTROLLER: &str = "mode: controller\n\
    nats: { embedded: { port: 0, httpPort: 0 } }\n";

fn worker_of(url: &str) -> Home {
    Home::with(&format!(
        "mode: worker\nnats: {{ mode: external, serverUrl: \"{url}\", reconnectTimeWait: 1 }}\n{QUICK}"
    ))
}

#[tokio::test]
async fn p1_each_role_runs_alone() {
    let home = Home::with(&format!("{CONTROLLER}{QUICK}"));
    let controller = home.run(&["--listen", "127.0.0.1:0"]);
    let gateway = controller.gateway().await;
    let url = format!("http://{gateway}/v1/chat/completions");
    let (status, answer) = curl(&["--json", &chat(false), &url]).await;
    assert_eq!((status, &json_of(&answer)["error"]["code"]), (503, &"no_workers".into()), "{answer}");

    let worker = worker_of(&controller.bus().await.to_string());
    let worker = worker.run(&["--tokens-per-second", "1000"]);
    worker.says(" is ready").await;
    assert!(!worker.said().contains("listening on"), "a worker serves no gateway: {}", worker.said());
    let answered = mlx_tests::eventually_async("an answer", async || {
        let (status, answer) = curl(&["--json", &chat(false), &url]).await;
        (status == 200).then_some(answer)
    })
    .await;
    assert!(answered.contains("You said"), "{answered}");

    // A worker that ends says so.
    assert_eq!(worker.end("-TERM").await, Some(0));
    nobody_is_left(&gateway).await;
    assert_eq!(controller.end("-INT").await, Some(0));
}

#[tokio::test]
async fn p1_a_worker_waits_for_its_bus_unless_it_is_told_not_to() {
    let port = free_port();
    let url = format!("nats://127.0.0.1:{port}");
    let home = worker_of(&url);
    let worker = home.run(&[]);
    let why = worker.says("waiting for the bus: ").await;
    assert!(why.contains(&port.to_string()), "{why}");
    let mut config = NatsConfig::default();
    (config.embedded.port, config.embedded.http_port) = (port, 0);
    let bus = EmbeddedServer::start(&config).await.unwrap();
    worker.says(" is ready").await;

    // The bus goes away for more attempts than a client makes by default (10), and comes back.
    bus.stop(LIMIT).await.unwrap();
    eventually("twelve attempts in vain", || worker.logged().contains("\"attempt\":12")).await;
    let bus = EmbeddedServer::start(&config).await.unwrap();
    let client = mlx_nats::Client::builder().url(&url).connect().await.unwrap();
    let workers = client.workers().await.unwrap();
    let online = workers.wait_until(LIMIT, |online| !online.is_empty()).await.unwrap();
    let mut tokens = client.infer(online[0].worker_id, &InferenceRequest::new("stand-in", "hi")).await.unwrap();
    assert_eq!(within("a token", tokens.next()).await.unwrap().unwrap().text, "You ");
    drop(tokens);
    assert_eq!(worker.end("-TERM").await, Some(0));

    // One that is on its way to a bus can be told to end.
    bus.stop(LIMIT).await.unwrap();
    let waiting = home.run(&[]);
    waiting.says("waiting for the bus: ").await;
    assert_eq!(waiting.end("-TERM").await, Some(0));
    let impatient =
        Home::with(&format!("mode: worker\nnats: {{ mode: external, serverUrl: \"{url}\", reconnect: false }}\n"));
    let output = impatient.output(&["run"]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("NATS_CONNECTION_ERROR"), "{said}");
}

#[tokio::test]
async fn p1_a_controller_that_waits_for_its_bus_says_so_to_who_asks() {
    let (bus_port, port) = (free_port(), free_port());
    let home = Home::with(&format!(
        "mode: controller\nnats: {{ mode: external, serverUrl: \"nats://127.0.0.1:{bus_port}\" }}\n\
         controller: {{ bindAddress: 127.0.0.1, port: {port}, dashboardPort: {port} }}\n"
    ));
    let controller = home.run(&[]);
    controller.says("waiting for the bus: ").await;
    let health = format!("http://127.0.0.1:{port}/healthz");
    let (status, answer) = curl(&[&health]).await;
    assert_eq!((status, &json_of(&answer)["error"]["code"]), (503, &"NATS_DISCONNECTED".into()), "{answer}");
    let mut config = NatsConfig::default();
    (config.embedded.port, config.embedded.http_port) = (bus_port, 0);
    let _bus = EmbeddedServer::start(&config).await.unwrap();
    controller.gateway().await;
    let (status, answer) = curl(&[&health]).await;
    assert_eq!((status, &json_of(&answer)["reason"]), (503, &"no worker is online".into()), "{answer}");
    assert_eq!(controller.end("-TERM").await, Some(0));
}

#[tokio::test]
async fn p1_credentials_that_are_refused_end_a_worker_at_once() {
    let mut config = NatsConfig::default();
    (config.embedded.port, config.embedded.http_port) = (0, 0);
    config.token = Some(mlx_types::Secret::new("right".to_owned()));
    let bus = EmbeddedServer::start(&config).await.unwrap();
    let url = bus.client_url().to_string();
    let home = Home::with(&format!("mode: worker\nnats: {{ mode: external, serverUrl: \"{url}\", token: canary }}\n"));
    let output = home.output(&["run"]);
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("NATS_AUTHENTICATION_ERROR"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}

#[tokio::test]
async fn p2_only_the_owner_of_the_bus_shuts_the_cluster_down() {
    let mut config = NatsConfig::default();
    (config.embedded.port, config.embedded.http_port) = (0, 0);
    let bus = EmbeddedServer::start(&config).await.unwrap();
    let client = mlx_nats::Client::connect(&bus.client_config()).await.unwrap();
    let mut shutdowns = client.subscribe(&subjects::CLUSTER_SHUTDOWN).await.unwrap();
    let mut farewells = client.subscribe(&subjects::WORKER_DEREGISTER).await.unwrap();
    let home = Home::with(&format!("nats: {{ mode: external, serverUrl: \"{}\" }}\n", bus.client_url()));
    let node = home.run(&["--listen", "127.0.0.1:0"]);
    node.says(" is ready").await;
    assert_eq!(node.end("-TERM").await, Some(0));
    within("its farewell", farewells.next()).await.unwrap().unwrap();
    // Behind the farewell, by the same connection, nothing more can be on its way.
    assert!(futures_util::FutureExt::now_or_never(shutdowns.next()).is_none(), "this bus is not its own");
    bus.stop(LIMIT).await.unwrap();

    let home = Home::with(&format!("nats: {{ embedded: {{ port: 0, httpPort: 0 }} }}\n{QUICK}"));
    let owner = home.run(&[]);
    owner.says(" is ready").await;
    let (client, _workers) = owner.client().await;
    let mut shutdowns = client.subscribe(&subjects::CLUSTER_SHUTDOWN).await.unwrap();
    owner.signal("-TERM");
    within("the shutdown", shutdowns.next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn p1_a_bus_that_goes_away_while_a_worker_starts_is_waited_for_too() {
    let models = ModelServer::start();
    models.answer_next(Answer::stream().pause(Duration::from_secs(2)).chat_token("x").chat_finish("length").done());
    let mut config = NatsConfig::default();
    (config.embedded.port, config.embedded.http_port) = (free_port(), 0);
    let bus = EmbeddedServer::start(&config).await.unwrap();
    let home = loads_first(&models, &bus.client_url().to_string());
    let worker = home.run(&[]);
    eventually("a model that is loaded", || models.generating() == 1).await;
    bus.stop(LIMIT).await.unwrap();
    eventually("an attempt without a bus", || worker.logged().contains("the bus went away in the middle")).await;
    assert!(!worker.said().contains(" is ready"), "{}", worker.said());
    let bus = EmbeddedServer::start(&config).await.unwrap();
    worker.says(" is ready").await;
    assert_eq!(worker.end("-TERM").await, Some(0));
    bus.stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn p2_a_node_that_still_loads_its_models_ends_when_it_is_told_to() {
    let models = ModelServer::start();
    models.answer_next(Answer::stream().silence());
    let mut config = NatsConfig::default();
    (config.embedded.port, config.embedded.http_port) = (0, 0);
    let bus = EmbeddedServer::start(&config).await.unwrap();
    let home = loads_first(&models, &bus.client_url().to_string());
    let worker = home.run(&[]);
    eventually("a model that is loaded", || models.generating() == 1).await;
    let began = Instant::now();
    assert_eq!(worker.end("-TERM").await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    eventually("the end of the loading", || models.generating() == 0).await;
    bus.stop(LIMIT).await.unwrap();
}

/// A worker that registers when its model is loaded.
fn loads_first(models: &ModelServer, bus: &str) -> Home {
    Home::with(&format!(
        "mode: worker\nnats: {{ mode: external, serverUrl: \"{bus}\", reconnectTimeWait: 50 }}\n\
         worker:\n  engine: {{ kind: openai, url: \"{}\" }}\n  \
         preWarming: {{ enabled: true, registerWhen: complete, models: [{{ model: tiny }}] }}\n{QUICK}",
        models.url()
    ))
}
