//! A document as a tree in which every node knows its place.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use crate::field::Field;
use crate::path::Step;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) data: Data,
    pub(crate) place: Position,
    /// The environment variable that the value came from; such a value is never shown.
    pub(crate) variable: Option<Arc<str>>,
    pub(crate) state: State,
}

/// Whether a node counts when a document is explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    #[default]
    Sound,
    /// The key does not exist. That has been reported, and the value is left out.
    Unknown,
    /// It has been told that the value is wrong: it is left out, and so is what depends on it.
    Faulty,
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
    /// The key that was meant, where `key` does not exist.
    pub(crate) meant: Option<Box<str>>,
    pub(crate) key_place: Position,
    pub(crate) node: Node,
}

impl Entry {
    pub(crate) fn new(key: String, key_place: Position, node: Node) -> Self {
        Self { key, meant: None, key_place, node }
    }

    /// The key that the entry counts for.
    pub(crate) fn name(&self) -> &str {
        self.meant.as_deref().unwrap_or(&self.key)
    }
}

/// Where a node begins and ends: the index of its source, lines and columns from 1; line 0 where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) source: usize,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) end_line: usize,
    pub(crate) end_column: usize,
}

impl Node {
    pub(crate) fn new(data: Data, place: Position) -> Self {
        Self { data, place, variable: None, state: State::Sound }
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
            Data::Map(entries) => entries.iter().find(|entry| entry.name() == key),
            _ => None,
        }
    }

    /// Marks the node at `steps`, or the last one on the way there.
    pub(crate) fn mark(&mut self, steps: &[Step], state: State) {
        let there = (0..=steps.len()).rev().filter_map(|depth| steps.get(..depth)).find(|way| self.at(way).is_some());
        let node = there.unwrap_or_default().iter().try_fold(self, |node, step| node.child_mut(step));
        if let Some(node) = node {
            node.state = state;
        }
    }

    pub(crate) fn child_mut(&mut self, step: &Step) -> Option<&mut Self> {
        match (step, &mut self.data) {
            (Step::Key(key), Data::Map(entries)) => {
                entries.iter_mut().find(|entry| entry.name() == key).map(|entry| &mut entry.node)
            }
            (Step::Index(index), Data::List(items)) => items.get_mut(*index),
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
                let mut places: HashMap<String, usize> =
                    entries.iter().enumerate().map(|(place, entry)| (entry.key.clone(), place)).collect();
                for other in others {
                    if let Some(entry) = places.get(&other.key).and_then(|place| entries.get_mut(*place)) {
                        entry.node.merge(other.node);
                        entry.key_place = other.key_place;
                    } else {
                        places.insert(other.key.clone(), entries.len());
                        entries.push(other);
                    }
                }
            }
            (_, over) => *self = over,
        }
    }

    /// The value for the types: `null` means unset at a key that exists, and what is broken is as good as unset. What is left
    /// out is as good as not written; a list goes whole, so that the places of its items stay true.
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
                for entry in entries {
                    let field = field.and_then(|field| field.key(entry.name()));
                    if !entry.node.is_unset(field) {
                        members.insert(entry.name().to_owned(), entry.node.to_value(field));
                    }
                }
                Value::Object(members)
            }
        }
    }

    fn is_unset(&self, field: Option<&Field>) -> bool {
        match self.data {
            _ if self.state != State::Sound => true,
            Data::Broken => true,
            // An unknown key is an error whatever it holds.
            Data::Null => field.is_some(),
            Data::List(_) => self.holds_fault(),
            _ => false,
        }
    }

    /// Whether anything in it was found to be wrong.
    pub(crate) fn holds_fault(&self) -> bool {
        let broken = matches!(self.data, Data::Broken) || self.state == State::Faulty;
        broken
            || match &self.data {
                Data::List(items) => items.iter().any(Self::holds_fault),
                Data::Map(entries) => entries.iter().any(|entry| entry.node.holds_fault()),
                _ => false,
            }
    }

    /// Whether it is itself wrong, and not only something in it.
    pub(crate) fn is_faulty(&self) -> bool {
        matches!(self.data, Data::Broken) || self.state == State::Faulty
    }
}
