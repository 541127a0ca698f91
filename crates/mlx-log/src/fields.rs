//! Fields on their way into a line's context: unique keys, values already rendered.

use crate::syntax::Syntax;

/// The context of one line as it grows: the event's own fields first, then those of the spans, nearest first.
/// The first field of a name stays.
#[derive(Default)]
pub(crate) struct EventFields {
    bytes: Vec<u8>,
    keys: Vec<&'static str>,
}

impl EventFields {
    pub(crate) fn add<S: Syntax>(&mut self, syntax: &S, name: &'static str, render: impl FnOnce(&mut Vec<u8>)) {
        let key = context_key(name);
        if self.keys.contains(&key) {
            return;
        }
        syntax.key(&mut self.bytes, key);
        render(&mut self.bytes);
        self.keys.push(key);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.keys.clear();
    }
}

/// The fields of a span. The last value recorded under a name stays.
#[derive(Default)]
pub(crate) struct SpanFields {
    /// The span's part of the component, empty for none.
    pub(crate) component: String,
    values: Vec<u8>,
    /// Key and end of its value; a value begins where the one before it ends.
    entries: Vec<(&'static str, usize)>,
}

impl SpanFields {
    pub(crate) fn set(&mut self, name: &'static str, render: impl FnOnce(&mut Vec<u8>)) {
        let key = context_key(name);
        if self.entries.iter().any(|(known, _)| *known == key) {
            let mut others = Self { component: std::mem::take(&mut self.component), ..Self::default() };
            for (known, value) in self.iter().filter(|(known, _)| *known != key) {
                others.append(known, |out| out.extend_from_slice(value));
            }
            *self = others;
        }
        self.append(key, render);
    }

    /// Takes over what was recorded later.
    pub(crate) fn update(&mut self, later: Self) {
        for (key, value) in later.iter() {
            self.set(key, |out| out.extend_from_slice(value));
        }
        if !later.component.is_empty() {
            self.component = later.component;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let mut start = 0;
        self.entries.iter().map(move |(key, end)| {
            let value = self.values.get(start..*end).unwrap_or_default();
            start = *end;
            (*key, value)
        })
    }

    fn append(&mut self, key: &'static str, render: impl FnOnce(&mut Vec<u8>)) {
        render(&mut self.values);
        self.entries.push((key, self.values.len()));
    }
}

/// The key of a field: its name, prefixed where it is the name of a line's own member, so that tools that lift the
/// context to the top level of a line never overwrite one.
fn context_key(name: &'static str) -> &'static str {
    match name.strip_prefix("r#").unwrap_or(name) {
        "timestamp" => "field_timestamp",
        "level" => "field_level",
        "component" => "field_component",
        "message" => "field_message",
        "context" => "field_context",
        "error" => "field_error",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_a_value_recorded_again_replaces_the_earlier_one() {
        let mut fields = SpanFields { component: "nats".to_owned(), ..SpanFields::default() };
        fields.set("a", |out| out.extend_from_slice(b"1"));
        fields.set("b", |out| out.extend_from_slice(b"2"));
        fields.set("a", |out| out.extend_from_slice(b"33"));
        let mut later = SpanFields::default();
        later.set("b", |out| out.extend_from_slice(b"44"));
        later.set("level", |out| out.extend_from_slice(b"5"));
        fields.update(later);
        let all: Vec<_> = fields.iter().collect();
        assert_eq!(all, [("a", &b"33"[..]), ("b", b"44"), ("field_level", b"5")]);
        assert_eq!(fields.component, "nats");
    }
}
