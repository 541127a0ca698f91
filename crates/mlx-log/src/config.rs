//! What a user writes under `logging`: level, format, file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use garde::Validate;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much is logged, in which form, and where to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LogConfig {
    /// The least severe level that is logged. The directives in `MLX_LOG` win over it.
    #[garde(skip)]
    pub level: Level,
    /// The form of a line: `json` for machines, `text` for people.
    #[garde(skip)]
    pub format: Format,
    /// The file to append to; standard error when unset. Missing folders are made.
    #[garde(custom(not_empty))]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

mlx_errors::setters! {
    LogConfig {
        level: set Level,
        format: set Format,
        file: option PathBuf,
    }
}

/// A severity. Ordered by how much is logged: `Error < Warn < Info < Debug`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something failed and needs a person or a retry.
    Error,
    /// Something is wrong that the software copes with by itself.
    Warn,
    /// What an operator wants to know of normal running.
    #[default]
    Info,
    /// What helps in finding a fault.
    Debug,
}

impl Level {
    /// The level as it is written in configuration and in log lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

#[cfg(feature = "output")]
impl From<Level> for tracing::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
        }
    }
}

/// The text names none of the levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLevel(pub String);

impl fmt::Display for UnknownLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown log level `{}`; the levels are debug, info, warn and error", self.0.escape_debug())
    }
}

impl std::error::Error for UnknownLevel {}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One strict JSON object a line; see [`LINE_SCHEMA`](crate::LINE_SCHEMA).
    #[default]
    Json,
    /// One line for people, coloured on a terminal.
    Text,
}

/// garde calls custom rules with a reference to the field, hence the reference to an option.
#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "the signature is garde's")]
fn not_empty(file: &Option<PathBuf>, _context: &()) -> garde::Result {
    match file {
        Some(path) if path.as_os_str().is_empty() => {
            Err(garde::Error::new("must name a file; leave it out for standard error"))
        }
        Some(_) | None => Ok(()),
    }
}
