//! YAML configuration whose errors point at the line and say what to write instead.
//!
//! ```no_run
//! let config = mlx_config::load("config/cluster.yaml")?;
//! println!("{}", config.nats.embedded.port);
//! # Ok::<(), mlx_errors::Error>(())
//! ```
//!
//! A value comes from, in rising order of precedence: the defaults of [`ClusterConfig`], the files and texts of a
//! [`Loader`] in their order, environment variables (`MLX_NATS__EMBEDDED__PORT` is `nats.embedded.port`), and what
//! [`Loader::set`] overrides. [`Loaded::origin`] tells for each key.
//!
//! # How a file is read
//! One parser serves both the good path and the failing one, so that they cannot disagree: the events of saphyr-parser
//! become a tree in which every node knows its place. Duplicate keys, too deep nesting, alias bombs
//! and unknown tags are found while it is built, which a value of `serde_yaml` would no longer show. Variables are then
//! resolved inside scalars, the layers are merged, and scalars that came from outside take the type of their field.
//! The result is deserialised and checked by the types themselves; only where that fails is the JSON Schema compiled
//! and consulted, to find everything that is wrong in one pass. That both agree is held by a property test.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod budget;
mod draw;
mod env;
mod explain;
mod field;
mod findings;
mod interpolate;
mod loader;
mod path;
mod redact;
mod reference;
mod scalar;
mod source;
mod suggest;
mod tree;
mod yaml;

use std::path::Path;

pub use draw::draw;
pub use loader::{Loaded, Loader};
pub use mlx_types::ClusterConfig;
pub use reference::{example, reference};
pub use source::Origin;

/// Loads a configuration file, with the environment of this process.
///
/// # Errors
/// `CONFIG_READ_ERROR` where the file cannot be read, `CONFIG_SYNTAX_ERROR` where it is not well-formed YAML in UTF-8,
/// `CONFIG_VALIDATION_ERROR` with everything that is wrong in it, each with its place.
pub fn load(path: impl AsRef<Path>) -> mlx_errors::Result<ClusterConfig> {
    Loader::new().file(path.as_ref()).load().map(Loaded::into_config)
}
