//! Tokens that go out in one frame because an earlier frame is still being written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlx_errors::{Error, Result};
use tokio::sync::Notify;

/// Tokens in one frame at the most.
const FRAME_TOKENS: usize = 64;
/// Bytes of text in one frame at the most, whatever its tokens: far below any server's payload limit.
const FRAME_BYTES: usize = 64 * 1024;
/// Tokens that may wait before the handler has to.
const WAITING_TOKENS: usize = 256;

/// The tokens of one frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Of the first.
    pub(super) index: u64,
    pub(super) tokens: Vec<String>,
}

/// The tokens that wait, in order.
#[derive(Debug, Default)]
pub(super) struct Gather {
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Of the first token that waits.
    index: u64,
    tokens: VecDeque<String>,
    /// Taken, but not known to be sent: kept until it is, because whoever sends it may be dropped while it waits.
    under_way: Option<Arc<Batch>>,
    /// A frame that could not be sent, for whoever puts the next token.
    error: Option<Error>,
}

impl Gather {
    /// Adds the token of `index`, which follows the last one. Waits while too many do already.
    pub(super) async fn put(&self, index: u64, token: String) -> Result<()> {
        let mut token = Some(token);
        loop {
            // Made before the look, so that room made in between is noticed.
            let emptied = self.emptied.notified();
            {
                let mut state = self.lock();
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                if state.tokens.len() < WAITING_TOKENS {
                    if state.tokens.is_empty() {
                        state.index = index;
                    }
                    state.tokens.extend(token.take());
                    self.filled.notify_one();
                    return Ok(());
                }
            }
            emptied.await;
        }
    }

    /// Resolves when tokens wait.
    pub(super) async fn filled(&self) {
        while self.is_empty() {
            self.filled.notified().await;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.tokens.is_empty() && state.under_way.is_none()
    }

    /// The next frame to send: the same one until [`sent`](Self::sent) says that it was.
    pub(super) fn next(&self) -> Option<Arc<Batch>> {
        let mut state = self.lock();
        if state.under_way.is_some() {
            return state.under_way.clone();
        }
        let (mut count, mut bytes) = (0, 0);
        for token in state.tokens.iter().take(FRAME_TOKENS) {
            bytes += token.len();
            if count > 0 && bytes > FRAME_BYTES {
                break;
            }
            count += 1;
        }
        if count == 0 {
            return None;
        }
        let batch = Batch { index: state.index, tokens: state.tokens.drain(..count).collect() };
        state.index += count as u64;
        state.under_way = Some(Arc::new(batch));
        self.emptied.notify_one();
        state.under_way.clone()
    }

    /// The frame under way is out.
    pub(super) fn sent(&self) {
        self.lock().under_way = None;
    }

    /// A frame could not be sent: the stream has a gap now, and no more of it makes sense.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.tokens.clear();
        state.under_way = None;
        state.error.get_or_insert(error);
        self.emptied.notify_one();
    }

    pub(super) fn take_error(&self) -> Option<Error> {
        self.lock().error.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing inside the lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn s5_frames_are_bounded_in_tokens_and_bytes() {
        let gather = Gather::default();
        for index in 1..=100 {
            gather.put(index, "x".to_owned()).await.unwrap();
        }
        assert_eq!(take(&gather), Some((1, 64)));
        assert_eq!(take(&gather), Some((65, 36)));
        assert_eq!(take(&gather), None);
        // One token may be larger than a frame; it then goes alone.
        for index in 101..=103 {
            gather.put(index, "y".repeat(FRAME_BYTES)).await.unwrap();
        }
        assert_eq!(take(&gather), Some((101, 1)));
    }

    #[tokio::test]
    async fn s3_a_frame_whose_sender_was_dropped_is_sent_by_the_next() {
        let gather = Gather::default();
        gather.put(1, "a".to_owned()).await.unwrap();
        let first = gather.next().unwrap();
        gather.put(2, "b".to_owned()).await.unwrap();
        assert_eq!(gather.next().unwrap(), first);
        assert!(!gather.is_empty());
        gather.sent();
        assert_eq!(take(&gather), Some((2, 1)));
        assert!(gather.is_empty());
    }

    fn take(gather: &Gather) -> Option<(u64, usize)> {
        let batch = gather.next()?;
        gather.sent();
        Some((batch.index, batch.tokens.len()))
    }

    #[tokio::test]
    async fn a_handler_far_ahead_waits_for_room() {
        let gather = Gather::default();
        for index in 0..WAITING_TOKENS as u64 {
            gather.put(index, String::new()).await.unwrap();
        }
        let waiting = gather.put(WAITING_TOKENS as u64, String::new());
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        take(&gather).unwrap();
        waiting.await.unwrap();
    }

    proptest! {
        #[test]
        fn s3_every_token_goes_out_once_and_in_order(batches in prop::collection::vec((1usize..100, 0usize..3), 1..20)) {
            let gather = Gather::default();
            let (mut next, mut expected) = (0_u64, 0_u64);
            for (puts, takes) in batches {
                for _ in 0..puts {
                    let put = gather.put(next, next.to_string());
                    if put.now_or_never().is_some() {
                        next += 1;
                    }
                }
                for _ in 0..takes {
                    let Some(batch) = gather.next() else { break };
                    gather.sent();
                    prop_assert_eq!(batch.index, expected);
                    for token in &batch.tokens {
                        prop_assert_eq!(token, &expected.to_string());
                        expected += 1;
                    }
                }
            }
        }
    }
}
