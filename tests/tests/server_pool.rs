//! Which of several servers a client goes to, what each of them is shown, and how long a dead one keeps it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlx_errors::ErrorCode;
use mlx_nats::{Client, ClientOptions, ConnectionState};
use mlx_tests::{
    Authority, ConfiguredServer, LIMIT, Operator, TestServer, eventually, millis, number_from_env, within,
};
use mlx_types::config::{DiscoveredServers, NatsConfig, NatsMode};
use tokio::net::TcpListener;

fn rounds() -> usize {
    number_from_env("MLX_TEST_ROUNDS", || 3)
}

fn config(urls: &[String]) -> NatsConfig {
    NatsConfig::default()
        .mode(NatsMode::External)
        .servers(urls.iter().map(|url| url.parse().unwrap()))
        .max_reconnect_attempts(1000)
}

fn url(server: &ConfiguredServer) -> String {
    format!("nats://{}", server.address())
}

/// Accepts and says nothing.
struct Silent {
    port: u16,
    _task: tokio::task::JoinHandle<()>,
}

impl Silent {
    async fn at(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                kept.push(socket);
            }
        });
        Ok(Self { port, _task: task })
    }
}

async fn back(client: &Client) -> Duration {
    let dropped = Instant::now();
    let mut state = client.watch_state();
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
    dropped.elapsed()
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let median = times[times.len() / 2];
    println!(
        "{what}: median {} ms, maximum {} ms of {}",
        median.as_millis(),
        times[times.len() - 1].as_millis(),
        times.len()
    );
    let limit = if rounds() >= 20 { Duration::from_secs(1) } else { Duration::from_secs(3) };
    assert!(median < limit, "{what}: {times:?}");
}

#[tokio::test]
async fn c7_a_healthy_second_server_is_found_in_less_than_a_second() {
    let mut times = Vec::new();
    for _ in 0..rounds() {
        let (first, second) = (ConfiguredServer::start("").await, ConfiguredServer::start("").await);
        let client = Client::connect(&config(&[url(&first), url(&second)])).await.unwrap();
        let mut both = [Some(first), Some(second)];
        let connected = both.iter().position(|server| url(server.as_ref().unwrap()) == server_of(&client));
        drop(both[connected.unwrap()].take());
        times.push(back(&client).await);
    }
    tell("two servers", times);
}

fn server_of(client: &Client) -> String {
    use futures_util::{FutureExt, StreamExt};
    match client.events().next().now_or_never().unwrap().unwrap() {
        mlx_nats::ConnectionEvent::Connected { server, .. } => server,
        other => panic!("{other:?}"),
    }
}

/// A server that tells its clients of addresses at which nobody answers.
async fn gossiping(silent: &[Silent], port: i32) -> ConfiguredServer {
    let advertised = format!("127.0.0.1:{}", silent[0].port);
    // Two more nodes of its cluster, which advertise what is silent.
    let settings = format!("cluster {{ name: c, listen: \"127.0.0.1:-1\" }}\nclient_advertise: \"{advertised}\"");
    ConfiguredServer::start_at(&format!("127.0.0.1:{port}"), &settings).await
}

#[tokio::test]
async fn c7_dead_addresses_that_servers_tell_of_keep_nobody_from_a_configured_one() {
    let mut times = Vec::new();
    for _ in 0..rounds() {
        let silent = [Silent::at("127.0.0.1:0").await.unwrap()];
        let server = gossiping(&silent, -1).await;
        let port = server.address().port();
        let client = Client::connect(&config(&[url(&server)]).reconnect_time_wait(millis(100))).await.unwrap();
        drop(server);
        let mut state = client.watch_state();
        within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await; // the outage
        let _again = gossiping(&silent, port.into()).await;
        let returned = Instant::now();
        within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
        times.push(returned.elapsed());
    }
    tell("dead addresses that were told of", times);
}

#[tokio::test]
async fn c7_all_addresses_of_a_name_are_tried_and_a_silent_one_costs_a_moment() {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        // `localhost` has two addresses, of which this is as a rule the first.
        let Ok(silent) = Silent::at("[::1]:0").await else {
            eprintln!("this machine has no `::1`: nothing is shown here");
            return;
        };
        let listen = format!("127.0.0.1:{}", silent.port);
        let server = ConfiguredServer::start_at(&listen, "").await;
        let began = Instant::now();
        let named = format!("nats://localhost:{}", silent.port);
        let client = within("the connection", Client::connect(&config(&[named]))).await.unwrap();
        first.push(began.elapsed());
        assert!(server_of(&client).contains("localhost"), "shown by its name");
        drop(server);
        let mut state = client.watch_state();
        within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
        let _server = ConfiguredServer::start_at(&listen, "").await;
        let began = Instant::now();
        within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
        again.push(began.elapsed());
    }
    tell("a name of two addresses, first connection", first);
    println!("a name of two addresses, reconnection: {again:?}");
}

/// The same three beside nats-py, in one run.
#[tokio::test]
async fn fail_over_beside_nats_py() {
    let python_path = std::env::var("MLX_TEST_PYTHONPATH")
        .expect("MLX_TEST_PYTHONPATH names a folder with nats-py; `cargo xtask test` sees to it");
    let mut times = Vec::new();
    for _ in 0..rounds() {
        let (first, second) = (ConfiguredServer::start("").await, ConfiguredServer::start("").await);
        let mut peer = Command::new("python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server_pool.py"))
            .args([url(&first), url(&second)])
            .env("PYTHONPATH", &python_path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(peer.stdout.take().unwrap()));
        let connected = lines.next().unwrap().unwrap();
        let mut both = [Some(first), Some(second)];
        let at = both.iter().position(|server| url(server.as_ref().unwrap()).contains(&connected)).unwrap();
        let killed = Instant::now();
        drop(both[at].take());
        assert_eq!(lines.next().unwrap().unwrap(), "reconnected");
        times.push(killed.elapsed());
        peer.kill().unwrap();
        peer.wait().unwrap();
    }
    times.sort();
    println!("nats-py, two servers: median {} ms of {}", times[times.len() / 2].as_millis(), times.len());
}

#[tokio::test]
async fn c7_each_server_is_shown_the_credentials_of_its_own_url() {
    let settings =
        |user: &str| format!("authorization {{ user: {user}, password: p{user} }}\ndebug: true\ntrace: true");
    let (a, b) = (ConfiguredServer::start(&settings("ann")).await, ConfiguredServer::start(&settings("bob")).await);
    let with = |user: &str, server: &ConfiguredServer| format!("nats://{user}:p{user}@{}", server.address());
    let urls = [with("ann", &a), with("bob", &b)];
    let client = Client::connect(&config(&urls)).await.unwrap();
    let (mut a, mut b) = (Some(a), Some(b));
    for _ in 0..2 {
        let connected = server_of(&client);
        let (gone, settings) = if connected.ends_with(&a.as_ref().unwrap().address().to_string()) {
            (&mut a, settings("ann"))
        } else {
            (&mut b, settings("bob"))
        };
        let listen = gone.as_ref().unwrap().address().to_string();
        drop(gone.take());
        back(&client).await;
        assert_ne!(server_of(&client), connected);
        *gone = Some(ConfiguredServer::start_at(&listen, &settings).await);
    }
    for (server, other) in [(a.unwrap(), "bob"), (b.unwrap(), "ann")] {
        assert!(!server.log().contains(other), "{}", server.log());
    }
}

#[tokio::test]
async fn a_credentials_file_that_was_renewed_is_read_at_the_next_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.creds");
    let (old, new) = (Operator::new(), Operator::new());
    std::fs::write(&file, old.credentials()).unwrap();
    let server = ConfiguredServer::start(&old.settings).await;
    let listen = server.address().to_string();
    let config = config(&[url(&server)]).credentials_file(file.clone()).reconnect_time_wait(millis(50));
    let client = Client::connect(&config).await.unwrap();
    let mut state = client.watch_state();
    drop(server);
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    std::fs::write(&file, new.credentials()).unwrap();
    let _server = ConfiguredServer::start_at(&listen, &new.settings).await;
    within("the return", state.wait_for(ConnectionState::is_connected)).await.unwrap();
}

#[tokio::test]
async fn addresses_that_servers_tell_of_are_ignored_on_request() {
    let silent = [Silent::at("127.0.0.1:0").await.unwrap()];
    let server = gossiping(&silent, -1).await;
    let config = config(&[url(&server)]).discovered_servers(DiscoveredServers::Ignore).reconnect(true);
    let client = Client::connect(&config.max_reconnect_attempts(2).reconnect_time_wait(millis(10))).await.unwrap();
    drop(server);
    let mut state = client.watch_state();
    // Two attempts at one address that refuses: were the silent one tried, it would take its time.
    within("the end", state.wait_for(ConnectionState::is_closed)).await.unwrap();
}

#[tokio::test]
async fn tls_before_the_first_line_works_by_its_key_and_the_error_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let certificate = authority.certify("localhost");
    let tls = |first: &str| {
        format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", handshake_first: {first} }}",
            certificate.file.display(),
            certificate.key_file.display()
        )
    };
    let with = |server: &ConfiguredServer, first: bool| {
        let mut config = server.config("tls", "");
        config.tls.ca_file = Some(authority.file.clone());
        config.tls.handshake_first = first;
        config
    };
    let strict = ConfiguredServer::start(&tls("true")).await;
    within("the connection", Client::connect(&with(&strict, true))).await.unwrap();
    let error = within("the refusal", Client::connect(&with(&strict, false))).await.unwrap_err();
    assert!(error.to_string().contains("nats.tls.handshakeFirst"), "{error}");
    for lenient in ["auto", "\"300ms\""] {
        let server = ConfiguredServer::start(&tls(lenient)).await;
        within("the connection", Client::connect(&with(&server, true))).await.unwrap();
        within("the connection", Client::connect(&with(&server, false))).await.unwrap();
    }
    let usual = ConfiguredServer::start(&tls("false")).await;
    let error = within("the refusal", Client::connect(&with(&usual, true))).await.unwrap_err();
    assert!(error.to_string().contains("nats.tls.handshakeFirst"), "{error}");
}

#[tokio::test]
async fn connecting_when_ready_keeps_its_limit() {
    let silent = Silent::at("127.0.0.1:0").await.unwrap();
    let config = config(&[format!("nats://127.0.0.1:{}", silent.port)]);
    let began = Instant::now();
    let limit = Duration::from_millis(200);
    let error = Client::connect_when_ready(&config, ClientOptions::default(), limit).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsConnection);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn c10_a_client_dropped_while_disconnected_leaves_no_task_however_many_attempts_it_had() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..20 {
        let server = TestServer::start().await;
        let mut config = server.config();
        config.max_reconnect_attempts = 1_000_000;
        let client = Client::connect(&config).await.unwrap();
        let mut state = client.watch_state();
        server.stop().await;
        within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
        drop((client, state));
    }
    eventually("the end of all tasks", || tasks() <= before).await;
}

#[tokio::test]
async fn c6_a_shutdown_while_disconnected_ends_subscriptions_however_many_attempts_there_are() {
    use futures_util::StreamExt;
    let server = TestServer::start().await;
    let mut config = server.config();
    config.max_reconnect_attempts = 1_000_000;
    let client = Client::connect(&config).await.unwrap();
    let mut messages = client.subscribe::<_, String>("lab.a").await.unwrap();
    let mut state = client.watch_state();
    server.stop().await;
    within("the drop", state.wait_for(|state| !state.is_connected())).await.unwrap();
    client.shutdown(LIMIT).await.unwrap();
    assert!(within("the end", messages.next()).await.is_none());
}
