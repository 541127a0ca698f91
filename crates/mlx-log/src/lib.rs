//! Structured logs for mlx-serving: strict JSON lines, component names, level reload, and no silent loss.
//!
//! Programs log with [`tracing`]; this crate turns that into lines.
//!
//! ```no_run
//! use std::error::Error;
//! use mlx_log::{Level, LogConfig};
//!
//! let log = mlx_log::init(&LogConfig::default())?; // info, JSON, standard error; MLX_LOG wins over it
//! let _nats = mlx_log::component("nats").entered();
//!
//! tracing::info!(server = "nats://127.0.0.1:4222", attempt = 1, "connected");
//! # let error = mlx_errors::Error::new(mlx_errors::ErrorKind::NoResponders { subject: "model.load".into() });
//! tracing::error!(error = &error as &dyn Error, "the request failed");
//!
//! log.handle().set_level(Level::Debug); // while running, from any thread
//! # Ok::<(), mlx_errors::Error>(())
//! ```

mod clock;
mod component;
mod config;
mod fault;
mod fields;
mod filter;
mod handle;
mod json;
mod layer;
mod nested;
mod panic;
mod schema;
mod setup;
mod syntax;
mod text;
mod writer;

pub use component::component;
pub use config::{Format, Level, LogConfig, UnknownLevel};
pub use handle::{LogGuard, LogHandle};
pub use nested::json;
pub use schema::LINE_SCHEMA;
pub use setup::{Setup, init};

/// The README's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
