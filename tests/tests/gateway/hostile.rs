//! Slow, half and hostile clients beside good ones: what the good ones see of them, and what they cost.

use std::time::{Duration, Instant};

use mlx_tests::within;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::GatewayProcess;

/// Hostile connections at a time.
const HOSTILE: usize = 200;
/// Good streams beside them.
const GOOD: usize = 20;
/// How long; a longer run is asked for by `MLX_TEST_HOSTILE_SECONDS`.
const SECONDS: u64 = 10;
/// Tokens of the stand-in in a second, each stream.
const PACE: u32 = 20;
/// More than a good client waits for a token that is due 20 times a second, on a machine that does all of this at once.
const STALL: Duration = Duration::from_secs(3);
/// What the gateway may grow by, in KiB: the room that all bodies share, 64 KiB of each that are free of it, and the buffers of as many
/// connections.
const GROWTH: u64 = 192 * 1024;

fn chat(stream: bool, words: usize) -> String {
    let message = json!({ "role": "user", "content": "word ".repeat(words) });
    json!({ "model": "stand-in", "stream": stream, "messages": [message] }).to_string()
}

fn request(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// One connection of a kind that does harm to careless servers, until the server ends it or `until`.
async fn misbehave(address: String, kind: usize, until: Instant) {
    let left = || until.saturating_duration_since(Instant::now());
    let Ok(mut connection) = TcpStream::connect(&address).await else { return };
    let mut dribble = async |bytes: &[u8]| {
        for byte in bytes.iter().cycle() {
            if connection.write_all(&[*byte]).await.is_err() || left().is_zero() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await; // slowness is what it is about
        }
    };
    match kind % 9 {
        // Half a head, and a head without end.
        0 => drop(connection.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127").await),
        1 => return dribble(b"x-header: and another one\r\n").await,
        // Half a body, one that comes a byte at a time, and one that is said to have no end.
        2 => drop(connection.write_all(request(&chat(true, 50)).split_at(250).0.as_bytes()).await),
        3 => {
            let head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9999999\r\n\r\n";
            drop(connection.write_all(head.as_bytes()).await);
            let mut connection = connection;
            while !left().is_zero() && connection.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await; // as above
            }
            return;
        }
        4 => {
            let head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            drop(connection.write_all(head.as_bytes()).await);
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(65_536));
            while !left().is_zero() && connection.write_all(chunk.as_bytes()).await.is_ok() {}
        }
        // A stream that nobody reads.
        5 => drop(connection.write_all(request(&chat(true, 20_000)).as_bytes()).await),
        // Many requests at once, none of whose answers is read.
        6 => {
            let page = "GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".repeat(5_000);
            drop(tokio::time::timeout(left(), connection.write_all(page.as_bytes())).await);
        }
        // What is no HTTP, and a header without bounds.
        7 => drop(connection.write_all(&[0x16, 0x03, 0x01, 0xff, 0x00, b'\r', b'\n', b'\r', b'\n']).await),
        _ => {
            let head = format!("GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx: {}\r\n\r\n", "y".repeat(4 << 20));
            drop(tokio::time::timeout(left(), connection.write_all(head.as_bytes())).await);
        }
    }
    // It stays for as long as it may, without a word, and without reading one.
    let mut one = [0; 1];
    drop(tokio::time::timeout(left(), connection.peek(&mut one)).await);
    tokio::time::sleep(left().min(Duration::from_secs(5))).await; // as above
}

/// The longest wait between two tokens of a good stream, which has to come to its end.
async fn behave(address: String) -> Duration {
    let mut connection = TcpStream::connect(&address).await.unwrap();
    connection.write_all(request(&chat(true, 20)).as_bytes()).await.unwrap();
    let mut lines = BufReader::new(connection).lines();
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let mut seen = Vec::new();
    loop {
        let line = within("a good client's line", lines.next_line()).await.unwrap();
        let line = line.unwrap_or_else(|| panic!("a good stream was cut: {seen:?}"));
        if line.contains("[DONE]") {
            return longest;
        }
        if line.starts_with("data: ") {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        seen.push(line);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_slow_half_and_hostile_clients_harm_no_good_one_and_cost_a_bounded_memory() {
    let seconds = std::env::var("MLX_TEST_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let places = [("MLX_WORKER__MAX_CONCURRENT", "200")];
    let gateway = GatewayProcess::start(2, &["--tokens-per-second", &PACE.to_string()], &places).await;
    let address = gateway.address().to_owned();
    behave(address.clone()).await;
    let before = gateway.memory();
    let until = Instant::now() + Duration::from_secs(seconds);

    let mut hostile = JoinSet::new();
    for place in 0..HOSTILE {
        let address = address.clone();
        hostile.spawn(async move {
            let mut kind = place;
            while Instant::now() < until {
                misbehave(address.clone(), kind, until).await;
                kind += 1;
            }
        });
    }
    let mut good = JoinSet::new();
    for _ in 0..GOOD {
        let address = address.clone();
        good.spawn(async move {
            let (mut longest, mut answers) = (Duration::ZERO, 0);
            while Instant::now() < until {
                longest = longest.max(behave(address.clone()).await);
                answers += 1;
            }
            (longest, answers)
        });
    }
    let mut most = before;
    let (mut longest, mut answers) = (Duration::ZERO, 0);
    loop {
        tokio::select! {
            ended = good.join_next() => match ended {
                Some(ended) => {
                    let (waited, answered) = ended.unwrap();
                    (longest, answers) = (longest.max(waited), answers + answered);
                }
                None => break,
            },
            () = tokio::time::sleep(Duration::from_millis(250)) => most = most.max(gateway.memory()), // between two readings
        }
    }
    drop(hostile);
    println!("{answers} good answers, {longest:?} the longest wait, {before} KiB before, {most} KiB at the most");
    assert!(longest < STALL, "a good stream waited for {longest:?}");
    assert!(most < before + GROWTH, "{before} KiB before, {most} KiB at the most");
    // And it serves as before.
    let mut connection = TcpStream::connect(&address).await.unwrap();
    connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    within("a page", connection.read_to_string(&mut page)).await.unwrap();
    assert!(page.starts_with("HTTP/1.0 200") || page.starts_with("HTTP/1.1 200"), "{page}");
}
