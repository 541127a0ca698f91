//! Clusters as their users have them: a configuration file, a controller's node, worker processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use mlx_config::Loader;
use mlx_embedded::{EmbeddedServer, Node};
use mlx_errors::{Error, Result};
use mlx_nats::{ClientOptions, TokenStream, WorkerInfo, Workers};
use mlx_tests::{LIMIT, TEST_MODEL, WorkerProcess, within};
use mlx_types::config::NatsConfig;
use mlx_types::messages::InferenceRequest;
use mlx_types::{ClusterConfig, NatsUrl, WorkerId};
use tempfile::TempDir;

/// A `cluster.yaml` in a folder of its own.
pub struct ConfigFile {
    folder: TempDir,
}

impl ConfigFile {
    /// One with this text.
    pub fn new(yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cluster.yaml"), yaml).unwrap();
        Self { folder }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("cluster.yaml")
    }

    /// What it says.
    pub fn load(&self) -> ClusterConfig {
        load(&self.path())
    }
}

/// What the file says, whatever is set in the environment.
pub fn load(file: &Path) -> ClusterConfig {
    let loader = Loader::new().file(file).without_env();
    loader.load().unwrap_or_else(|error| panic!("{}", loader.draw(&error, false))).into_config()
}

/// A server on free ports, and everything quicker than shipped, at the shipped ratios.
pub const QUICK: &str = "
nats:
  mode: embedded
  embedded: { port: 0, httpPort: 0 }
  reconnectTimeWait: 50
  maxReconnectAttempts: 1000
discovery: { heartbeatIntervalMs: 400, offlineTimeoutMs: 2000 }
logging: { level: warn, format: text }
";

/// A server that is nobody's but the test's, which can take it away and bring it back.
pub struct Bus {
    config: ClusterConfig,
    server: Option<EmbeddedServer>,
}

impl Bus {
    pub async fn start() -> Self {
        let mut bus = Self { config: ConfigFile::new(QUICK).load(), server: None };
        bus.come_back().await;
        bus.config.nats.embedded.port = bus.url().port();
        bus
    }

    pub fn url(&self) -> NatsUrl {
        self.server.as_ref().expect("the bus is there").client_url()
    }

    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().expect("the bus is there").client_addr()
    }

    /// For a client that is no part of a scenario.
    pub fn config(&self) -> NatsConfig {
        self.server.as_ref().expect("the bus is there").client_config()
    }

    /// The process is gone, and the port with it.
    pub async fn go_away(&mut self) {
        self.server.take().expect("the bus is there").stop(LIMIT).await.unwrap();
    }

    pub async fn come_back(&mut self) {
        self.server = Some(EmbeddedServer::start(&self.config.nats).await.unwrap_or_else(|error| panic!("{error}")));
    }

    /// A `cluster.yaml` for nodes of this bus: [`QUICK`] but for its server.
    pub fn yaml(&self) -> String {
        let external = format!("  mode: external\n  serverUrl: {}\n", self.url());
        QUICK.replace("  mode: embedded\n  embedded: { port: 0, httpPort: 0 }\n", &external)
    }
}

/// A controller, with the server where its configuration has it start one.
pub struct Controller {
    file: ConfigFile,
    config: ClusterConfig,
    node: Node,
    workers: Workers,
}

impl Controller {
    /// Starts one by this `cluster.yaml`.
    pub async fn start(yaml: &str) -> Self {
        Self::start_with(yaml, |_| {}).await
    }

    /// Starts one by this `cluster.yaml`, and with what no `cluster.yaml` can say.
    pub async fn start_with(yaml: &str, change: impl FnOnce(&mut ClientOptions)) -> Self {
        let file = ConfigFile::new(yaml);
        let config = file.load();
        let mut options = ClientOptions::from(&config).name("controller");
        change(&mut options);
        let node = mlx_embedded::connect_with(&config.nats, options).await.unwrap_or_else(|error| panic!("{error}"));
        let workers = node.client().workers().await.unwrap();
        Self { file, config, node, workers }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Where workers find the bus.
    pub fn url(&self) -> NatsUrl {
        match self.node.server() {
            Some(server) => server.client_url(),
            None => self.config.nats.urls()[0].clone(),
        }
    }

    /// The workers that it knows.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// A worker process of the same configuration, once the controller knows it.
    pub async fn worker(&self, arguments: &[&str]) -> WorkerProcess {
        self.worker_with_id(WorkerId::new(), arguments).await
    }

    pub async fn worker_with_id(&self, id: WorkerId, arguments: &[&str]) -> WorkerProcess {
        let process = start_worker_with_id(&self.file, &self.url(), id, arguments);
        self.knows(|workers| workers.iter().any(|worker| worker.worker_id == id)).await;
        process
    }

    /// Waits until it knows what `expected` wants.
    pub async fn knows(&self, expected: impl Fn(&[WorkerInfo]) -> bool) {
        self.workers.wait_until(LIMIT, expected).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until it knows these workers and no others.
    pub async fn knows_all(&self, ids: &[WorkerId]) {
        let mut expected = ids.to_vec();
        expected.sort();
        self.knows(|workers| workers.iter().map(|worker| worker.worker_id).eq(expected.iter().copied())).await;
    }

    /// Asks a worker for so many tokens.
    pub async fn infer(&self, worker: WorkerId, tokens: u64) -> Result<TokenStream> {
        let request = InferenceRequest::new(TEST_MODEL, "p").max_tokens(tokens);
        self.node.client().infer(worker, &request).await
    }

    /// Asks a worker for so many tokens, and reads all of them.
    pub async fn ask(&self, worker: WorkerId, tokens: u64) -> Answer {
        read(self.infer(worker, tokens).await.unwrap_or_else(|error| panic!("{error}"))).await
    }

    pub async fn shutdown(self) {
        self.node.shutdown(Duration::from_secs(5)).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A worker process of the configuration in `file`.
pub fn start_worker(file: &ConfigFile, url: &NatsUrl, arguments: &[&str]) -> WorkerProcess {
    start_worker_with_id(file, url, WorkerId::new(), arguments)
}

fn start_worker_with_id(file: &ConfigFile, url: &NatsUrl, id: WorkerId, arguments: &[&str]) -> WorkerProcess {
    let program = env!("CARGO_BIN_EXE_test-worker");
    WorkerProcess::start(program, &file.path(), url, id, arguments)
}

/// What a stream brought.
#[derive(Debug)]
pub struct Answer {
    pub tokens: u64,
    pub error: Option<Error>,
}

impl Answer {
    /// The number of tokens of a stream that ended well.
    pub fn complete(self) -> u64 {
        assert!(self.error.is_none(), "{self:?}");
        self.tokens
    }
}

/// Reads a stream to its one end.
pub async fn read(mut stream: TokenStream) -> Answer {
    let (mut tokens, mut error) = (0, None);
    while let Some(frame) = within("the next frame", stream.next()).await {
        assert!(error.is_none(), "something came after the end: {frame:?}");
        match frame {
            Ok(frame) => {
                assert_eq!((frame.index, frame.text), (tokens, tokens.to_string()));
                tokens += 1;
            }
            Err(end) => error = Some(end),
        }
    }
    assert_eq!(stream.summary().expect("an ended stream has a summary").tokens, tokens);
    Answer { tokens, error }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
