//! What happens to a cluster, from its `cluster.yaml` to its tokens. One file a scenario, and `docs/scenarios.md` says
//! of each what its users see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(unreachable_pub, reason = "`pub` marks what the files of this test share")]

mod support;

mod bus_outage;
mod controller_restarts;
mod large_prompt;
mod matrix;
mod slow_controller;
mod two_clusters;
mod worker_dies;
mod worker_joins_and_leaves;
