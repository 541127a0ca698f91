//! What is measured: a workload, done by one side, so many at a time.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::sample::Sample;

/// Tokens of a stream.
pub const TOKENS: u64 = 256;

/// One thing to measure. The same arm may serve several rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arm {
    /// What is done.
    pub workload: Workload,
    /// Who does it.
    pub side: Side,
    /// How many at a time: requests in flight, streams, workers, subscriptions; bytes for payloads.
    pub count: u64,
}

impl Arm {
    /// An arm.
    pub const fn new(workload: Workload, side: Side, count: u64) -> Self {
        Self { workload, side, count }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.workload, self.side, self.count)
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Publish a heartbeat, wait until it has come back on a second connection, and again.
    PublishLatency,
    /// The same with inference requests whose prompts have so many bytes.
    Payloads,
    /// Health checks and their answers, so many in flight.
    Requests,
    /// Heartbeats as fast as they go, from so many workers to one subscriber.
    Heartbeats,
    /// So many token streams of 256 tokens at a time, each begun again when it ends.
    Streams,
    /// The first token of a request every 10 ms, beside so many token streams.
    FirstToken,
    /// So many subscriptions made, and one message through each.
    Subscriptions,
    /// From nothing to a server that has answered.
    StartUp,
    /// From a server that is back to a client that can publish again.
    Reconnection,
    /// Resident memory of a process that does nothing.
    IdleMemory,
    /// Whole answers of 32 tokens over HTTP, to so many clients.
    GatewayWhole,
    /// The same, streamed.
    GatewayStream,
    /// The default configuration file, loaded.
    Configuration,
    /// Log lines.
    LogLines,
    /// A heartbeat decoded, and checked or not.
    Validation,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// This workspace, as configured by default.
    Ours,
    /// This workspace, one token a message.
    OursPlain,
    /// async-nats with serde, or what else one would take instead of ours.
    Raw,
    /// Nothing: what is there before anybody does anything.
    Bare,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

/// The name on the command line, which is also that in files.
fn write_name(value: &impl ValueEnum, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match value.to_possible_value() {
        Some(name) => f.pad(name.get_name()),
        None => Ok(()),
    }
}

/// How much is done in one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Enough to count what crosses the wire, and no more.
    Tiny,
    /// A fraction of a second.
    Quick,
    /// A second or so.
    Full,
}

impl Workload {
    /// Units of work for `count` at a time: messages, requests, tokens, subscriptions, starts.
    pub fn work(self, count: u64, size: Size) -> u64 {
        let (tiny, quick, full) = match self {
            Self::PublishLatency | Self::Payloads => (20, 2_000, 6_000),
            Self::Requests if count == 1 => (20, 1_500, 4_000),
            Self::Requests => (4 * count, 40_000, 40_000),
            Self::Heartbeats => (1_000, 150_000, 400_000),
            Self::Streams => {
                // Whole streams, the same number for each place, and about as many tokens for any count.
                let streams = |tokens: u64| (tokens / TOKENS / count).max(1) * count * TOKENS;
                (streams(1), streams(200_000), streams(600_000))
            }
            Self::FirstToken => (3, 60, 200),
            Self::Subscriptions => (count, count, count),
            Self::StartUp => (1, 9, 15),
            Self::Reconnection => (1, 2, 4),
            Self::IdleMemory => (1, 1, 1),
            Self::GatewayWhole | Self::GatewayStream => (2 * count, 400 * count, 1_000 * count),
            Self::Configuration => (2, 200, 1_000),
            Self::LogLines | Self::Validation => (10, 100_000, 400_000),
        };
        match size {
            Size::Tiny => tiny,
            Size::Quick => quick,
            Size::Full => full,
        }
    }

    /// Whether a second process has the other end: a controller and its workers are never one process.
    pub fn has_responder(self) -> bool {
        matches!(self, Self::Requests | Self::Heartbeats | Self::Streams | Self::FirstToken)
    }
}

/// The samples of each arm, in the order of the rounds.
pub type Samples = BTreeMap<Arm, Vec<Sample>>;
