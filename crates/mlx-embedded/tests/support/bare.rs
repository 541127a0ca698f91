//! nats-server started by hand, to measure against.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlx_embedded::{Binary, EmbeddedServer};
use mlx_types::config::NatsConfig;

/// From the start of the process to its first PONG, looking without a pause.
pub(crate) fn bare_start() -> Duration {
    let binary = Binary::find(None).expect("a nats-server");
    let [port, http] = free_ports();
    let begun = Instant::now();
    let mut process = Command::new(binary.path)
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-m", &http.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let stream = loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            break stream;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it never listens");
        std::thread::sleep(Duration::from_micros(100)); // between two attempts to connect
    };
    (&stream).write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").expect("it reads");
    let answered = BufReader::new(&stream).lines().any(|line| line.expect("it answers") == "PONG");
    let took = begun.elapsed();
    process.kill().expect("it is there to be killed");
    process.wait().expect("it ends");
    assert!(answered);
    took
}

/// From `start` to a server that has answered its first PING.
pub(crate) async fn embedded_start(config: &NatsConfig) -> Duration {
    let begun = Instant::now();
    let server = EmbeddedServer::start(config).await.expect("it starts");
    let took = begun.elapsed();
    drop(server);
    took
}

/// The medians of both over `rounds`, taken in turns, so that what else the machine does disturbs both alike.
pub(crate) async fn medians(config: &NatsConfig, rounds: usize) -> (Duration, Duration) {
    let (mut bare, mut embedded) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(bare_start());
        embedded.push(embedded_start(config).await);
    }
    bare.sort();
    embedded.sort();
    (bare[rounds / 2], embedded[rounds / 2])
}

/// Free a moment ago; good enough for a measurement.
fn free_ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("bound").port())
}
