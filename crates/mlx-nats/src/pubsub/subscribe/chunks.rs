//! Messages that change hands many at a time: a message is large, and copying it costs more than all else that a queue does.

use std::collections::VecDeque;

/// As many as are moved at once, before other tasks get their turn.
pub(super) const CHUNK: usize = 256;

/// Fewer are cheaper to copy than to give room of their own.
const WORTH_A_CHUNK: usize = 32;

/// Messages in order.
#[derive(Debug)]
pub(super) struct Chunks<T> {
    queue: VecDeque<VecDeque<T>>,
    len: usize,
    /// One that was read to its end, for the next that is needed.
    spare: Option<VecDeque<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), len: 0, spare: None }
    }
}

impl<T> Chunks<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<T> {
        loop {
            if let Some(first) = self.queue.front_mut()?.pop_front() {
                self.len -= 1;
                return Some(first);
            }
            self.spare = self.queue.pop_front();
        }
    }

    /// Takes all of `batch`, which keeps room for another one.
    pub(super) fn append(&mut self, batch: &mut VecDeque<T>) {
        if self.len == 0 {
            // At the most one is there, which was read to its end.
            self.spare = self.queue.pop_back().or_else(|| self.spare.take());
        }
        self.len += batch.len();
        match self.queue.back_mut() {
            Some(last) if batch.len() < WORTH_A_CHUNK && last.len() + batch.len() <= CHUNK => last.append(batch),
            _ => {
                let room = if batch.len() < WORTH_A_CHUNK { 0 } else { CHUNK };
                let room = self.spare.take().unwrap_or_else(|| VecDeque::with_capacity(room));
                self.queue.push_back(std::mem::replace(batch, room));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_once_and_in_order(steps in prop::collection::vec((0usize..400, 0usize..400, any::<bool>()), 1..30)) {
            let (mut waiting, mut own, mut batch) = (Chunks::default(), Chunks::default(), VecDeque::new());
            let (mut next, mut expected) = (0, 0);
            for (puts, takes, swap) in steps {
                batch.extend(next..next + puts);
                next += puts;
                waiting.append(&mut batch);
                prop_assert!(batch.is_empty());
                if swap && own.is_empty() {
                    std::mem::swap(&mut own, &mut waiting);
                }
                for _ in 0..takes {
                    let Some(first) = own.pop_front() else { break };
                    prop_assert_eq!(first, expected);
                    expected += 1;
                }
                prop_assert_eq!(own.len() + waiting.len(), next - expected);
            }
        }
    }
}
