//! Message headers: names and values as text.

use std::fmt;
use std::str::FromStr;

use async_nats::header::{HeaderName, HeaderValue};
use mlx_errors::{Error, ErrorKind, Result};
pub(crate) use mlx_types::headers::*;

use crate::telemetry::trace::Carrier;

/// The headers of a message. Names keep their case; a name may have several values.
///
/// One header on a message costs about a third of the rate that the bus can carry, so none is written without a reason.
///
/// ```
/// use mlx_nats::Headers;
///
/// let mut headers = Headers::new();
/// headers.set("Tenant", "lab")?;
/// assert_eq!(headers.get("Tenant"), Some("lab"));
/// assert!(headers.set("Tenant", "two\nlines").is_err());
/// # Ok::<(), mlx_nats::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(async_nats::HeaderMap);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a header, in place of any values that it had.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidHeader`] when the name is empty or holds a character that names do not have, and when the value has
    /// a line break, or a space at one of its ends, which would be lost on the way.
    pub fn set(&mut self, name: &str, value: impl AsRef<str>) -> Result<()> {
        let value = value.as_ref();
        let bad = |reason: &str| {
            Error::new(ErrorKind::InvalidHeader { name: name.escape_default().to_string(), reason: reason.to_owned() })
        };
        // A name ends at its colon; what else it may hold is what HTTP has, so that other clients read it too.
        if name.is_empty() || !name.bytes().all(is_name_byte) {
            return Err(bad("a name is made of letters, digits and some signs such as `-` and `_`"));
        }
        if value.contains(['\r', '\n']) {
            return Err(bad("a value is a single line"));
        }
        // Clients and servers drop them on the way, each in its own fashion.
        if value != value.trim() {
            return Err(bad("a value has no spaces at its ends: they would be lost on the way"));
        }
        let header = HeaderName::from_str(name).map_err(|error| bad(&error.to_string()))?;
        let value = HeaderValue::from_str(value).map_err(|error| bad(&error.to_string()))?;
        self.0.insert(header, value);
        Ok(())
    }

    /// The first value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(HeaderValue::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values; the order is not that of the wire.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        })
    }

    /// Bytes on the wire: the version line, one line for each value, and an empty one.
    pub(crate) fn wire_len(&self) -> usize {
        const VERSION_LINE: usize = "NATS/1.0\r\n".len();
        const LINE_OVERHEAD: usize = ": \r\n".len();
        if self.is_empty() {
            return 0;
        }
        let lines = self.iter().map(|(name, value)| name.len() + value.len() + LINE_OVERHEAD).sum::<usize>();
        VERSION_LINE + lines + "\r\n".len()
    }

    pub(crate) fn from_transport(headers: async_nats::HeaderMap) -> Self {
        Self(headers)
    }

    pub(crate) fn into_transport(self) -> async_nats::HeaderMap {
        self.0
    }
}

impl Carrier for Headers {
    fn carry(&mut self, name: &str, value: String) -> bool {
        self.set(name, value).is_ok()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The characters of a token, as RFC 9110 has them.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The first value of a header of a received message.
pub(crate) fn first<'a>(message: &'a async_nats::Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(HeaderValue::as_str)
}
