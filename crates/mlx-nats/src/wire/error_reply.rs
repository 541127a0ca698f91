//! Tells a reply that is an error from one that is an answer.
//!
//! Headers say it plainly. Without them the body decides: an object with a member `error` is an error, whatever else is in
//! it, unless the type that was asked for has a member of that name itself. Then only one with nothing but `error`, `code` and
//! `retryable` is.

use std::cell::Cell;
use std::fmt;

use mlx_errors::RemoteError;
use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_json::Value;

use crate::wire::headers;

/// The error that a reply to a question for an `R` is, if it is one.
pub(crate) fn remote_error<R: DeserializeOwned>(message: &async_nats::Message) -> Option<RemoteError> {
    let body = || serde_json::from_slice::<ErrorBody>(&message.payload).ok();
    let code = headers::first(message, headers::ERROR_CODE);
    let text = headers::first(message, headers::SERVICE_ERROR);
    if code.is_some() || text.is_some() || headers::first(message, headers::SERVICE_ERROR_CODE).is_some() {
        let body = body();
        let said = text.map(str::to_owned).or_else(|| body.as_ref().and_then(ErrorBody::message));
        let code = code.map(str::to_owned).or_else(|| body.as_ref().and_then(ErrorBody::code));
        let error = RemoteError::from_parts(said.unwrap_or_else(|| NO_MESSAGE.to_owned()), code);
        return Some(error.with_retryable(body.and_then(|body| body.retryable())));
    }
    // Reading every answer twice would cost more than the rest of taking it.
    if !may_be_error(&message.payload) {
        return None;
    }
    let body = body()?;
    let said = body.message()?;
    if !body.rest.is_empty() {
        if has_error_member::<R>() {
            return None;
        }
        // A type that takes anything takes the answers of other systems, JetStream's for example, with their own errors.
        if body.error.is_object() && serde_json::from_slice::<R>(&message.payload).is_ok() {
            return None;
        }
    }
    Some(RemoteError::from_parts(said, body.code()).with_retryable(body.retryable()))
}

const NO_MESSAGE: &str = "no message";

/// The body of an error reply, in the forms that peers give it: `{"error": "text"}`, with `code` and `retryable` beside it or not, and
/// `{"error": {"message": "text", "code": ...}}`.
#[derive(Deserialize)]
struct ErrorBody {
    error: Value,
    #[serde(default)]
    code: Value,
    #[serde(default)]
    retryable: Value,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

impl ErrorBody {
    /// What it says; nothing where it says that there is no error.
    fn message(&self) -> Option<String> {
        match &self.error {
            Value::String(text) if text.is_empty() => Some(NO_MESSAGE.to_owned()),
            Value::String(text) => Some(text.clone()),
            Value::Object(error) => match error.get("message").or_else(|| error.get("error")) {
                Some(Value::String(text)) => Some(text.clone()),
                _ => Some(self.error.to_string()),
            },
            _ => None,
        }
    }

    fn retryable(&self) -> Option<bool> {
        self.retryable.as_bool()
    }

    fn code(&self) -> Option<String> {
        let inner = |name| self.error.get(name).unwrap_or(&Value::Null);
        [&self.code, inner("code"), inner("type")].into_iter().find_map(|code| match code {
            Value::String(code) => Some(code.clone()),
            Value::Number(code) => Some(code.to_string()),
            _ => None,
        })
    }
}

/// Whether a body may have a member of this name; an escape may hide it.
fn may_be_error(json: &[u8]) -> bool {
    memchr::memmem::find(json, br#""error""#).is_some() || memchr::memchr(b'\\', json).is_some()
}

/// Whether a type is a struct with a member `error`: seen by letting it read an object that has one.
fn has_error_member<R: DeserializeOwned>() -> bool {
    let known = Cell::new(false);
    // It fails in any case, at the latest at the member's value.
    let _ = R::deserialize(Object { known: &known });
    known.get()
}

/// `{"error": ...}`, of which the value is never there.
struct Object<'a> {
    known: &'a Cell<bool>,
}

/// The entry of [`Object`], until it was taken.
struct Entry<'a>(Option<&'a Cell<bool>>, &'a Cell<bool>);

struct Name<'a>(&'a Cell<bool>);

struct Member<'a>(&'a Cell<bool>);

impl<'de> Deserializer<'de> for Object<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_map(Entry(Some(self.known), self.known))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Entry<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        self.0.take().map(|known| seed.deserialize(Name(known))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        seed.deserialize(Member(self.1))
    }
}

impl<'de> Deserializer<'de> for Name<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_borrowed_str("error")
    }

    /// Only a struct looks for names of its own; a map takes any.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let value = visitor.visit_borrowed_str("error")?;
        self.0.set(true);
        Ok(value)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum ignored_any
    }
}

impl<'de> Deserializer<'de> for Member<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(Stop)
    }

    /// What a struct does with a member that it does not have.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.0.set(false);
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier
    }
}

/// Nothing more to see.
#[derive(Debug)]
struct Stop;

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl std::error::Error for Stop {}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing more to see")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use mlx_types::messages::{HealthReport, ModelStatus};

    use super::*;

    fn read<R: DeserializeOwned>(json: &'static str) -> Option<(String, String)> {
        let message = async_nats::Message {
            subject: "lab.test".into(),
            reply: None,
            payload: json.into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        remote_error::<R>(&message).map(|error| (error.message().to_owned(), error.code().to_owned()))
    }

    fn said<R: DeserializeOwned>(json: &'static str) -> Option<String> {
        read::<R>(json).map(|(message, _)| message)
    }

    #[test]
    fn an_error_body_is_an_error_whatever_else_is_in_it() {
        assert_eq!(said::<HealthReport>(r#"{"error":"no such model"}"#).as_deref(), Some("no such model"));
        assert_eq!(said::<u64>(r#"{"code":"X","error":"no"}"#).as_deref(), Some("no"));
        assert_eq!(said::<u64>(r#"{"\u0065rror":"no"}"#).as_deref(), Some("no"));
        assert_eq!(said::<HealthReport>(r#"{"error":"no","code":"X","details":{"a":1}}"#).as_deref(), Some("no"));
        for any in [said::<Value>, said::<HashMap<String, String>>, said::<HashMap<String, Value>>] {
            assert_eq!(any(r#"{"error":"no","requestId":"x"}"#).as_deref(), Some("no"));
        }
        assert_eq!(read::<u64>(r#"{"error":{"message":"no","type":"t"}}"#), Some(("no".into(), "t".into())));
        assert_eq!(read::<u64>(r#"{"error":{"message":"no","code":503}}"#), Some(("no".into(), "503".into())));
        assert_eq!(said::<u64>(r#"{"type":"t","error":{"message":"no"}}"#).as_deref(), Some("no"));
        assert_eq!(read::<u64>(r#"{"error":"no","code":null}"#), Some(("no".into(), "REMOTE_ERROR".into())));
    }

    #[derive(Deserialize)]
    struct Own {
        #[serde(rename = "error")]
        _error: Value,
    }

    #[test]
    fn an_answer_that_has_an_error_in_it_is_an_answer() {
        assert_eq!(said::<ModelStatus>(r#"{"state":"failed","error":"no"}"#), None);
        assert_eq!(said::<ModelStatus>(r#"{"error":"no","code":"X"}"#).as_deref(), Some("no"), "nothing but an error");
        assert_eq!(said::<Own>(r#"{"error":"no","more":1}"#), None);
        assert_eq!(said::<Value>(r#"{"status":"online","note":"\"error\""}"#), None);
        assert_eq!(said::<Value>(r#"{"type":"t","error":{"code":404}}"#), None, "JetStream's own way");
        assert_eq!(said::<Value>(r#"{"error":null,"result":1}"#), None);
        assert_eq!(said::<Value>(r#"{"error":false}"#), None);
        assert_eq!(said::<u64>("7"), None);
        assert_eq!(said::<Value>(r#"["error"]"#), None);
    }
}
