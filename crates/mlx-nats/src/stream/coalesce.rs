//! Tokens that go out in one frame because an earlier frame is still being written.

use std::collections::VecDeque;
use std::sync::Arc;

use mlx_errors::{Error, Result};
use mlx_types::RequestId;
use mlx_types::messages::{RawObject, StreamingResponse};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Tokens in one frame at the most.
const FRAME_TOKENS: usize = 64;
/// Bytes of text in one frame of several tokens at the most.
const FRAME_BYTES: usize = 64 * 1024;
/// The part of a server's payload limit that such a frame takes at the most: one byte may become six in JSON, and its
/// envelope takes some too.
const SHARE_OF_PAYLOAD: usize = 8;
/// Quotes and comma around each of them.
const AROUND_TOKEN: usize = 3;
/// Tokens that may wait before the handler has to.
const WAITING_TOKENS: usize = 256;

/// What a handler gives to its stream.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Token(String),
    /// Goes alone, in its place.
    Delta(RawObject),
}

impl Piece {
    pub(super) fn into_frame(self, request_id: RequestId, index: u64) -> StreamingResponse {
        match self {
            Self::Token(token) => StreamingResponse::Token { request_id, token, index },
            Self::Delta(delta) => StreamingResponse::Delta { request_id, delta, index },
        }
    }

    fn into_token(self) -> Option<String> {
        match self {
            Self::Token(token) => Some(token),
            Self::Delta(_) => None,
        }
    }
}

/// The tokens that wait, in order.
#[derive(Debug)]
pub(super) struct Coalescer {
    request_id: RequestId,
    frame_bytes: usize,
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The index of the first token that waits.
    index: u64,
    pieces: VecDeque<Piece>,
    /// Taken, but not known to be sent: kept until it is, because its sender may be dropped while it waits.
    under_way: Option<Arc<StreamingResponse>>,
    /// The error of a frame that could not be sent, returned with the next token.
    error: Option<Error>,
}

impl Coalescer {
    /// Nothing yet, of the stream that answers `request_id` through a server that takes `max_payload` bytes.
    pub(super) fn new(request_id: RequestId, max_payload: usize) -> Self {
        let frame_bytes = FRAME_BYTES.min(max_payload / SHARE_OF_PAYLOAD);
        Self { request_id, frame_bytes, state: Mutex::default(), filled: Notify::new(), emptied: Notify::new() }
    }

    /// Adds the token of `index`, which follows the last one. Waits while too many do already.
    pub(super) async fn put(&self, index: u64, piece: Piece) -> Result<()> {
        let mut piece = Some(piece);
        loop {
            // Made before the look, so that room made in between is noticed.
            let emptied = self.emptied.notified();
            {
                let mut state = self.state.lock();
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                if state.pieces.len() < WAITING_TOKENS {
                    let first = state.pieces.is_empty();
                    if first {
                        state.index = index;
                    }
                    state.pieces.extend(piece.take());
                    // The sender looks again before it waits, so that the others need not wake it.
                    if first {
                        self.filled.notify_one();
                    }
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
        let state = self.state.lock();
        state.pieces.is_empty() && state.under_way.is_none()
    }

    /// The next frame to send: the same one until [`sent`](Self::sent) says that it was.
    pub(super) fn next(&self) -> Option<Arc<StreamingResponse>> {
        let mut state = self.state.lock();
        if state.under_way.is_some() {
            return state.under_way.clone();
        }
        let (mut count, mut bytes) = (0, 0);
        for piece in state.pieces.iter().take(FRAME_TOKENS) {
            let Piece::Token(token) = piece else { break };
            bytes += token.len() + AROUND_TOKEN;
            if count > 0 && bytes > self.frame_bytes {
                break;
            }
            count += 1;
        }
        let (request_id, index) = (self.request_id, state.index);
        let frame = if count > 1 {
            let tokens = state.pieces.drain(..count).filter_map(Piece::into_token).collect();
            StreamingResponse::Tokens { request_id, tokens, index }
        } else {
            count = 1;
            state.pieces.pop_front()?.into_frame(request_id, index)
        };
        state.index += count as u64;
        state.under_way = Some(Arc::new(frame));
        self.emptied.notify_one();
        state.under_way.clone()
    }

    /// The frame under way is out.
    pub(super) fn sent(&self) {
        self.state.lock().under_way = None;
    }

    /// A frame could not be sent: the stream has a gap now, and no more of it makes sense.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        state.pieces.clear();
        state.under_way = None;
        state.error.get_or_insert(error);
        self.emptied.notify_one();
    }

    pub(super) fn take_error(&self) -> Option<Error> {
        self.state.lock().error.take()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn s5_frames_are_bounded_in_tokens_and_bytes() {
        let gather = Coalescer::new(RequestId::new(), 1 << 20);
        for index in 1..=100 {
            gather.put(index, text("x".to_owned())).await.unwrap();
        }
        assert_eq!(take(&gather), Some((1, 64)));
        assert_eq!(take(&gather), Some((65, 36)));
        assert_eq!(take(&gather), None);
        // One token may be larger than a frame; it then goes alone.
        for index in 101..=103 {
            gather.put(index, text("y".repeat(FRAME_BYTES))).await.unwrap();
        }
        assert_eq!(take(&gather), Some((101, 1)));
    }

    #[tokio::test]
    async fn s3_a_frame_whose_sender_was_dropped_is_sent_by_the_next() {
        let gather = Coalescer::new(RequestId::new(), 1 << 20);
        gather.put(1, text("a".to_owned())).await.unwrap();
        let first = gather.next().unwrap();
        gather.put(2, text("b".to_owned())).await.unwrap();
        assert_eq!(gather.next().unwrap(), first);
        assert!(!gather.is_empty());
        gather.sent();
        assert_eq!(take(&gather), Some((2, 1)));
        assert!(gather.is_empty());
    }

    #[tokio::test]
    async fn c9_frames_of_several_tokens_fit_where_each_token_does() {
        const PAYLOAD: usize = 1024;
        for token in ["twelve bytes", "\u{1}\u{2}\u{3}", ""] {
            let gather = Coalescer::new(RequestId::new(), PAYLOAD);
            for index in 1..=200 {
                gather.put(index, text(token.to_owned())).await.unwrap();
            }
            while let Some(frame) = gather.next() {
                let size = serde_json::to_vec(&*frame).unwrap().len();
                assert!(size <= PAYLOAD, "{size} bytes: {frame:?}");
                gather.sent();
            }
        }
    }

    fn text(text: impl Into<String>) -> Piece {
        Piece::Token(text.into())
    }

    fn delta(text: &str) -> Piece {
        Piece::Delta(RawObject::of(&std::collections::BTreeMap::from([("delta", text)])).unwrap())
    }

    #[tokio::test]
    async fn r1_a_delta_goes_alone_and_in_its_place() {
        let gather = Coalescer::new(RequestId::new(), 1 << 20);
        for (index, piece) in (1..).zip([text("a"), text("b"), delta("c"), delta("d"), text("e")]) {
            gather.put(index, piece).await.unwrap();
        }
        let mut frames = Vec::new();
        while let Some(frame) = gather.next() {
            frames.push(match &*frame {
                StreamingResponse::Tokens { tokens, index, .. } => (*index, tokens.concat()),
                StreamingResponse::Token { token, index, .. } => (*index, token.clone()),
                StreamingResponse::Delta { delta, index, .. } => (*index, delta.as_json().to_owned()),
                other => panic!("{other:?}"),
            });
            gather.sent();
        }
        let (c, d) = (r#"{"delta":"c"}"#, r#"{"delta":"d"}"#);
        assert_eq!(frames, [(1, "ab".into()), (3, c.into()), (4, d.into()), (5, "e".into())]);
    }

    fn take(gather: &Coalescer) -> Option<(u64, usize)> {
        let frame = gather.next()?;
        gather.sent();
        let (index, tokens) = content(&frame);
        Some((index, tokens.len()))
    }

    fn content(frame: &StreamingResponse) -> (u64, &[String]) {
        match frame {
            StreamingResponse::Token { index, token, .. } => (*index, std::slice::from_ref(token)),
            StreamingResponse::Tokens { index, tokens, .. } => (*index, tokens),
            other => panic!("{other:?} holds no tokens"),
        }
    }

    #[tokio::test]
    async fn a_handler_far_ahead_waits_for_room() {
        let gather = Coalescer::new(RequestId::new(), 1 << 20);
        for index in 0..WAITING_TOKENS as u64 {
            gather.put(index, text(String::new())).await.unwrap();
        }
        let waiting = gather.put(WAITING_TOKENS as u64, text(String::new()));
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        take(&gather).unwrap();
        waiting.await.unwrap();
    }

    proptest! {
        #[test]
        fn s3_every_token_goes_out_once_and_in_order(batches in prop::collection::vec((1usize..100, 0usize..3), 1..20)) {
            let gather = Coalescer::new(RequestId::new(), 1 << 20);
            let (mut next, mut expected) = (0_u64, 0_u64);
            for (puts, takes) in batches {
                for _ in 0..puts {
                    let put = gather.put(next, text(next.to_string()));
                    if put.now_or_never().is_some() {
                        next += 1;
                    }
                }
                for _ in 0..takes {
                    let Some(frame) = gather.next() else { break };
                    gather.sent();
                    let (index, tokens) = content(&frame);
                    prop_assert_eq!(index, expected);
                    for token in tokens {
                        prop_assert_eq!(token, &expected.to_string());
                        expected += 1;
                    }
                }
            }
        }
    }
}
