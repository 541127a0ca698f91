//! A real nats-server: found, started, supervised and stopped for you.

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

pub use binary::{Binary, Finder, Origin};
pub use cluster::EmbeddedCluster;
pub use node::{Node, connect, connect_with};
pub use process::OrphanGuard;
pub use server::{Builder, EmbeddedServer};
pub use supervisor::ServerState;
