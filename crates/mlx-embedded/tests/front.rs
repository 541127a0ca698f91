//! Those rooms of the example's front door that need no cluster, with the tests that are in them: cargo runs none of an
//! example's own.
#![allow(dead_code, unreachable_pub, reason = "they are parts of another program")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests, and figures for people"
)]

#[path = "../examples/cluster/front/exposition.rs"]
mod exposition;
#[path = "../examples/cluster/front/meter.rs"]
mod meter;
#[path = "../examples/cluster/front/openai.rs"]
mod openai;
#[path = "../examples/cluster/front/placement.rs"]
mod placement;
#[path = "../examples/cluster/front/refusal.rs"]
mod refusal;
#[path = "../examples/cluster/front/stop.rs"]
mod stop;
