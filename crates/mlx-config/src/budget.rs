//! What one load may take, so that no file takes all memory or time: of all files, variables and overrides together.

use crate::tree::{Data, Entry, Node};

/// Values and keys, with aliases expanded: an alias bomb stops here.
const MAX_NODES: usize = 100_000;

/// Bytes of texts and keys, with aliases and variables expanded.
const MAX_BYTES: usize = 4 << 20;

/// Bytes of one path of keys: every message about a key repeats its path.
pub(crate) const MAX_PATH: usize = 1024;

/// What is left.
#[derive(Debug)]
pub(crate) struct Budget {
    nodes: usize,
    bytes: usize,
}

/// A budget is used up; says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Nodes,
    Bytes,
}

impl Exceeded {
    pub(crate) fn message(self) -> String {
        match self {
            Self::Nodes => format!("the configuration holds more than {MAX_NODES} values, its aliases expanded"),
            Self::Bytes => {
                format!("the configuration holds more than {MAX_BYTES} bytes, its aliases and variables expanded")
            }
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { nodes: MAX_NODES, bytes: MAX_BYTES }
    }
}

impl Budget {
    /// Takes what a copy of `node` costs.
    pub(crate) fn take_copy(&mut self, node: &Node) -> Result<(), Exceeded> {
        let (nodes, bytes) = weight(node);
        self.take(nodes, bytes)
    }

    /// Takes `nodes` values, and `bytes` of text.
    pub(crate) fn take(&mut self, nodes: usize, bytes: usize) -> Result<(), Exceeded> {
        self.nodes = self.nodes.checked_sub(nodes).ok_or(Exceeded::Nodes)?;
        self.take_bytes(bytes)
    }

    /// Takes `bytes` of text. Once it was too much it stays so.
    pub(crate) fn take_bytes(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.unwrap_or_default();
        left.map(drop).ok_or(Exceeded::Bytes)
    }
}

fn weight(node: &Node) -> (usize, usize) {
    let add = |(nodes, bytes): (usize, usize), (more_nodes, more_bytes): (usize, usize)| {
        (nodes + more_nodes, bytes + more_bytes)
    };
    match &node.data {
        Data::Text(text) | Data::Untyped(text) => (1, text.len()),
        Data::List(items) => items.iter().map(weight).fold((1, 0), add),
        Data::Map(entries) => {
            let of = |Entry { key, node, .. }: &Entry| add(weight(node), (0, key.len()));
            entries.iter().map(of).fold((1, 0), add)
        }
        _ => (1, 0),
    }
}
