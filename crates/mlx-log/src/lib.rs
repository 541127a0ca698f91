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

#[cfg(feature = "output")]
mod clock;
#[cfg(feature = "output")]
mod component;
mod config;
#[cfg(feature = "output")]
mod fault;
#[cfg(feature = "output")]
mod fields;
#[cfg(feature = "output")]
mod filter;
#[cfg(feature = "output")]
mod handle;
#[cfg(feature = "output")]
mod json;
#[cfg(feature = "output")]
mod layer;
#[cfg(feature = "output")]
mod nested;
#[cfg(feature = "output")]
mod panic;
mod schema;
#[cfg(feature = "output")]
mod setup;
#[cfg(feature = "output")]
mod syntax;
#[cfg(feature = "output")]
mod text;
#[cfg(feature = "output")]
mod value;
#[cfg(feature = "output")]
mod writer;

#[cfg(feature = "output")]
pub use component::component;
pub use config::{Format, Level, LogConfig, UnknownLevel};
#[cfg(feature = "output")]
pub use handle::{LogGuard, LogHandle};
#[cfg(feature = "output")]
pub use nested::json;
pub use schema::LINE_SCHEMA;
#[cfg(feature = "output")]
pub use setup::{Setup, init};

/// The README's example is compiled.
#[cfg(all(doctest, feature = "output"))]
#[doc = include_str!("../README.md")]
struct Readme;
