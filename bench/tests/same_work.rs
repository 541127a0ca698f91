//! Both sides of each row do the same work: counted by the server, not by us.
//!
//! What a connection costs once (its probes, its confirmations) is no part of a measurement. So each arm is run twice, and
//! what it sends for its additional units is compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use mlx_bench::arm::TOKENS;
use mlx_bench::arm::{Arm, Side, Workload};
use mlx_bench::part::measure;
use mlx_bench::run::start_server;
use mlx_embedded::EmbeddedServer;

/// What the server counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    in_messages: u64,
    in_bytes: u64,
    out_messages: u64,
    out_bytes: u64,
}

impl Counts {
    async fn of(server: &EmbeddedServer) -> Self {
        let stats = server.varz().await.unwrap();
        Self {
            in_messages: stats.in_msgs,
            in_bytes: stats.in_bytes,
            out_messages: stats.out_msgs,
            out_bytes: stats.out_bytes,
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            in_messages: self.in_messages - earlier.in_messages,
            in_bytes: self.in_bytes - earlier.in_bytes,
            out_messages: self.out_messages - earlier.out_messages,
            out_bytes: self.out_bytes - earlier.out_bytes,
        }
    }
}

/// What `arm` sends and receives for `more` units more than `few`; both must be warmed up alike.
async fn for_more(arm: Arm, [few, more]: [u64; 2]) -> Counts {
    let program = Path::new(env!("CARGO_BIN_EXE_mlx-bench"));
    let mut counts = Vec::new();
    for work in [few, few + more] {
        let server = start_server().await.unwrap();
        let before = Counts::of(&server).await;
        measure(program, &server, arm, work).await.unwrap();
        counts.push(Counts::of(&server).await.since(before));
    }
    counts[1].since(counts[0])
}

/// `units` of `workload`, by each of `sides`.
async fn by_side(workload: Workload, count: u64, sides: &[Side], units: [u64; 2]) -> BTreeMap<Side, Counts> {
    let mut counts = BTreeMap::new();
    for side in sides {
        counts.insert(*side, for_more(Arm::new(workload, *side, count), units).await);
    }
    counts
}

#[tokio::test]
async fn a_heartbeat_in_flight_is_the_same_message_on_either_side() {
    let counts = by_side(Workload::PublishLatency, 1, &[Side::Ours, Side::Raw], [10, 50]).await;
    assert_eq!(counts[&Side::Ours], counts[&Side::Raw]);
    assert!(counts[&Side::Raw].in_messages >= 50, "{counts:?}");
}

#[tokio::test]
async fn a_long_prompt_is_the_same_message_on_either_side() {
    let counts = by_side(Workload::Payloads, 1_000, &[Side::Ours, Side::Raw], [10, 50]).await;
    assert_eq!(counts[&Side::Ours], counts[&Side::Raw]);
    assert!(counts[&Side::Raw].in_bytes >= 50 * 1_000, "{counts:?}");
}

#[tokio::test]
async fn a_request_is_one_message_each_way_on_either_side() {
    for in_flight in [1, 4] {
        let counts = by_side(Workload::Requests, in_flight, &[Side::Ours, Side::Raw], [20, 80]).await;
        assert_eq!(counts[&Side::Ours], counts[&Side::Raw], "{in_flight} in flight");
        assert!(counts[&Side::Raw].in_messages >= 2 * 80, "{counts:?}");
    }
}

#[tokio::test]
async fn a_flood_of_heartbeats_is_the_same_messages_on_either_side() {
    for workers in [1, 3] {
        let counts = by_side(Workload::Heartbeats, workers, &[Side::Ours, Side::Raw], [100, 500]).await;
        assert_eq!(counts[&Side::Ours], counts[&Side::Raw], "{workers} workers");
        assert!(counts[&Side::Raw].in_messages >= 500, "{counts:?}");
    }
}

#[tokio::test]
async fn a_token_stream_is_the_same_messages_on_either_side() {
    let (places, streams) = (2, 4);
    let sides = [Side::Ours, Side::OursPlain, Side::Raw];
    let counts = by_side(Workload::Streams, places, &sides, [places * TOKENS, streams * TOKENS]).await;
    let [coalesced, plain, raw] = sides.map(|side| counts[&side]);
    // Ours makes sure that the end of each stream has arrived, by an empty message to itself.
    assert_eq!(plain.in_messages, raw.in_messages + streams);
    assert_eq!(plain.out_messages, raw.out_messages + streams);
    // The request, the acceptance, a frame a token, the end.
    assert_eq!(raw.in_messages, streams * (TOKENS + 3));
    // The end says how long the stream took: a number of up to 20 digits.
    assert!(plain.in_bytes.abs_diff(raw.in_bytes) <= streams * 20, "{plain:?} {raw:?}");
    assert!(plain.out_bytes.abs_diff(raw.out_bytes) <= streams * 20, "{plain:?} {raw:?}");
    // What a peer saves that takes several tokens in a frame is the point of it; how much depends on the machine.
    assert!(coalesced.in_messages < raw.in_messages, "{coalesced:?} {raw:?}");
}
