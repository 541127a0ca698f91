//! JSON that passes through unread: what an engine and its client say to each other.

use std::fmt;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Bytes of a request's `params`, and of a message's, at the most.
pub const MAX_PARAMS_BYTES: usize = 1 << 20;

/// Objects and lists inside each other at the most, the outermost counted.
pub const MAX_RAW_DEPTH: usize = 64;

/// A JSON object that is carried as it was written: number by number, in its own order, whatever it means.
///
/// `Debug` says how long it is and nothing of what is in it, so that it comes into no log. Two are equal when they are
/// written alike.
///
/// ```
/// use mlx_types::messages::RawObject;
///
/// let params = RawObject::from_json(r#"{"seed": 7, "temperature": 0.10}"#)?;
/// assert_eq!(params.as_json(), r#"{"seed": 7, "temperature": 0.10}"#);
/// assert_eq!(format!("{params:?}"), "RawObject(32 bytes)");
/// assert!(RawObject::from_json("[1]").is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone)]
pub struct RawObject(Box<RawValue>);

impl RawObject {
    /// The object that a text holds.
    ///
    /// # Errors
    /// The text is no JSON, or not that of an object.
    pub fn from_json(json: impl Into<String>) -> serde_json::Result<Self> {
        Self::new(RawValue::from_string(json.into())?)
    }

    /// The object that a value is written as.
    ///
    /// # Errors
    /// It cannot be written as JSON, or is written as something else than an object.
    pub fn of(value: &impl Serialize) -> serde_json::Result<Self> {
        Self::new(serde_json::value::to_raw_value(value)?)
    }

    /// As it was written.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// Reads it as `T`, which may borrow from it.
    ///
    /// ```
    /// # use mlx_types::messages::RawObject;
    /// #[derive(serde::Deserialize)]
    /// struct Sampling { seed: Option<u64> }
    ///
    /// let params = RawObject::from_json(r#"{"seed": 7, "tools": []}"#)?;
    /// assert_eq!(params.read::<Sampling>()?.seed, Some(7));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// It is no such `T`.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(self.0.get())
    }

    /// Objects and lists inside each other, itself counted.
    pub fn depth(&self) -> usize {
        let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
        for byte in self.0.get().bytes() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'{' | b'[' => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        deepest
    }

    fn new(value: Box<RawValue>) -> serde_json::Result<Self> {
        if value.get().starts_with('{') { Ok(Self(value)) } else { Err(serde_json::Error::custom("no object")) }
    }
}

impl PartialEq for RawObject {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for RawObject {}

impl fmt::Debug for RawObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawObject({} bytes)", self.as_json().len())
    }
}

impl Serialize for RawObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Box::<RawValue>::deserialize(deserializer)?;
        Self::new(value).map_err(|_| D::Error::custom("invalid type: expected an object"))
    }
}

/// What a chat message says: a text, or a list of parts, such as texts and images.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChatContent {
    /// A text.
    Text(String),
    /// Parts, each an object that has a `type`, as OpenAI's protocol has them.
    Parts(Vec<RawObject>),
}

impl ChatContent {
    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Parts(_) => None,
        }
    }
}

impl<T: Into<String>> From<T> for ChatContent {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

impl fmt::Debug for ChatContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({text:?})"),
            Self::Parts(parts) => f.debug_tuple("Parts").field(parts).finish(),
        }
    }
}

impl Serialize for ChatContent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Parts(parts) => parts.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ChatContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// Told apart as they are read: what would first be kept aside could no longer be carried as it was written.
struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = ChatContent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of parts")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ChatContent, E> {
        Ok(ChatContent::Text(text.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<ChatContent, E> {
        Ok(ChatContent::Text(text))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<ChatContent, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = list.next_element()? {
            parts.push(part);
        }
        Ok(ChatContent::Parts(parts))
    }
}

/// The bounds of what is carried unread, for `#[garde(custom(..))]`.
pub(super) mod bounds {
    #![expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "the signatures that garde calls")]

    use super::{ChatContent, MAX_PARAMS_BYTES, MAX_RAW_DEPTH, RawObject};

    pub(in crate::messages) fn params(params: &Option<RawObject>, nothing: &()) -> garde::Result {
        let Some(params) = params else { return Ok(()) };
        let bytes = params.as_json().len();
        if bytes > MAX_PARAMS_BYTES {
            return Err(garde::Error::new(format!("has {bytes} bytes; at most {MAX_PARAMS_BYTES} are carried")));
        }
        object(params, nothing)
    }

    pub(in crate::messages) fn content(content: &Option<ChatContent>, nothing: &()) -> garde::Result {
        match content {
            Some(ChatContent::Parts(parts)) => parts.iter().try_for_each(|part| object(part, nothing)),
            Some(ChatContent::Text(_)) | None => Ok(()),
        }
    }

    pub(in crate::messages) fn object(object: &RawObject, _: &()) -> garde::Result {
        // So few bytes hold no more levels.
        if object.as_json().len() <= MAX_RAW_DEPTH {
            return Ok(());
        }
        match object.depth() {
            deep if deep > MAX_RAW_DEPTH => Err(garde::Error::new(format!(
                "has {deep} levels of objects and lists; at most {MAX_RAW_DEPTH} are carried"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::{ChatContent, RawObject};

    impl JsonSchema for RawObject {
        fn schema_name() -> Cow<'static, str> {
            "RawObject".into()
        }

        fn inline_schema() -> bool {
            true
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "type": "object", "additionalProperties": true })
        }
    }

    impl JsonSchema for ChatContent {
        fn schema_name() -> Cow<'static, str> {
            "ChatContent".into()
        }

        fn inline_schema() -> bool {
            true
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "anyOf": [
                    { "type": "string" },
                    { "type": "array", "items": { "type": "object", "additionalProperties": true } },
                ],
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_that_of_objects_and_lists_outside_of_strings() {
        for (json, depth) in [
            ("{}", 1),
            (r#"{"a":1}"#, 1),
            (r#"{"a":[]}"#, 2),
            (r#"{"a":[[{}]],"b":{}}"#, 4),
            (r#"{"[[[":"{{{\"[[[","b":"\\"}"#, 1),
            (r#"{"a":"\\","b":[{}]}"#, 3),
        ] {
            assert_eq!(RawObject::from_json(json).unwrap().depth(), depth, "{json}");
        }
    }

    #[test]
    fn what_is_carried_keeps_its_writing() {
        let json = r#"{"z": 1.50, "a": 123456789012345678901234567890, "a": "\ud83d"}"#;
        let object: RawObject = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&object).unwrap(), json);
        for wrong in ["[]", "1", "null", "\"{}\""] {
            assert!(serde_json::from_str::<RawObject>(wrong).is_err(), "{wrong}");
        }
    }
}
