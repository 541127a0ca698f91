//! The tokens of an answer, counted for who measures beside its handler.

use std::sync::Arc;

use super::outgoing::OutgoingStream;

/// Counts the tokens of one stream.
pub(crate) struct TokenMeter(Arc<OutgoingStream>);

impl TokenMeter {
    pub(super) fn new(stream: Arc<OutgoingStream>) -> Self {
        Self(stream)
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.0.taken()
    }
}
