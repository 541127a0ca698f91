//! A real nats-server: found, started, supervised and stopped for you. Or an external one, behind the same handle.
//!
//! - [`connect`]: a [`Node`], with a client and, in embedded mode, the server.
//! - [`EmbeddedServer`]: the server alone, for any client; [`ServerState`] says what it is doing.
//! - [`EmbeddedCluster`]: several of them in one cluster, for development and tests.
//! - [`binary`]: which nats-server runs; [`monitoring`]: what it tells of itself.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! # async fn example(config: mlx_types::config::NatsConfig) -> mlx_errors::Result<()> {
//! let node = mlx_embedded::connect(&config).await?;
//! println!("{}", node.client().state());
//! node.shutdown(Duration::from_secs(5)).await
//! # }
//! ```

#[cfg(not(unix))]
compile_error!("mlx-embedded supervises processes the Unix way; it supports Linux and macOS");

pub mod binary;
pub mod monitoring;

mod cluster;
mod diagnosis;
mod folder;
mod http;
mod lock;
mod logs;
mod node;
mod process;
mod ready;
mod server;
mod settings;
mod supervisor;
mod thread;

pub use binary::{Binary, Finder};
pub use cluster::EmbeddedCluster;
pub use node::{Node, connect, connect_with};
pub use process::OrphanGuard;
pub use server::{Builder, EmbeddedServer};
pub use supervisor::ServerState;

/// The README's examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
