//! Three nats-servers in containers on one network.

use std::io;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mlx_types::NatsUrl;
use mlx_types::config::{NatsConfig, NatsMode};
use serde_json::Value;
use tempfile::TempDir;

use crate::contained::settings_folder;
use crate::docker::{Container, Image, Janitor, Network, Ports, Spec, Volume};
use crate::millis;
use crate::monitoring::monitoring;

/// How long a cluster may take to agree: a new leader of JetStream takes up to ten seconds to be elected.
const AGREEMENT: Duration = Duration::from_mins(1);

/// A cluster of three with JetStream. Clients reach each server at a port of this host's own that stays the same,
/// whatever happens to the server, and are told of the others by these ports. Everything goes with the value.
#[derive(Debug)]
pub struct TestCluster {
    nodes: [Node; 3],
    network: Network,
}

#[derive(Debug)]
struct Node {
    name: String,
    ports: Ports,
    settings: TempDir,
    /// None for the moment in which one version is replaced by another.
    container: Option<Container>,
    /// Outlives the container, as the disk of a machine does.
    data: Volume,
}

impl TestCluster {
    /// Three servers of the version under test.
    pub async fn start() -> Self {
        Self::start_on(&Image::current().await).await
    }

    /// Three servers of the version in `image`.
    pub async fn start_on(image: &Image) -> Self {
        let janitor = Janitor::of_this_process();
        let network = Network::create().await;
        let names = [(); 3].map(|()| janitor.name("node"));
        let mut nodes = Vec::new();
        for name in &names {
            let (ports, data) = (Ports::free(), Volume::create().await);
            let settings = settings_folder(&settings(name, ports, &names), &[]);
            nodes.push(Node { name: name.clone(), ports, settings, container: None, data });
        }
        let nodes = nodes.try_into().expect("as many as there are names");
        let mut cluster = Self { nodes, network };
        let network = &cluster.network;
        join_all(cluster.nodes.iter_mut().map(|node| node.create(image, network))).await;
        cluster.agrees().await;
        cluster
    }

    /// The settings of a client that knows all servers.
    pub fn config(&self) -> NatsConfig {
        self.config_of(0).servers([0, 1, 2].map(|node| self.url(node)))
    }

    /// The settings of a client that knows one server, and learns of the others from that.
    pub fn config_of(&self, node: usize) -> NatsConfig {
        NatsConfig::default()
            .mode(NatsMode::External)
            .server_url(self.url(node))
            .reconnect_time_wait(millis(50))
            .max_reconnect_attempts(1000)
    }

    /// Where clients reach the server `node`.
    pub fn url(&self, node: usize) -> NatsUrl {
        format!("nats://{}", self.nodes[node].ports.client_addr()).parse().unwrap()
    }

    /// The server that the client `name` is connected to.
    pub async fn node_of(&self, name: &str) -> Option<usize> {
        for node in 0..self.nodes.len() {
            let connections = self.monitoring(node, "/connz").await.unwrap_or_default();
            let connections = connections["connections"].as_array().cloned().unwrap_or_default();
            if connections.iter().any(|connection| connection["name"] == name) {
                return Some(node);
            }
        }
        None
    }

    /// What the server's monitoring answers at `path`.
    pub async fn monitoring(&self, node: usize, path: &str) -> io::Result<Value> {
        monitoring(self.nodes[node].ports.monitoring_addr(), path).await
    }

    /// Waits until every server that runs knows every other, JetStream has a leader, and nobody lags behind.
    pub async fn agrees(&self) {
        let running: Vec<usize> = join_all(self.nodes.iter().map(Node::is_running))
            .await
            .into_iter()
            .enumerate()
            .filter_map(|(node, running)| running.then_some(node))
            .collect();
        self.these_agree(&running).await;
    }

    /// Waits until the servers `nodes` know one another, JetStream has a leader, and none of them lags behind.
    pub async fn these_agree(&self, nodes: &[usize]) {
        let deadline = Instant::now() + AGREEMENT;
        for node in nodes {
            while let Err(problem) = self.is_settled(*node, nodes).await {
                assert!(Instant::now() < deadline, "node {node} of {nodes:?}: {problem}\n{}", self.log(*node).await);
                tokio::time::sleep(Duration::from_millis(50)).await; // between two looks
            }
        }
    }

    /// Ends a server in good order; [`Self::bring_back`] starts it again.
    pub async fn stop(&self, node: usize) {
        self.container(node).stop().await;
    }

    /// Ends a server with SIGKILL.
    pub async fn kill(&self, node: usize) {
        self.container(node).signal("KILL").await;
        self.container(node).ended().await;
    }

    /// Starts a server that has ended, with the data that it had.
    pub async fn bring_back(&self, node: usize) {
        self.container(node).start().await;
    }

    /// Freezes a server: its sockets stay open, and nothing answers.
    pub async fn pause(&self, node: usize) {
        self.container(node).pause().await;
    }

    /// Lets a frozen server go on.
    pub async fn unpause(&self, node: usize) {
        self.container(node).unpause().await;
    }

    /// Takes a server off the network. The others find that it is silent; its clients cannot reach it any more.
    pub async fn cut_off(&self, node: usize) {
        self.container(node).disconnect(&self.network.name).await;
    }

    /// Puts it on the network again.
    pub async fn rejoin(&self, node: usize) {
        self.container(node).connect(&self.network.name).await;
    }

    /// Has a server tell its clients to go, and a second later send them away.
    pub async fn lame_duck(&self, node: usize) {
        self.container(node).signal("USR2").await;
    }

    /// Waits until a server has ended.
    pub async fn ended(&self, node: usize) {
        self.container(node).ended().await;
    }

    /// Puts a server of another version in the place of one, which leaves as a lame duck. Its data stays.
    pub async fn replace(&mut self, node: usize, image: &Image) {
        self.lame_duck(node).await;
        self.ended(node).await;
        let Self { nodes, network } = self;
        nodes[node].create(image, network).await;
    }

    /// What a server has logged.
    pub async fn log(&self, node: usize) -> String {
        self.container(node).log().await
    }

    fn container(&self, node: usize) -> &Container {
        self.nodes[node].container.as_ref().expect("its start has succeeded")
    }

    async fn is_settled(&self, node: usize, among: &[usize]) -> Result<(), String> {
        let ask = |path| async move { self.monitoring(node, path).await.map_err(|error| error.to_string()) };
        let routes = ask("/routez").await?;
        let routes = routes["routes"].as_array().cloned().unwrap_or_default();
        let known = |name: &str| routes.iter().any(|route| route["remote_name"] == name);
        if let Some(stranger) = among.iter().find(|other| **other != node && !known(&self.nodes[**other].name)) {
            return Err(format!("it has no route to node {stranger}"));
        }
        if ask("/jsz").await?["meta_cluster"]["leader"].as_str().is_none_or(str::is_empty) {
            return Err("JetStream has no leader".to_owned());
        }
        let health = ask("/healthz").await?;
        if health["status"] == "ok" { Ok(()) } else { Err(health.to_string()) }
    }
}

impl Node {
    async fn create(&mut self, image: &Image, network: &Network) {
        // Its successor takes its name.
        drop(self.container.take());
        let container = Container::run(Spec {
            image,
            name: &self.name,
            ports: self.ports,
            settings: self.settings.path(),
            network: Some(&network.name),
            volume: Some(&self.data.name),
        })
        .await;
        self.container = Some(container);
    }

    async fn is_running(&self) -> bool {
        match &self.container {
            Some(container) => container.is_running().await,
            None => false,
        }
    }
}

fn settings(name: &str, ports: Ports, all: &[String]) -> String {
    let routes: Vec<String> = all.iter().map(|name| format!("nats://{name}:6222")).collect();
    // A second between two pings: what is silent is found in seconds, not in minutes.
    format!(
        "server_name: {name}
port: 4222
http: 8222
client_advertise: \"{}\"
ping_interval: 1s
ping_max: 2
lame_duck_duration: 30s
lame_duck_grace_period: 1s
jetstream {{ store_dir: /data }}
cluster {{ name: test, port: 6222, routes: [ {} ] }}
",
        ports.client_addr(),
        routes.join(", ")
    )
}
