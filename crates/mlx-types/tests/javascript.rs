//! Thousands of messages, whole and broken, with the verdict of the TypeScript nodes' own schemas: ours is the same, except for
//! the classes that `docs/wire-protocol.md` lists as stricter.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::io::Read;

use data_encoding::BASE64;
use flate2::read::GzDecoder;
use mlx_types::messages::{self, InferenceRequest, Message, StreamingResponse, WorkerHeartbeat, WorkerRegistration};
use serde_json::Value;

const MESSAGES: &[u8] = include_bytes!("data/messages.jsonl.gz");

/// What they take and we refuse, by the name of the mutation: each is a line of `docs/wire-protocol.md`.
const STRICTER: [&str; 11] = [
    "2^64",
    "1e21",
    "1e300",
    "1e400",
    "ip6-zone",
    "ip6-v4-leadzero",
    "addition",
    "str-bad-utf8",
    "str-cesu8",
    "str-cut-utf8",
    "str-overlong",
];

/// What we take and they refuse: `null` for what may be left out, an answer without tokens, an IPv6 address that ends in an IPv4
/// one.
const WIDER: [&str; 5] = ["null", "duplicate-null-last", "zero", "minus-zero", "ip6-v4-full"];

fn verdict<M: Message>(json: &[u8]) -> Result<(), String> {
    let message: M = messages::from_json(json).map_err(|error| error.to_string())?;
    message.check().map_err(|violations| violations.to_string())
}

#[test]
fn messages_of_typescript_nodes_are_read_as_they_read_them() {
    let mut text = String::new();
    GzDecoder::new(MESSAGES).read_to_string(&mut text).unwrap();
    let (mut agreed, mut stricter, mut wider, mut others) = (0_u32, 0_u32, 0_u32, 0_u32);
    let mut disagreed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let json = BASE64.decode(row["json_base64"].as_str().unwrap().as_bytes()).unwrap();
        let ours = match row["type"].as_str().unwrap() {
            WorkerRegistration::NAME => verdict::<WorkerRegistration>(&json),
            WorkerHeartbeat::NAME => verdict::<WorkerHeartbeat>(&json),
            InferenceRequest::NAME => verdict::<InferenceRequest>(&json),
            StreamingResponse::NAME => verdict::<StreamingResponse>(&json),
            other => panic!("{other} is no message"),
        };
        let theirs = row["typescript_accepts"].as_bool().unwrap();
        let class = row["class"].as_str().unwrap();
        // `done:` and its like say the kind of the frame.
        let mutation = class.rsplit(':').next().unwrap();
        if ours.is_ok() == theirs {
            agreed += 1;
        } else if theirs && STRICTER.iter().any(|known| mutation.starts_with(known)) {
            stricter += 1;
        } else if !theirs && WIDER.contains(&mutation) {
            wider += 1;
        } else {
            others += 1;
            let shown = String::from_utf8_lossy(&json).chars().take(300).collect::<String>();
            let told = format!("{} {}: theirs {theirs}, ours {ours:?}: {shown}", row["type"], row["path"]);
            disagreed.entry(class.to_owned()).or_default().push(told);
        }
    }
    let all = agreed + stricter + wider + others;
    for (class, rows) in &disagreed {
        println!("{class}: {} times, for example {}", rows.len(), rows[0]);
    }
    let share = f64::from(agreed) / f64::from(agreed + others) * 100.0;
    println!(
        "{all} messages: {agreed} read alike, {stricter} in classes that are stricter, {wider} in wider ones, {others} otherwise: {share:.2} %"
    );
    assert!(share >= 99.5, "{share:.2} %");
}
