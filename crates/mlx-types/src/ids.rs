//! Ids: UUIDs that cannot be taken for one another.

#[cfg(feature = "schema")]
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

#[cfg(feature = "schema")]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};
use uuid::Uuid;

/// Declares an id over a UUID: 8-4-4-4-12, written in lower case and read in any.
macro_rules! id {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        ///
        /// Two that differ only in case are the same id. Subjects know case, so that one which came from a peer remembers
        /// how it was written there: see [`as_said`](Self::as_said).
        #[derive(Clone, Copy)]
        pub struct $name {
            uuid: Uuid,
            /// Which of the 32 digits were written in upper case, the first in the lowest bit.
            upper: u32,
        }

        impl $name {
            /// A new random id.
            #[expect(clippy::new_without_default, reason = "a default that differs at each call would surprise")]
            pub fn new() -> Self {
                Self::from_uuid(Uuid::new_v4())
            }

            /// The id with this UUID.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self { uuid, upper: 0 }
            }

            /// The UUID.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.uuid
            }

            /// The id in the case in which it was read: what subjects are made of.
            pub fn as_said(&self) -> String {
                said(&self.uuid, self.upper)
            }

            /// The id in lower case, in which it is sent.
            #[must_use]
            pub const fn in_lower_case(self) -> Self {
                Self::from_uuid(self.uuid)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.uuid == other.uuid
            }
        }

        impl Eq for $name {}

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.uuid.hash(state);
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.uuid.cmp(&other.uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let uuid = parse(text)?;
                Ok(Self { uuid, upper: upper(text) })
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self::from_uuid(uuid)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let (uuid, upper) = deserializer.deserialize_str(UuidVisitor)?;
                Ok(Self { uuid, upper })
            }
        }

        #[cfg(feature = "schema")]
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": concat!($($doc),+).trim_ascii(),
                    "type": "string",
                    "format": "uuid",
                    "errorMessage": "must be a UUID, as 8-4-4-4-12 hexadecimal digits",
                    "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
                })
            }
        }
    };
}

id! {
    /// A worker: stable over its restarts where it is configured, generated otherwise.
    WorkerId
}
id! {
    /// A request, from the message that makes it to the last frame that answers it.
    RequestId
}
id! {
    /// A conversation, whose requests profit from staying on one worker.
    SessionId
}

/// The text is not a UUID in the form 8-4-4-4-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID; expected 32 hexadecimal digits as 8-4-4-4-12")]
pub struct ParseIdError;

fn parse(text: &str) -> Result<Uuid, ParseIdError> {
    // The uuid crate also reads braced, simple and URN forms, which no peer sends and no schema allows.
    if text.len() != uuid::fmt::Hyphenated::LENGTH {
        return Err(ParseIdError);
    }
    Uuid::try_parse(text).map_err(|_| ParseIdError)
}

/// Which of the digits are written in upper case.
fn upper(text: &str) -> u32 {
    if !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return 0; // as nearly always
    }
    let digits = text.bytes().filter(|byte| *byte != b'-');
    digits.zip(0..u32::BITS).fold(0, |upper, (digit, place)| upper | u32::from(digit.is_ascii_uppercase()) << place)
}

/// The inverse of [`upper`].
fn said(uuid: &Uuid, upper: u32) -> String {
    let mut place = 0;
    let lower = uuid.hyphenated().to_string();
    let cased = lower.chars().map(|digit| {
        if digit == '-' {
            return digit;
        }
        let is_upper = upper.checked_shr(place).unwrap_or(0) & 1 == 1;
        place += 1;
        if is_upper { digit.to_ascii_uppercase() } else { digit }
    });
    cased.collect()
}

struct UuidVisitor;

impl Visitor<'_> for UuidVisitor {
    type Value = (Uuid, u32);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID as 8-4-4-4-12")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(Uuid, u32), E> {
        parse(text).map(|uuid| (uuid, upper(text))).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}
