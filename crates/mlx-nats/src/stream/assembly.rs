//! Puts frames in order, without sockets and without time: a repeated one is dropped, a missing one ends the stream.

use std::cmp::Ordering;

use mlx_errors::{ErrorCode, ErrorKind, RemoteError};
use mlx_types::messages::{FinishReason, RawObject, StreamingResponse, Usage};

/// What a frame amounts to.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// A new token: what most frames hold, and what is not to cost a list.
    Token { index: u64, token: String },
    /// New tokens, the first of them at `index`.
    Tokens { index: u64, tokens: Vec<String> },
    /// What a token cannot say.
    Delta { index: u64, delta: RawObject },
    /// Nothing new.
    Repeated,
    /// The worker finished.
    Done(Option<FinishReason>, Option<Usage>),
    /// The stream is over with an error.
    Failed(ErrorKind),
}

/// The order of one stream's frames.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    received: u64,
}

impl Assembly {
    /// Tokens received so far, which is also the index of the next.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    #[inline]
    pub(crate) fn accept(&mut self, frame: StreamingResponse) -> Step {
        match frame {
            StreamingResponse::Token { token, index, .. } => self.one(index).unwrap_or(Step::Token { index, token }),
            StreamingResponse::Tokens { tokens, index, .. } => self.tokens(index, tokens),
            StreamingResponse::Delta { delta, index, .. } => self.one(index).unwrap_or(Step::Delta { index, delta }),
            StreamingResponse::Done { total_tokens, finish_reason, usage, .. } => {
                // A TypeScript worker always says 0; any other count tells whether the last frames were lost.
                if total_tokens > self.received {
                    return Step::Failed(ErrorKind::StreamGap { expected: self.received, got: total_tokens });
                }
                Step::Done(finish_reason, usage)
            }
            StreamingResponse::Error { error, code, retryable, .. } => {
                let remote = RemoteError::from_parts(error, Some(code)).with_retryable(retryable);
                // The worker's connection dropped. That is no different from ours: only who has had no token may retry.
                if remote.known_code() == ErrorCode::StreamDisconnected {
                    return Step::Failed(ErrorKind::StreamDisconnected { tokens: self.received });
                }
                Step::Failed(ErrorKind::Remote(remote))
            }
            // None today: mlx-types may learn of further kinds, and what is not a token changes nothing here.
            _ => Step::Repeated,
        }
    }

    /// Takes the place of a single token or delta, or says what else its frame amounts to.
    #[inline]
    fn one(&mut self, index: u64) -> Option<Step> {
        match index.cmp(&self.received) {
            Ordering::Less => Some(Step::Repeated),
            Ordering::Equal => {
                self.received += 1;
                None
            }
            Ordering::Greater => Some(Step::Failed(ErrorKind::StreamGap { expected: self.received, got: index })),
        }
    }

    fn tokens(&mut self, index: u64, mut tokens: Vec<String>) -> Step {
        if index > self.received {
            return Step::Failed(ErrorKind::StreamGap { expected: self.received, got: index });
        }
        // A worker that resends may cut its frames differently: only what lies beyond the known is new.
        let known = usize::try_from(self.received - index).unwrap_or(usize::MAX).min(tokens.len());
        tokens.drain(..known);
        if tokens.is_empty() {
            return Step::Repeated;
        }
        let index = self.received;
        self.received += tokens.len() as u64;
        Step::Tokens { index, tokens }
    }
}

#[cfg(test)]
mod tests {
    use mlx_types::RequestId;
    use proptest::prelude::*;

    use super::*;

    fn token(index: u64) -> StreamingResponse {
        StreamingResponse::Token { request_id: RequestId::new(), token: index.to_string(), index }
    }

    fn tokens(index: u64, count: u64) -> StreamingResponse {
        let tokens = (index..index + count).map(|index| index.to_string()).collect();
        StreamingResponse::Tokens { request_id: RequestId::new(), tokens, index }
    }

    fn done(total_tokens: u64) -> StreamingResponse {
        StreamingResponse::Done {
            request_id: RequestId::new(),
            total_tokens,
            latency_ms: 1.0,
            finish_reason: None,
            usage: None,
        }
    }

    #[test]
    fn s3_a_gap_is_an_error_and_a_repetition_is_dropped() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.accept(token(0)), Step::Token { index: 0, token: "0".into() });
        assert_eq!(assembly.accept(token(0)), Step::Repeated);
        assert_eq!(assembly.accept(token(2)), Step::Failed(ErrorKind::StreamGap { expected: 1, got: 2 }));
    }

    #[test]
    fn r1_a_delta_has_its_place_among_the_tokens() {
        let delta = |index| StreamingResponse::Delta {
            request_id: RequestId::new(),
            delta: RawObject::from_json("{}").unwrap(),
            index,
        };
        let mut assembly = Assembly::default();
        assembly.accept(tokens(0, 2));
        assert_eq!(assembly.accept(delta(1)), Step::Repeated);
        assert_eq!(assembly.accept(delta(2)), Step::Delta { index: 2, delta: RawObject::from_json("{}").unwrap() });
        assert_eq!(assembly.accept(token(3)), Step::Token { index: 3, token: "3".into() });
        assert_eq!(assembly.accept(delta(5)), Step::Failed(ErrorKind::StreamGap { expected: 4, got: 5 }));
    }

    #[test]
    fn s3_an_overlapping_frame_brings_only_what_is_new() {
        let mut assembly = Assembly::default();
        assembly.accept(tokens(0, 3));
        assert_eq!(assembly.accept(tokens(1, 4)), Step::Tokens { index: 3, tokens: vec!["3".into(), "4".into()] });
    }

    #[test]
    fn s3_frames_lost_just_before_the_end_are_noticed_by_the_count() {
        let mut assembly = Assembly::default();
        assembly.accept(token(0));
        assert_eq!(assembly.accept(done(3)), Step::Failed(ErrorKind::StreamGap { expected: 1, got: 3 }));
    }

    #[test]
    fn s4_a_worker_whose_connection_dropped_may_be_asked_again_only_before_the_first_token() {
        let (error, code) = ("gone".to_owned(), ErrorCode::StreamDisconnected.as_str().to_owned());
        let end = StreamingResponse::Error { request_id: RequestId::new(), error, code, retryable: None };
        let mut assembly = Assembly::default();
        for tokens in 0..2 {
            let Step::Failed(kind) = assembly.accept(end.clone()) else { panic!("no end") };
            assert_eq!(kind, ErrorKind::StreamDisconnected { tokens });
            assert_eq!(kind.is_retryable(), tokens == 0);
            assembly.accept(token(tokens));
        }
    }

    #[test]
    fn an_end_that_counts_nothing_is_a_typescript_worker() {
        let mut assembly = Assembly::default();
        assembly.accept(token(0));
        assert_eq!(assembly.accept(done(0)), Step::Done(None, None));
    }

    proptest! {
        /// Whatever arrives, what is handed on is a gapless run from 0, or the stream fails.
        #[test]
        fn s3_what_is_handed_on_has_no_gap(frames in prop::collection::vec((0u64..20, 1u64..6), 0..60)) {
            let mut assembly = Assembly::default();
            let mut expected = 0;
            for (index, count) in frames {
                let frame = if count == 1 { token(index) } else { tokens(index, count) };
                match assembly.accept(frame) {
                    Step::Token { index, token } => {
                        prop_assert_eq!(index, expected);
                        prop_assert_eq!(token, expected.to_string());
                        expected += 1;
                    }
                    Step::Tokens { index, tokens } => {
                        for token in tokens {
                            prop_assert_eq!(&token, &expected.to_string());
                            expected += 1;
                        }
                        prop_assert!(index < expected);
                    }
                    Step::Delta { .. } => prop_assert!(false, "none was sent"),
                    Step::Repeated => prop_assert!(index + count <= expected),
                    Step::Failed(_) => { prop_assert!(index > expected); break; }
                    Step::Done(..) => prop_assert!(false, "no end was sent"),
                }
                prop_assert_eq!(assembly.received(), expected);
            }
        }
    }
}
