//! A document as a tree in which every node knows its place.

use serde_json::{Map, Number, Value};

use crate::field::Field;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) data: Data,
    pub(crate) place: Place,
    /// The environment variable that the value came from; such a value is never shown.
    pub(crate) variable: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    /// A text from outside the document, which takes the type that its field wants.
    Untyped(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A value that a violation was already reported for.
    Broken,
}

/// A key of a map and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) node: Node,
}

/// Where a node begins and ends: the index of its source, lines and columns from 1; line 0 where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) source: usize,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) end_line: usize,
    pub(crate) end_column: usize,
}

/// A step from a node to one below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// Writes a path as users know it: `workers.static[0].url`.
pub(crate) fn dotted(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Step::Index(index) => {
                path.push('[');
                path.push_str(&index.to_string());
                path.push(']');
            }
        }
    }
    path
}

impl Node {
    pub(crate) fn new(data: Data, place: Place) -> Self {
        Self { data, place, variable: None }
    }

    /// The node at `steps`, or the last one on the way there.
    pub(crate) fn nearest(&self, steps: &[Step]) -> &Self {
        let Some((step, rest)) = steps.split_first() else { return self };
        match self.child(step) {
            Some(child) => child.nearest(rest),
            None => self,
        }
    }

    /// The node at `steps`.
    pub(crate) fn at(&self, steps: &[Step]) -> Option<&Self> {
        steps.iter().try_fold(self, |node, step| node.child(step))
    }

    /// The entry of `key`, if this is a map that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    fn child(&self, step: &Step) -> Option<&Self> {
        match (step, &self.data) {
            (Step::Key(key), _) => self.entry(key).map(|entry| &entry.node),
            (Step::Index(index), Data::List(items)) => items.get(*index),
            (Step::Index(_), _) => None,
        }
    }

    /// Lays `over` on top: maps are merged key by key, everything else is replaced; `null` leaves what is there.
    pub(crate) fn merge(&mut self, over: Self) {
        match (&mut self.data, over) {
            (_, Self { data: Data::Null, .. }) => {}
            (Data::Map(entries), Self { data: Data::Map(others), .. }) => {
                for other in others {
                    match entries.iter_mut().find(|entry| entry.key == other.key) {
                        Some(entry) => {
                            entry.node.merge(other.node);
                            entry.key_place = other.key_place;
                        }
                        None => entries.push(other),
                    }
                }
            }
            (_, over) => *self = over,
        }
    }

    /// The value for the types: `null` means unset at a key that exists, and what is broken is as good as unset.
    pub(crate) fn to_value(&self, field: Option<&Field>) -> Value {
        match &self.data {
            Data::Null | Data::Broken => Value::Null,
            Data::Bool(flag) => Value::Bool(*flag),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) | Data::Untyped(text) => Value::String(text.clone()),
            Data::List(items) => {
                let item_field = field.and_then(Field::item);
                Value::Array(items.iter().map(|item| item.to_value(item_field)).collect())
            }
            Data::Map(entries) => {
                let mut members = Map::new();
                for Entry { key, node, .. } in entries {
                    let field = field.and_then(|field| field.key(key));
                    let unset = match node.data {
                        Data::Broken => true,
                        // An unknown key is an error whatever it holds.
                        Data::Null => field.is_some(),
                        _ => false,
                    };
                    if !unset {
                        members.insert(key.clone(), node.to_value(field));
                    }
                }
                Value::Object(members)
            }
        }
    }
}
