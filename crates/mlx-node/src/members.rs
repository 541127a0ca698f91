//! The members of a JSON object in their order, their values unread.

use std::fmt;

use mlx_types::messages::RawObject;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Name and value of each.
pub(crate) struct Members<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The value of a member, as it is written; the last one where there are several.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.get())
    }
}

/// The object of these members, their values as they were written.
///
/// # Errors
/// None where the values come from [`Members`].
pub(crate) fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a RawValue)>) -> serde_json::Result<RawObject> {
    let members = members.into_iter().map(|(name, value)| format!("{}:{}", Value::from(name), value.get()));
    RawObject::from_json(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
