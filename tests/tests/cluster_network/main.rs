//! Clients of a cluster of three servers on a network of its own, while its servers die, freeze, are cut off, leave and
//! are replaced by newer ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod kept;
mod traffic;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kept::Kept;
use mlx_errors::{ErrorCode, Result};
use mlx_nats::{Client, ClientOptions, ConnectionState, Request, Subscription};
use mlx_tests::{Image, LIMIT, TestCluster, TestWorker, WorkerOptions, eventually_async, millis, within};
use mlx_types::{ClusterConfig, WorkerId};
use traffic::{Traffic, ask};

/// The client that each fault is aimed at.
const MOVER: &str = "mover";

#[tokio::test]
async fn c6_a_node_is_killed_and_its_clients_go_on_at_another() {
    let cluster = TestCluster::start().await;
    let mut mover = Mover::connect(&cluster).await;
    cluster.kill(mover.node).await;
    mover.goes_on(&cluster).await;
    cluster.bring_back(mover.node).await;
    cluster.agrees().await;
}

#[tokio::test]
async fn c8_a_frozen_node_is_left_within_three_ping_intervals() {
    let cluster = TestCluster::start().await;
    let mut mover = Mover::connect(&cluster).await;
    let frozen = Instant::now();
    cluster.pause(mover.node).await;
    let mut state = mover.client.watch_state();
    within("the discovery", state.wait_for(|state| !state.is_connected())).await.unwrap();
    // The interval is a second; the rest is for Docker, and for a machine that does other things meanwhile.
    assert!(frozen.elapsed() < Duration::from_secs(3 + 2), "{:?}", frozen.elapsed());
    mover.goes_on(&cluster).await;
    cluster.unpause(mover.node).await;
    cluster.agrees().await;
}

#[tokio::test]
async fn a_node_is_cut_off_and_rejoins_and_what_was_acknowledged_is_kept() {
    let cluster = TestCluster::start().await;
    let mut mover = Mover::connect(&cluster).await;
    let others = [(mover.node + 1) % 3, (mover.node + 2) % 3];
    let mut kept = Kept::create(&cluster.url(others[0])).await;
    kept.store(20).await;

    cluster.cut_off(mover.node).await;
    mover.goes_on(&cluster).await;
    kept.store(20).await;
    cluster.these_agree(&others).await;

    cluster.rejoin(mover.node).await;
    cluster.agrees().await;
    kept.is_complete().await;
    // The one that is back hears the others, and is heard.
    let back = Client::connect(&cluster.config_of(mover.node)).await.unwrap();
    let other = Client::connect(&cluster.config_of(others[0])).await.unwrap();
    let mut heard = back.subscribe::<_, u32>("lab.back").await.unwrap();
    is_heard(&mut heard, &other, "lab.back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lame_duck_sends_its_clients_on_and_every_stream_says_how_it_ended() {
    let cluster = TestCluster::start().await;
    let mut mover = Mover::connect(&cluster).await;
    let away = cluster.config_of((mover.node + 1) % 3);
    let (worker_side, neighbour) = (Client::connect(&away).await.unwrap(), Client::connect(&away).await.unwrap());
    let worker = worker(&worker_side).await;

    let id = worker.id();
    // From one server to the next, word of a worker's subscription takes a moment.
    let known = async || matches!(ask(&mover.client, id, 1).await, (1, None)).then_some(());
    eventually_async("an answer at the mover's server", known).await;
    let (interrupted, undisturbed) = (mover.client.clone(), neighbour.clone());
    let interrupted = tokio::spawn(async move { ask(&interrupted, id, 100_000).await });
    let undisturbed = tokio::spawn(async move { ask(&undisturbed, id, 500).await });
    cluster.lame_duck(mover.node).await;
    let (tokens, error) = within("the end of the stream", interrupted).await.unwrap();
    let error = error.expect("a stream does not survive the connection of its reader");
    assert_eq!(error.code(), ErrorCode::StreamDisconnected, "after {tokens} tokens: {error}");

    mover.goes_on(&cluster).await;
    let (tokens, error) = ask(&mover.client, id, 50).await;
    assert!(tokens == 50 && error.is_none(), "{tokens}, {error:?}");
    let (tokens, error) = within("the other stream", undisturbed).await.unwrap();
    assert!(tokens == 500 && error.is_none(), "a client of another node notices nothing: {tokens}, {error:?}");
    within("the lame duck's own end", cluster.ended(mover.node)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_upgrade_under_traffic_keeps_answering_and_keeps_what_was_stored() {
    let (old, new) = (Image::old().await, Image::current().await);
    let mut cluster = TestCluster::start_on(&old).await;
    let before = versions(&cluster).await;
    let mut kept = Kept::create(&cluster.url(0)).await;
    kept.store(20).await;
    let traffic = Traffic::start(&cluster.config()).await;

    for node in 0..3 {
        traffic.is_answered_again().await;
        cluster.replace(node, &new).await;
        kept.store(20).await;
        cluster.agrees().await;
    }
    traffic.is_answered_again().await;
    let told = traffic.stop().await;
    println!(
        "requests: {} answered, {} refused; streams: {} complete, {} interrupted",
        told.answered, told.refused, told.streams_complete, told.streams_interrupted
    );
    assert!(told.answered > 0 && told.streams_complete > 0, "{told:?}");
    assert_eq!(told.unreported, 0, "{told:?}");

    kept.is_complete().await;
    let after = versions(&cluster).await;
    assert!(after.iter().all(|version| *version == after[0] && !before.contains(version)), "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growing_from_the_embedded_server_to_a_cluster_changes_the_url_and_nothing_else() {
    let embedded = "nats: { mode: embedded, embedded: { port: 0, httpPort: 0 } }".to_owned();
    works(&embedded).await;
    let cluster = TestCluster::start().await;
    let urls = [0, 1, 2].map(|node| format!("\"{}\"", cluster.url(node))).join(", ");
    works(&format!("nats: {{ mode: external, servers: [ {urls} ] }}")).await;
}

/// All that a node does, with the same code whatever the configuration says.
async fn works(yaml: &str) {
    let loaded = mlx_config::Loader::new().text("cluster.yaml", yaml).without_env().load();
    let config = loaded.unwrap_or_else(|error| panic!("{error}")).into_config();
    let node = mlx_embedded::connect(&config).await.unwrap_or_else(|error| panic!("{error}"));
    let client = node.client();
    let mut heard = client.subscribe::<_, u32>("lab.test").await.unwrap();
    is_heard(&mut heard, client, "lab.test").await;
    let double = async |number: Request<u64>| -> Result<u64> { Ok(*number * 2) };
    let _service = client.serve("lab.double", double).await.unwrap();
    assert_eq!(client.request::<_, _, u64>("lab.double", &21).await.unwrap(), 42);
    let worker = worker(client).await;
    let (tokens, error) = ask(client, worker.id(), 20).await;
    assert!(tokens == 20 && error.is_none(), "{tokens}, {error:?}");
    worker.leave(LIMIT).await.unwrap();
    node.shutdown(LIMIT).await.unwrap();
}

/// A client that knows all servers, with a subscription, and one of another server that publishes to it.
struct Mover {
    client: Client,
    /// The server that it began with.
    node: usize,
    epoch: u64,
    heard: Subscription<u32>,
    publisher: Client,
}

impl Mover {
    async fn connect(cluster: &TestCluster) -> Self {
        let config = cluster.config().ping_interval_ms(millis(1000));
        let client = Client::connect_with(&config, ClientOptions::default().name(MOVER)).await.unwrap();
        let node = cluster.node_of(MOVER).await.expect("it is connected");
        let publisher = Client::connect(&cluster.config_of((node + 1) % 3)).await.unwrap();
        let epoch = epoch(&client.state()).expect("it is connected");
        let heard = client.subscribe::<_, u32>("lab.mover").await.unwrap();
        Self { client, node, epoch, heard, publisher }
    }

    /// Its connection is replaced by one to another server, where its subscription is made anew.
    async fn goes_on(&mut self, cluster: &TestCluster) {
        let mut state = self.client.watch_state();
        let later = |state: &ConnectionState| epoch(state).is_some_and(|epoch| epoch > self.epoch);
        within("the return", state.wait_for(later)).await.unwrap();
        let now = cluster.node_of(MOVER).await.expect("it is connected");
        assert_ne!(now, self.node);
        is_heard(&mut self.heard, &self.publisher, "lab.mover").await;
    }
}

fn epoch(state: &ConnectionState) -> Option<u64> {
    match state {
        ConnectionState::Connected { epoch } => Some(*epoch),
        _ => None,
    }
}

/// Publishes until it is heard: from one server to the next, word of a subscription takes a moment.
async fn is_heard(subscription: &mut Subscription<u32>, publisher: &Client, subject: &str) {
    let heard = async {
        loop {
            publisher.publish(subject, &7).await.unwrap();
            if let Ok(next) = tokio::time::timeout(Duration::from_millis(50), subscription.next()).await {
                break next.unwrap().unwrap().payload;
            }
        }
    };
    assert_eq!(within("a message", heard).await, 7);
}

async fn worker(client: &Client) -> TestWorker {
    let options = WorkerOptions::new(WorkerId::new(), &ClusterConfig::default());
    TestWorker::start(client, options).await.unwrap()
}

async fn versions(cluster: &TestCluster) -> Vec<String> {
    let mut versions = Vec::new();
    for node in 0..3 {
        let varz = cluster.monitoring(node, "/varz").await.unwrap();
        versions.push(varz["version"].as_str().unwrap().to_owned());
    }
    versions
}
