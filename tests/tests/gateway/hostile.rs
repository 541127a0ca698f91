//! Slow, half and hostile clients beside good ones: what the good ones see of them, and what they cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_tests::within;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::GatewayProcess;

/// Hostile connections at a time.
const HOSTILE: usize = 200;
/// Good streams beside them.
const GOOD: usize = 20;
/// How long; a longer run is asked for by `MLX_TEST_HOSTILE_SECONDS`.
const SECONDS: u64 = 10;
/// Tokens that all good clients together have between two bytes of a slow one: a fifth of a second.
const SLOW: u64 = 80;
/// The same, for which a hostile connection stays when it has said all that it had to.
const STAYS: u64 = 2_000;
/// Tokens of the stand-in in a second, each stream.
const PACE: u32 = 20;
/// More than a good client waits for a token that is due 20 times a second, on a machine that does all of this at once.
const STALL: Duration = Duration::from_secs(3);
/// What the gateway may grow by, in KiB: the room that all bodies share (128 MiB), 64 KiB of each that are free of it, the buffers of as
/// many connections, and what the allocator keeps of those that are gone.
const GROWTH: u64 = 256 * 1024;

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

/// The tokens that all good clients have had. What is slow counts by them, and so has no clock of its own.
#[derive(Clone)]
struct Pace {
    tokens: Arc<watch::Sender<u64>>,
    until: Instant,
}

impl Pace {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Returns when the good clients have had so many tokens more; `false` once the time is over.
    async fn pause(&self, tokens: u64) -> bool {
        let mut seen = self.tokens.subscribe();
        let end = *seen.borrow() + tokens;
        timeout(self.left(), seen.wait_for(|count| *count >= end)).await.is_ok()
    }
}

/// Writes a byte now and then, until the server has enough of it.
async fn dribble(connection: &mut TcpStream, bytes: &[u8], pace: &Pace) {
    for byte in bytes.iter().cycle() {
        if connection.write_all(&[*byte]).await.is_err() || !pace.pause(SLOW).await {
            return;
        }
    }
}

/// One connection of a kind that does harm to careless servers, until the server ends it or the time is over.
async fn misbehave(address: String, kind: usize, pace: &Pace) {
    let Ok(mut connection) = TcpStream::connect(&address).await else { return };
    let begin = |path: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{more}\r\n\r\n")
    };
    let said = match kind % 9 {
        // Half a head, and a head without end.
        0 => "POST /v1/chat/completions HTTP/1.1\r\nhost: 127".to_owned(),
        1 => return dribble(&mut connection, b"x-header: and another one\r\n", pace).await,
        // Half a body, one that comes a byte at a time, and one that is said to have no end.
        2 => request(&chat(true, 50)).split_at(250).0.to_owned(),
        3 => {
            let head = begin("/v1/completions", "content-length: 9999999");
            drop(connection.write_all(head.as_bytes()).await);
            return dribble(&mut connection, b" ", pace).await;
        }
        4 => {
            let head = begin("/v1/completions", "transfer-encoding: chunked");
            drop(connection.write_all(head.as_bytes()).await);
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(65_536));
            while !pace.left().is_zero() && connection.write_all(chunk.as_bytes()).await.is_ok() {}
            String::new()
        }
        // A stream that nobody reads, and many requests at once, none of whose answers is read.
        5 => request(&chat(true, 20_000)),
        6 => "GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".repeat(5_000),
        // What is no HTTP, and a header without bounds.
        7 => "\u{16}\u{3}\u{1}\0\r\n\r\n".to_owned(),
        _ => format!("GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx: {}\r\n\r\n", "y".repeat(4 << 20)),
    };
    drop(timeout(pace.left(), connection.write_all(said.as_bytes())).await);
    // It stays for a time, without a word, and without reading one.
    pace.pause(STAYS).await;
}

/// The longest wait between two tokens of a good stream, which has to come to its end.
async fn behave(address: String, tokens: &watch::Sender<u64>) -> Duration {
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
            tokens.send_modify(|count| *count += 1);
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
    let tokens = Arc::new(watch::Sender::new(0));
    behave(address.clone(), &tokens).await;
    let before = gateway.memory();
    let until = Instant::now() + Duration::from_secs(seconds);
    let pace = Pace { tokens: Arc::clone(&tokens), until };

    let mut hostile = JoinSet::new();
    for place in 0..HOSTILE {
        let (address, pace) = (address.clone(), pace.clone());
        hostile.spawn(async move {
            let mut kind = place;
            while !pace.left().is_zero() {
                misbehave(address.clone(), kind, &pace).await;
                kind += 1;
            }
        });
    }
    let mut good = JoinSet::new();
    for _ in 0..GOOD {
        let (address, tokens) = (address.clone(), Arc::clone(&tokens));
        good.spawn(async move {
            let (mut longest, mut answers) = (Duration::ZERO, 0);
            while Instant::now() < until {
                longest = longest.max(behave(address.clone(), &tokens).await);
                answers += 1;
            }
            (longest, answers)
        });
    }
    let mut most = before;
    let (mut longest, mut answers) = (Duration::ZERO, 0);
    let mut seen = tokens.subscribe();
    loop {
        tokio::select! {
            ended = good.join_next() => match ended {
                Some(ended) => {
                    let (waited, answered) = ended.unwrap();
                    (longest, answers) = (longest.max(waited), answers + answered);
                }
                None => break,
            },
            Ok(()) = seen.changed() => most = most.max(gateway.memory()),
        }
    }
    drop(hostile);
    println!("{answers} good answers, {longest:?} the longest wait, {before} KiB before, {most} KiB at the most");
    assert!(longest < STALL, "a good stream waited for {longest:?}");
    assert!(most < before + GROWTH, "{before} KiB before, {most} KiB at the most");
    // And it serves as before.
    let mut connection = TcpStream::connect(&address).await.unwrap();
    connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut health = String::new();
    within("a page", connection.read_to_string(&mut health)).await.unwrap();
    assert!(health.starts_with("HTTP/1.0 200") || health.starts_with("HTTP/1.1 200"), "{health}");
}
