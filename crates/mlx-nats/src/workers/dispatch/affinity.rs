//! What should go to the same worker, and to which: places on a ring of hashes, and the sessions that are remembered.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use mlx_types::messages::{ChatContent, InferenceRequest};
use mlx_types::{SessionId, WorkerId};

/// Prompts that agree in so many bytes go to the same worker, which may have computed them already. Shorter ones do not matter.
const PREFIX: usize = 512;

/// Places of one worker on the ring.
const POINTS: u64 = 16;

/// A worker of the key may have so many times the mean load before the next one of the key is asked.
const BOUND: f64 = 1.25;

/// Sessions that are remembered; those beyond go where the hash of their id sends them.
const MAX_SESSIONS: usize = 100_000;

/// What a request has in common with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Session(SessionId),
    Prefix(u64),
}

impl Key {
    /// The key of a request, where it has one.
    pub(super) fn of(request: &InferenceRequest, sessions: bool, prefixes: bool) -> Option<Self> {
        if let Some(session) = request.session_id.filter(|_| sessions) {
            return Some(Self::Session(session));
        }
        if !prefixes {
            return None;
        }
        if request.prompt.is_empty() {
            return Some(Self::Prefix(hash(&(&request.model_id, beginning(request)?))));
        }
        let prefix = request.prompt.as_bytes().get(..PREFIX)?;
        Some(Self::Prefix(hash(&(&request.model_id, prefix))))
    }

    /// Where it is on the ring: the worker that comes next there is its own.
    pub(super) fn point(self) -> u64 {
        hash(&self)
    }
}

/// The first bytes of a chat that is not in the prompt too; nothing of a shorter one.
fn beginning(request: &InferenceRequest) -> Option<Vec<u8>> {
    let mut begin = Vec::with_capacity(PREFIX);
    for message in request.messages.iter().flatten() {
        begin.extend_from_slice(message.role.as_bytes());
        match &message.content {
            Some(ChatContent::Text(text)) => begin.extend(text.bytes().take(PREFIX)),
            Some(ChatContent::Parts(parts)) => {
                begin.extend(parts.iter().flat_map(|part| part.as_json().bytes()).take(PREFIX));
            }
            _ => {}
        }
        if begin.len() >= PREFIX {
            begin.truncate(PREFIX);
            return Some(begin);
        }
    }
    None
}

/// Where a worker is on the ring. Several places have it share the keys of each worker that leaves with all the others, and an
/// even part of them all.
pub(super) fn points(worker: WorkerId) -> impl Iterator<Item = u64> {
    let (high, low) = worker.as_uuid().as_u64_pair();
    (0..POINTS).map(move |point| mix(mix(point ^ high) ^ low))
}

/// Spreads a number over all 64 bits (`splitmix64`).
fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn hash(value: &impl Hash) -> u64 {
    // The same in every process, so that several controllers choose alike.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The most load that a worker may have to get a request for its key's sake, when `total` is spread over `workers`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small counts"
)]
pub(super) fn bounded_load(total: u64, workers: usize) -> u64 {
    ((total + 1) as f64 * BOUND / workers.max(1) as f64).ceil() as u64
}

/// Which worker has which session.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: HashMap<SessionId, (WorkerId, Instant)>,
}

impl Sessions {
    /// The worker of a session that was used within `life`.
    pub(super) fn worker(&self, session: SessionId, life: Duration, now: Instant) -> Option<WorkerId> {
        let (worker, used) = self.known.get(&session)?;
        (now.saturating_duration_since(*used) < life).then_some(*worker)
    }

    pub(super) fn used(&mut self, session: SessionId, worker: WorkerId, now: Instant) {
        if self.known.len() < MAX_SESSIONS || self.known.contains_key(&session) {
            self.known.insert(session, (worker, now));
        }
    }

    /// Notes a use without moving the session.
    pub(super) fn touched(&mut self, session: SessionId, now: Instant) {
        if let Some((_, used)) = self.known.get_mut(&session) {
            *used = now;
        }
    }

    /// Forgets those that were not used for `life`.
    pub(super) fn expire(&mut self, life: Duration, now: Instant) {
        self.known.retain(|_, (_, used)| now.saturating_duration_since(*used) < life);
    }
}

#[cfg(test)]
mod tests {
    use mlx_types::messages::ChatMessage;

    use super::*;

    fn key(messages: Vec<ChatMessage>) -> Option<Key> {
        Key::of(&InferenceRequest::new("m", "").messages(messages), false, true)
    }

    #[test]
    fn w4_chats_that_begin_alike_have_one_key_although_they_have_no_prompt() {
        let system = || ChatMessage::new("system", "s".repeat(PREFIX));
        let first = key(vec![system(), ChatMessage::new("user", "a")]);
        assert!(first.is_some());
        assert_eq!(first, key(vec![system(), ChatMessage::new("user", "b")]));
        assert_ne!(first, key(vec![ChatMessage::new("system", "t".repeat(PREFIX))]));
        assert_eq!(key(vec![ChatMessage::new("user", "short")]), None);
    }
}
