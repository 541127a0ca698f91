//! Support for the integration tests: servers, clients of ours and foreign ones, a network with faults, and waiting
//! without sleeping.
#![allow(
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::match_wild_err_arm,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "support of tests: what does not work here has to fail the test that asked for it"
)]

mod ask_all;
mod capture;
mod cluster;
mod configured;
mod contained;
mod docker;
mod keys;
pub mod ledger;
mod memory;
mod model_server;
mod monitoring;
mod namespaces;
mod node;
mod process;
mod proxy;
mod server;
mod settings;
mod wait;
mod worker;

pub use ask_all::ask_all;
pub use capture::{Log, captured_log};
pub use cluster::TestCluster;
pub use configured::ConfiguredServer;
pub use contained::{ContainerBuilder, ContainerServer};
pub use docker::Image;
pub use keys::{Authority, Certificate, Operator};
pub use memory::resident;
pub use model_server::{Answer, ModelServer, RealModelServer, SeenRequest};
pub use namespaces::own_namespaces;
pub use node::{mlx_node, node_program, shipped_config};
pub use process::WorkerProcess;
pub use proxy::FaultProxy;
pub use server::{TestServer, millis};
pub use settings::number_from_env;
pub use wait::{LIMIT, arrived, eventually, eventually_async, within};
pub use worker::{TEST_MODEL, TestWorker, WorkerOptions};

/// The README, so that its example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The page on durable hand-over, likewise.
#[cfg(all(doctest, feature = "durable"))]
#[doc = include_str!("../../docs/durable.md")]
struct Durable;
