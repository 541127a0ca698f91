//! Which frames a requester reads beyond the plain ones.

use crate::wire::headers;

/// What a requester has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepts {
    /// Frames of several tokens.
    pub(crate) tokens: bool,
    /// Frames that bring what a token cannot say.
    pub(crate) deltas: bool,
    /// Frames that say which incarnation sends them: whoever says anything reads these.
    pub(crate) epochs: bool,
}

impl Accepts {
    /// What this client reads, as it says it with a request.
    pub(crate) fn own(coalesce: bool) -> &'static str {
        if coalesce { "tokens,delta" } else { headers::ACCEPT_DELTA }
    }

    /// What the requester of a message says.
    pub(crate) fn of(message: &async_nats::Message) -> Self {
        let Some(kinds) = headers::first(message, headers::ACCEPT) else { return Self::default() };
        let has = |kind: &str| kinds.split(',').any(|accepted| accepted.trim().eq_ignore_ascii_case(kind));
        Self { tokens: has(headers::ACCEPT_TOKENS), deltas: has(headers::ACCEPT_DELTA), epochs: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_read() {
        for coalesce in [false, true] {
            let kinds: Vec<&str> = Accepts::own(coalesce).split(',').collect();
            assert_eq!(kinds.contains(&headers::ACCEPT_TOKENS), coalesce);
            assert!(kinds.contains(&headers::ACCEPT_DELTA));
        }
    }
}
