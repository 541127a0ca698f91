//! Secrets in thousands of malformed documents, in every position where one can be: none is ever shown.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use mlx_config::Loader;
use mlx_errors::report;

const CANARY: &str = "CANARY";
const DOCUMENTS: u64 = 4_000;

/// Lines of a document with a secret in each, at the indentation of a section's keys.
const SECRETS: [&str; 44] = [
    "  password: CANARY",
    "  token: CANARY",
    "  password: \"CANARY\"",
    "  password: 'pass CANARY'",
    "  password: \"CANARY",
    "  password CANARY",
    "  password:CANARY",
    "  password: [CANARY]",
    "  password: {a: CANARY}",
    "  password: a CANARY # more",
    "  password: |\n    CANARY\n  user: me",
    "  password: >-\n   first\n   CANARY\n",
    "  password:\n    CANARY",
    "  password:\n    - CANARY\n    - x",
    "  password: \"first\n CANARY\"",
    "  password: first\n    CANARY: x",
    "  pasword: CANARY",
    "  passwd: CANARY",
    "  pass: CANARY",
    "  pwd: CANARY",
    "  secret: CANARY",
    "  apiKey: CANARY",
    "  api_key: CANARY",
    "  authToken: CANARY",
    "  credentials: {user: a, password: CANARY}",
    "  credentials:\n    - CANARY",
    "  tokens: [CANARY, CANARY]",
    "  serverUrl: nats://me:CANARY@host",
    "  serverUrl: nats://CANARY@host:99999",
    "  serverUrl: me:CANARY@127.0.0.1:4222",
    "  serverUrl: nats:/me:CANARY@host",
    "  serverUrl: \"nats://me:pass CANARY@host\"",
    "  serverUrl: nats://me:CANARY/x@host",
    "  serverUrl: 'nats://me:CANARY\"@host'",
    "  serverUrl: nats://me:CANARY",
    "  url: me:CANARY@host",
    "  servers: [nats://a, 'me:CANARY@b', nats://me:CANARY@c]",
    "  servers:\n    - me:CANARY@host\n    - nats:/me:CANARY@host",
    "  tls: {caFile: x, password: CANARY}",
    "  reconnect: perhaps # the password is CANARY",
    "  # CANARY\n  reconnect: perhaps",
    "  ? password\n  : CANARY",
    "  \"pass\\u0077ord\": CANARY",
    "  me:CANARY@host: 1",
];

/// What else stands in a section, some of it wrong.
const OTHERS: [&str; 10] = [
    "  mode: external",
    "  mode: dual",
    "  user: me",
    "  reconnect: perhaps",
    "  pingIntervalMs: 10s",
    "  embedded: {port: 80}",
    "  embedded:\n    prot: 4222",
    "  requestTimeoutMs: -1",
    "  unknown: 1",
    "",
];

/// A sequence that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

fn document(dice: &mut Dice) -> String {
    let mut lines = vec!["nats:".to_owned()];
    for _ in 0..=dice.roll(3) {
        lines.push(OTHERS[dice.roll(OTHERS.len())].to_owned());
        lines.push(SECRETS[dice.roll(SECRETS.len())].to_owned());
    }
    lines.push(OTHERS[dice.roll(OTHERS.len())].to_owned());
    if dice.roll(8) == 0 {
        lines.remove(0);
    }
    lines.join("\n") + "\nmode: both\n"
}

/// What hands and editors do to a document.
fn spoil(text: &str, dice: &mut Dice) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let at = dice.roll(chars.len().max(1));
    if chars.is_empty() {
        return String::new();
    }
    match dice.roll(12) {
        0 => drop(chars.remove(at)),
        1 => chars.insert(at, '"'),
        2 => chars.insert(at, '\''),
        3 => chars.insert(at, '\t'),
        4 => chars.insert(at, '\n'),
        5 => chars.insert(at, ':'),
        6 => chars.insert(at, '{'),
        7 => chars.insert(at, ']'),
        8 => chars.truncate(at),
        9 => return text.replace('\n', "\r"),
        10 => return text.replace("\n  ", "\n").replacen("nats:", "nats: {", 1),
        _ => return format!("{}{}", text.replace(": ", ":  "), "x: [1, 2"),
    }
    chars.into_iter().collect()
}

#[test]
fn x1_no_secret_is_drawn_whatever_is_wrong_with_the_document() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (mut refused, mut shown) = (0, 0);
    for number in 0..DOCUMENTS {
        let mut text = document(&mut dice);
        for _ in 0..dice.roll(3) {
            text = spoil(&text, &mut dice);
        }
        let loader = Loader::new().text("cluster.yaml", text.clone()).without_env();
        let Err(error) = loader.load() else { continue };
        refused += 1;
        let said = format!("{}\n{error}\n{error:?}\n{:#}", loader.draw(&error, number % 2 == 0), report(&error));
        assert!(!said.contains(CANARY), "document {number}:\n{text}\n--- is said to be:\n{said}");
        shown += usize::from(said.contains("cluster.yaml:"));
    }
    assert!(refused * 10 > DOCUMENTS * 9, "only {refused} are malformed");
    println!("{refused} malformed documents, {shown} with a place");
}
