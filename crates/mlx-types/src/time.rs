//! Points in time and spans of it, all in milliseconds.

#[cfg(feature = "schema")]
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(feature = "schema")]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// When a message was made: milliseconds since the Unix epoch, greater than 0.
///
/// ```
/// use mlx_types::Timestamp;
///
/// let sent = Timestamp::from_millis(1_700_000_000_000).expect("not zero");
/// assert!(sent < Timestamp::now());
/// assert_eq!(serde_json::to_string(&sent).unwrap(), "1700000000000");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(NonZeroU64);

impl Timestamp {
    /// The clock of this machine.
    pub fn now() -> Self {
        Self(NonZeroU64::new(unix_millis()).unwrap_or(NonZeroU64::MIN))
    }

    /// The timestamp `millis` after the Unix epoch; `None` for 0.
    pub const fn from_millis(millis: u64) -> Option<Self> {
        match NonZeroU64::new(millis) {
            Some(millis) => Some(Self(millis)),
            None => None,
        }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "schema")]
impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Milliseconds since the Unix epoch.",
            "type": "integer",
            "minimum": 1,
            "maximum": u64::MAX,
        })
    }
}

/// The incarnation of a worker: the milliseconds since the Unix epoch at which its process started.
///
/// Of two messages with the same worker id, the one with the lower epoch comes from a ghost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// An incarnation that starts now.
    pub fn now() -> Self {
        Self(unix_millis())
    }

    /// The incarnation that started `millis` after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "schema")]
impl JsonSchema for Epoch {
    fn schema_name() -> Cow<'static, str> {
        "Epoch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The incarnation of a worker: milliseconds since the Unix epoch at which its process started.",
            "type": "integer",
            "minimum": 0,
            "maximum": u64::MAX,
        })
    }
}

/// A span of time in whole milliseconds, greater than 0.
///
/// ```
/// use std::time::Duration;
/// use mlx_types::Millis;
///
/// let interval = Millis::new(5_000).expect("not zero");
/// assert_eq!(interval.as_duration(), Duration::from_secs(5));
/// assert_eq!(Millis::new(0), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(NonZeroU64);

impl Millis {
    /// A span of `millis`; `None` for 0.
    pub const fn new(millis: u64) -> Option<Self> {
        match NonZeroU64::new(millis) {
            Some(millis) => Some(Self(millis)),
            None => None,
        }
    }

    /// A duration in whole milliseconds, and one where it is shorter.
    pub fn at_least_one(duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self::new(millis).unwrap_or(Self(NonZeroU64::MIN))
    }

    /// The span in milliseconds.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The span for the standard library.
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0.get())
    }

    /// For defaults, whose 0 would be a mistake of ours and fails the build.
    pub(crate) const fn of<const MILLIS: u64>() -> Self {
        const { assert!(MILLIS > 0, "a span is greater than 0") };
        match NonZeroU64::new(MILLIS) {
            Some(millis) => Self(millis),
            None => Self(NonZeroU64::MIN),
        }
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        millis.as_duration()
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

#[cfg(feature = "schema")]
impl JsonSchema for Millis {
    fn schema_name() -> Cow<'static, str> {
        "Millis".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A span of time in milliseconds.",
            "type": "integer",
            "errorMessage": "must be a whole number of milliseconds, at least 1",
            "minimum": 1,
            "maximum": u64::MAX,
        })
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
