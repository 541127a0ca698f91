//! From nothing to a first round trip: ours by `mlx_embedded::connect`, which starts the server and proves a client's
//! connection; the bare server by hand, watched by knocking at its port without a pause, which is as early as anyone can
//! know.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mlx_embedded::Binary;
use mlx_types::config::NatsConfig;

use crate::arm::Side;
use crate::context::Context;
use crate::sample::{Latencies, Metric, Sample};

/// A bare server that does not listen by then never will.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn drive(context: &Context) -> Result<Sample> {
    let mut latencies = Latencies::new()?;
    for _ in 0..context.work {
        latencies.record(match context.arm.side {
            Side::Bare => bare_start()?,
            _ => our_start().await?,
        });
    }
    let median = latencies.quantile(0.5);
    Ok(Sample::default().with_latencies(&latencies).with(Metric::UnitTime, median))
}

async fn our_start() -> Result<Duration> {
    let config = any_port();
    let begun = Instant::now();
    let node = mlx_embedded::connect(&config).await?;
    let took = begun.elapsed();
    node.shutdown(LIMIT).await?;
    Ok(took)
}

/// An embedded server on free ports.
pub(super) fn any_port() -> NatsConfig {
    let mut config = NatsConfig::default();
    config.embedded.port = 0;
    config.embedded.http_port = 0;
    config
}

/// From the start of the process to its first PONG.
fn bare_start() -> Result<Duration> {
    let binary = Binary::find(None)?;
    let [port, http] = free_ports()?;
    let begun = Instant::now();
    let mut process = Command::new(binary.path)
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-m", &http.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run nats-server")?;
    let answered = first_pong(&mut process, port, begun);
    process.kill().context("the bare server is gone")?;
    process.wait()?;
    answered
}

fn first_pong(process: &mut Child, port: u16, begun: Instant) -> Result<Duration> {
    let stream = loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            break stream;
        }
        if let Some(status) = process.try_wait()? {
            bail!("the bare server ended with {status}");
        }
        ensure!(begun.elapsed() < LIMIT, "the bare server never listens");
        std::thread::sleep(Duration::from_micros(100)); // between two knocks
    };
    (&stream).write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    for line in BufReader::new(&stream).lines() {
        if line? == "PONG" {
            return Ok(begun.elapsed());
        }
    }
    bail!("the bare server hung up")
}

/// Free a moment ago; good enough for a measurement.
fn free_ports() -> Result<[u16; 2]> {
    let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [one, other] = &held;
    Ok([one.local_addr()?.port(), other.local_addr()?.port()])
}
