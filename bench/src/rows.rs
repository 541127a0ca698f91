//! Every row of the table, and every curve: what is compared with what, and what it has to reach.

mod first_token;
mod gateway;
mod heartbeats;
mod idle_memory;
mod local;
mod publish_latency;
mod raw;
mod reconnection;
mod requests;
mod start_up;
mod streams;
mod subscriptions;

use anyhow::Result;

use crate::arm::Side::{Bare, Ours, OursPlain, Raw};
use crate::arm::Workload::{
    Configuration, FirstToken, GatewayStream, GatewayWhole, Heartbeats, IdleMemory, LogLines, Payloads, PublishLatency,
    Reconnection, Requests, StartUp, Streams, Subscriptions, Validation,
};
use crate::arm::{Arm, Side, Size, Workload};
use crate::context::Context;
use crate::sample::{Metric, Sample};
use crate::stats::Relation;
use crate::verdict::{Better, Target};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What it is called on the command line and in files.
    pub id: &'static str,
    /// What it measures.
    pub title: &'static str,
    /// What is judged.
    pub subject: Arm,
    /// What it is compared with.
    pub reference: Arm,
    /// By which figure.
    pub metric: Metric,
    /// How.
    pub relation: Relation,
    /// Which way is good.
    pub better: Better,
    /// What it has to reach; a row without is for information.
    pub target: Option<Target>,
}

/// Cost against count: a step that is worse than linear is seen.
#[derive(Clone, Copy, Debug)]
pub struct Curve {
    /// What it is called in files.
    pub id: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// What is done.
    pub workload: Workload,
    /// By whom.
    pub sides: &'static [Side],
    /// How many at a time.
    pub counts: &'static [u64],
    /// The figure.
    pub metric: Metric,
}

/// Every row: first the judged ones, then those for information.
pub fn rows(size: Size) -> Vec<Row> {
    let (streams, subscriptions) = match size {
        Size::Tiny => ([1, 100], [10, 1_000]),
        Size::Quick => ([10, 1_000], [100, 10_000]),
        Size::Full => ([10, 1_000], [1_000, 100_000]),
    };
    vec![
        judged("publish-latency", "publish/subscribe, one in flight, p50", PublishLatency, 1, Metric::P50, 1.05, 0.95),
        judged("request-latency", "request/reply, one in flight, p50", Requests, 1, Metric::P50, 1.05, 0.85),
        judged("heartbeats", "heartbeats, one publisher, one subscriber", Heartbeats, 1, Metric::Rate, 0.95, 1.3),
        judged("requests", "request/reply, 64 in flight", Requests, 64, Metric::Rate, 1.0, 1.6),
        Row {
            subject: Arm::new(Streams, OursPlain, 32),
            ..judged("streams", "32 streams, one token a message, tokens", Streams, 32, Metric::Rate, 0.95, 1.15)
        },
        judged("streams-coalesced", "32 streams, coalescing peer, tokens", Streams, 32, Metric::Rate, 4.0, 6.0),
        judged("first-token", "first token beside 32 streams, p50", FirstToken, 32, Metric::P50, 0.7, 0.3),
        judged("heartbeat-cpu", "clients' CPU for a heartbeat", Heartbeats, 1, Metric::ClientCpu, 1.1, 0.8),
        Row {
            reference: Arm::new(StartUp, Bare, 1),
            ..judged(
                "start-up",
                "start-up to first round trip, to the bare server's",
                StartUp,
                1,
                Metric::UnitTime,
                1.5,
                1.2,
            )
        },
        Row {
            reference: Arm::new(IdleMemory, Bare, 1),
            relation: Relation::Difference,
            ..judged(
                "idle-memory",
                "memory of an idle client, above bare tokio",
                IdleMemory,
                1,
                Metric::Memory,
                4.0,
                2.0,
            )
        },
        added("gateway-whole", "an answer through the gateway, added to the model server's, p50", GatewayWhole, 1),
        added("gateway-stream", "the same, streamed", GatewayStream, 1),
        added("gateway-whole-8", "an answer through the gateway, 8 clients, added, p50", GatewayWhole, 8),
        added("gateway-stream-8", "the same, streamed", GatewayStream, 8),
        at_100x("scale-streams", "cost of a token at 100 times the streams", Streams, streams),
        at_100x("scale-subscriptions", "cost of a subscription at 100 times as many", Subscriptions, subscriptions),
        at_100x("scale-payload", "cost of a KiB in a prompt 100 times as long", Payloads, [6_554, 655_360]),
        alone(
            "publish-mean",
            "publish/subscribe, one in flight, mean",
            PublishLatency,
            Metric::UnitTime,
            10_000.0,
            1_000.0,
        ),
        alone("request-mean", "request/reply, one in flight, mean", Requests, Metric::UnitTime, 20_000.0, 2_000.0),
        alone("messages", "messages, one publisher, one subscriber", Heartbeats, Metric::Rate, 1_000.0, 100_000.0),
        Row {
            subject: Arm::new(Heartbeats, Ours, 64),
            reference: Arm::new(Heartbeats, Ours, 1),
            ..shown("scale-workers", "cost of a heartbeat, 64 workers to 1", Heartbeats, Metric::UnitTime)
        },
        shown("heartbeat-server-cpu", "server's CPU for a heartbeat", Heartbeats, Metric::ServerCpu),
        Row {
            subject: Arm::new(Streams, OursPlain, 32),
            reference: Arm::new(Streams, Raw, 32),
            ..shown("token-cpu", "clients' CPU for a token, one a message", Streams, Metric::ClientCpu)
        },
        Row {
            subject: Arm::new(Streams, Ours, 32),
            reference: Arm::new(Streams, Raw, 32),
            ..shown("token-cpu-coalesced", "clients' CPU for a token, coalescing peer", Streams, Metric::ClientCpu)
        },
        shown("busy-memory", "memory of a client that reads heartbeats", Heartbeats, Metric::Memory),
        Row {
            reference: Arm::new(IdleMemory, Raw, 1),
            ..shown("idle-memory-raw", "memory of an idle client, to raw", IdleMemory, Metric::Memory)
        },
        shown("reconnection", "server back to connected", Reconnection, Metric::UnitTime),
        shown("configuration", "the default configuration, loaded; to plain serde", Configuration, Metric::UnitTime),
        shown("log-line", "a log line; to tracing-subscriber's json", LogLines, Metric::UnitTime),
        shown("validation", "a heartbeat decoded and checked; to decoded", Validation, Metric::UnitTime),
    ]
}

fn judged(
    id: &'static str,
    title: &'static str,
    workload: Workload,
    count: u64,
    metric: Metric,
    must: f64,
    reach: f64,
) -> Row {
    Row {
        id,
        title,
        subject: Arm::new(workload, Ours, count),
        reference: Arm::new(workload, Raw, count),
        metric,
        relation: Relation::Ratio,
        better: if metric == Metric::Rate { Better::Higher } else { Better::Lower },
        target: Some(Target { must, reach }),
    }
}

/// What the gateway adds to what it stands before, in us.
fn added(id: &'static str, title: &'static str, workload: Workload, clients: u64) -> Row {
    Row {
        reference: Arm::new(workload, Bare, clients),
        relation: Relation::Difference,
        ..judged(id, title, workload, clients, Metric::P50, 1_000.0, 500.0)
    }
}

/// A figure of ours by itself, with a bound that every machine has to keep.
fn alone(id: &'static str, title: &'static str, workload: Workload, metric: Metric, must: f64, reach: f64) -> Row {
    Row { relation: Relation::Alone, ..judged(id, title, workload, 1, metric, must, reach) }
}

/// Ours at a hundred times the count beside ours.
fn at_100x(id: &'static str, title: &'static str, workload: Workload, [few, many]: [u64; 2]) -> Row {
    Row { reference: Arm::new(workload, Ours, few), ..judged(id, title, workload, many, Metric::UnitTime, 1.3, 1.1) }
}

fn shown(id: &'static str, title: &'static str, workload: Workload, metric: Metric) -> Row {
    Row { target: None, ..judged(id, title, workload, 1, metric, 1.0, 1.0) }
}

/// Every curve.
pub const CURVES: [Curve; 4] = [
    Curve {
        id: "workers",
        title: "time for a heartbeat, by workers",
        workload: Heartbeats,
        sides: &[Ours, Raw],
        counts: &[1, 4, 16, 64],
        metric: Metric::UnitTime,
    },
    Curve {
        id: "streams",
        title: "time for a token, by streams",
        workload: Streams,
        sides: &[Ours, OursPlain, Raw],
        counts: &[1, 10, 100, 1_000],
        metric: Metric::UnitTime,
    },
    Curve {
        id: "payloads",
        title: "publish/subscribe, one in flight, by bytes of the prompt",
        workload: Payloads,
        sides: &[Ours, Raw],
        counts: &[64, 1_024, 16_384, 131_072, 1_046_528],
        metric: Metric::P50,
    },
    Curve {
        id: "subscriptions",
        title: "time for a subscription and a message through it, by subscriptions",
        workload: Subscriptions,
        sides: &[Ours, Raw],
        counts: &[1, 100, 1_000, 10_000, 100_000],
        metric: Metric::UnitTime,
    },
];

/// Measures what the context says, in a process of its own.
pub(crate) async fn drive(context: &Context) -> Result<Sample> {
    match context.arm.workload {
        PublishLatency | Payloads => publish_latency::drive(context).await,
        Requests => requests::drive(context).await,
        Heartbeats => heartbeats::drive(context).await,
        Streams => streams::drive(context).await,
        FirstToken => first_token::drive(context).await,
        Subscriptions => subscriptions::drive(context).await,
        StartUp => start_up::drive(context).await,
        Reconnection => reconnection::drive(context).await,
        IdleMemory => idle_memory::drive(context).await,
        GatewayWhole | GatewayStream => gateway::drive(context).await,
        Configuration => local::configuration(context).await,
        LogLines => local::log_lines(context).await,
        Validation => local::validation(context).await,
    }
}

/// The other end, in a process of its own.
pub(crate) async fn respond(context: &Context) -> Result<()> {
    match context.arm.workload {
        Requests => requests::respond(context).await,
        Heartbeats => heartbeats::respond(context).await,
        Streams | FirstToken => streams::respond(context).await,
        PublishLatency | Payloads | Subscriptions | StartUp | Reconnection | IdleMemory | GatewayWhole
        | GatewayStream | Configuration | LogLines | Validation => {
            anyhow::bail!("{} has no other end", context.arm.workload)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        for size in [Size::Quick, Size::Full] {
            let rows = rows(size);
            assert_eq!(rows.iter().map(|row| row.id).collect::<BTreeSet<_>>().len(), rows.len());
        }
    }

    #[test]
    fn a_target_asks_for_more_where_it_hopes_than_where_it_insists() {
        for row in rows(Size::Full) {
            let Some(Target { must, reach }) = row.target else { continue };
            match row.better {
                Better::Lower => assert!(reach <= must, "{}", row.id),
                Better::Higher => assert!(reach >= must, "{}", row.id),
            }
        }
    }
}
