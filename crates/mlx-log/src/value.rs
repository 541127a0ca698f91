//! Values on their way into a line.

use std::fmt;

use mlx_errors::{REDACTED, is_secret_name};

/// A value as `tracing` hands it over.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    /// An `i128` or `u128`, in decimal, beyond the 64 bits that JSON readers agree on.
    Wide(&'a str),
    Float(f64),
    Text(&'a str),
    Debug(&'a dyn fmt::Debug),
}

impl Value<'_> {
    /// Makes this value the whole of `text`.
    pub(crate) fn replace(&self, text: &mut String) {
        text.clear();
        // Not `to_string`, which panics where a `Display` fails; what was written before stays.
        let _ = fmt::write(text, format_args!("{self}"));
    }

    /// This value, unless it is text under a secret's name. Numbers are none: `token = 7` is a count or an index.
    pub(crate) fn guarded(self, name: &str) -> Self {
        match self {
            Self::Text(_) | Self::Debug(_) if is_secret_name(name) => Self::Text(REDACTED),
            value => value,
        }
    }

    pub(crate) fn to_text(self) -> String {
        let mut text = String::new();
        self.replace(&mut text);
        text
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Wide(value) | Self::Text(value) => f.write_str(value),
            Self::Float(value) => value.fmt(f),
            Self::Debug(value) => value.fmt(f),
        }
    }
}

/// The methods of `tracing::field::Visit` in terms of a method `value(&Field, Value)`.
macro_rules! record_values {
    () => {
        fn record_bool(&mut self, field: &Field, value: bool) {
            self.value(field, Value::Bool(value));
        }

        fn record_i64(&mut self, field: &Field, value: i64) {
            self.value(field, Value::Signed(value));
        }

        fn record_u64(&mut self, field: &Field, value: u64) {
            self.value(field, Value::Unsigned(value));
        }

        fn record_i128(&mut self, field: &Field, value: i128) {
            match i64::try_from(value) {
                Ok(value) => self.value(field, Value::Signed(value)),
                Err(_) => self.value(field, Value::Wide(&value.to_string())),
            }
        }

        fn record_u128(&mut self, field: &Field, value: u128) {
            match u64::try_from(value) {
                Ok(value) => self.value(field, Value::Unsigned(value)),
                Err(_) => self.value(field, Value::Wide(&value.to_string())),
            }
        }

        fn record_f64(&mut self, field: &Field, value: f64) {
            self.value(field, Value::Float(value));
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            self.value(field, Value::Text(value));
        }

        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.value(field, Value::Debug(value));
        }
    };
}
pub(crate) use record_values;
