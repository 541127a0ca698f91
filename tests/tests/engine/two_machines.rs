//! The two machines of `docs/model-servers.md`, on one: its files as they are, apart from ports and addresses.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use mlx_config::Loader;
use mlx_nats::{Client, WorkerInfo};
use mlx_tests::{LIMIT, ModelServer, mlx_node};
use mlx_types::messages::{ClusterAnnouncement, ClusterEvent, InferenceRequest};
use mlx_types::{NatsUrl, WorkerId, subjects};

use crate::support::{MODEL, available, read};

const PASSWORD: &str = "5f1c9b";

#[tokio::test]
async fn the_files_of_the_docs_make_one_cluster_of_two_machines() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = files_of_the_docs(folder.path());
    let servers = [ModelServer::start(), ModelServer::start()];

    let (_controller, bus) = tokio::task::spawn_blocking({
        let engine = servers[0].url();
        move || controller(&first, &engine)
    })
    .await
    .unwrap();
    let id = WorkerId::new();
    let mut worker = mlx_node(&second);
    worker
        .args(["run", "--exit-with-stdin", "--engine", &format!("openai={}", servers[1].url())])
        .env("BUS_PASSWORD", PASSWORD)
        .env("MLX_NATS__SERVER_URL", bus.as_str_without_credentials())
        .env("MLX_WORKER__WORKER_ID", id.to_string())
        .stdin(Stdio::piped());
    let _worker = Machine(worker.spawn().unwrap());

    let variables = [("BUS_PASSWORD", PASSWORD), ("MLX_NATS__SERVER_URL", bus.as_str_without_credentials())];
    let config = Loader::new().file(&second).env_map(variables).load().unwrap().into_config();
    let client = Client::connect(&config).await.unwrap();
    let both = |online: &[WorkerInfo]| online.iter().filter(|worker| available(worker) == [MODEL]).count() == 2;
    let workers = client.workers().await.unwrap();
    // As a controller does: who has registered before says again what it is.
    let started = ClusterAnnouncement::new(ClusterEvent::ControllerStarted);
    client.publish(&subjects::CLUSTER_ANNOUNCE, &started).await.unwrap();
    let online = workers.wait_until(LIMIT, both).await.unwrap();
    assert!(online.iter().any(|worker| worker.worker_id == id));
    for worker in &online {
        let answered =
            read(client.infer(worker.worker_id, &InferenceRequest::new(MODEL, "hello")).await.unwrap()).await;
        assert_eq!(answered.text(), "You said: hello");
    }
    assert_eq!(servers.map(|server| server.requests().len()), [1, 1], "each worker has asked its own");
}

/// A process, and with it whatever it has started.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes the two configurations of the page into a folder.
fn files_of_the_docs(folder: &Path) -> [PathBuf; 2] {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/model-servers.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").expect("an end").0).collect();
    let [first, second] = blocks[..] else { panic!("{} blocks of YAML", blocks.len()) };
    assert!(first.contains("0.0.0.0") && second.contains("192.168.1.10"), "{first}{second}");
    [("first.yaml", first), ("second.yaml", second)].map(|(name, text)| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    })
}

/// The first machine, and where its bus is.
fn controller(config: &Path, engine: &str) -> (Machine, NatsUrl) {
    let mut controller = mlx_node(config);
    controller
        .args(["run", "--exit-with-stdin", "--engine", &format!("openai={engine}"), "--listen", "127.0.0.1:0"])
        .env("BUS_PASSWORD", PASSWORD)
        .env("MLX_NATS__EMBEDDED__HOST", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut controller = Machine(controller.spawn().unwrap());
    let mut lines = BufReader::new(controller.0.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next().expect("the address of the bus, before the end").unwrap();
        if let Some((_, url)) = line.split_once(", at nats://") {
            // Read on, so that the controller can go on talking.
            std::thread::spawn(move || lines.for_each(drop));
            return (controller, format!("nats://{url}").parse().unwrap());
        }
    }
}
