//! JSON objects, and nothing that merely resembles one.
//!
//! What serde derives for a struct also reads an array of its members' values, which no schema allows and no peer means.
//! The types here derive with `remote = "Self"`, which leaves the traits to be implemented, and do so through
//! [`ObjectOnly`].

use serde::Deserializer;
use serde::de::Visitor;
use serde::forward_to_deserialize_any;

/// Implements `Serialize` and `Deserialize` by what `remote = "Self"` derives.
macro_rules! objects {
    ($($name:ident),+ $(,)?) => {
        $(impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $name::deserialize($crate::messages::object::ObjectOnly(deserializer))
            }
        })+
    };
}

pub(super) use objects;

/// Reads whatever is asked for from a map.
pub(super) struct ObjectOnly<D>(pub(super) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ObjectOnly<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
