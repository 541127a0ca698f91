//! An error as JSON, for machines.

use std::path::Path;

use serde::ser::{Error as _, SerializeStruct};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::{Error, causes, redact};

/// The JSON form of an error, for logs, diagnostics and `--json` output; a peer is sent
/// [`to_remote`](Error::to_remote) instead.
///
/// ```
/// # use mlx_errors::{Error, ErrorKind};
/// # use std::time::Duration;
/// let kind = ErrorKind::Timeout { subject: "model.load".into(), timeout: Duration::from_secs(5) };
/// assert_eq!(
///     serde_json::to_value(Error::new(kind)).unwrap(),
///     serde_json::json!({
///         "code": "NATS_TIMEOUT_ERROR",
///         "name": "Timeout",
///         "message": "no reply on `model.load` within 5000 ms",
///         "retryable": true,
///         "fields": { "subject": "model.load", "timeoutMs": 5000 },
///         "sources": [],
///     })
/// );
/// ```
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serde_json::to_value(self.kind()).map_err(S::Error::custom)?;
        redact_all(&mut fields);
        let sources: Vec<String> = causes(self).skip(1).collect();

        let mut object = serializer.serialize_struct("Error", 6)?;
        object.serialize_field("code", &self.code())?;
        object.serialize_field("name", self.kind().name())?;
        object.serialize_field("message", &self.to_string())?;
        object.serialize_field("retryable", &self.is_retryable())?;
        object.serialize_field("fields", &fields)?;
        object.serialize_field("sources", &sources)?;
        object.end()
    }
}

fn redact_all(value: &mut Value) {
    match value {
        Value::String(text) => *text = redact(text).into_owned(),
        Value::Array(items) => items.iter_mut().for_each(redact_all),
        Value::Object(members) => members.values_mut().for_each(redact_all),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A path that is not Unicode is no reason for an error to have no JSON form.
pub(crate) fn lossy_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
