//! nats-server started by hand, to measure against.

mod settings_file;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlx_embedded::{Binary, EmbeddedServer};
use mlx_types::config::NatsConfig;
use settings_file::settings_file;

/// From the start of the process to its first PONG, looking without a pause.
pub(crate) fn bare_start() -> Duration {
    let [port, http] = free_ports();
    let arguments = ["-a", "127.0.0.1", "-p", &port.to_string(), "-m", &http.to_string()].map(str::to_owned);
    first_pong(&arguments, port, "{\"verbose\":false}")
}

/// [`bare_start`] with every setting that [`EmbeddedServer`] gives its server for `config`, and its credentials shown.
pub(crate) fn bare_start_alike(settings: &str, config: &NatsConfig, folder: &Path) -> Duration {
    let [port, http] = free_ports();
    let own_port = |line: &str| match line.split_once(": ") {
        Some(("port", _)) => format!("port: {port}"),
        Some(("http", _)) => format!("http: \"127.0.0.1:{http}\""),
        Some(("ports_file_dir", _)) => String::new(),
        _ => line.to_owned(),
    };
    let file = folder.join("nats-server.conf");
    let text: Vec<String> = settings.lines().map(own_port).collect();
    std::fs::write(&file, text.join("\n")).expect("a folder");
    let connect = serde_json::json!({
        "verbose": false,
        "user": config.user,
        "pass": config.password.as_ref().map(mlx_types::Secret::expose),
    });
    first_pong(&["-c".to_owned(), file.display().to_string()], port, &connect.to_string())
}

fn first_pong(arguments: &[String], port: u16, connect: &str) -> Duration {
    let binary = Binary::find(None).expect("a nats-server");
    let begun = Instant::now();
    let mut process = Command::new(binary.path).args(arguments).stderr(Stdio::null()).spawn().expect("it starts");
    let stream = loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            break stream;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it never listens");
        std::thread::sleep(Duration::from_micros(100)); // between two attempts to connect
    };
    write!(&stream, "CONNECT {connect}\r\nPING\r\n").expect("it reads");
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

/// What three ways of starting take, by their medians.
pub(crate) struct Medians {
    pub(crate) bare: Duration,
    pub(crate) bare_alike: Duration,
    pub(crate) embedded: Duration,
}

/// The medians over `rounds`, taken in turns, so that what else the machine does disturbs all alike.
pub(crate) async fn medians(config: &NatsConfig, rounds: usize) -> Medians {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings_file(&EmbeddedServer::start(config).await.expect("it starts"));
    let (mut bare, mut alike, mut embedded) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(bare_start());
        alike.push(bare_start_alike(&settings, config, folder.path()));
        embedded.push(embedded_start(config).await);
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[rounds / 2]
    };
    Medians { bare: median(bare), bare_alike: median(alike), embedded: median(embedded) }
}

/// Free a moment ago; good enough for a measurement.
fn free_ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("bound").port())
}
