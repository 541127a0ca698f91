//! Several streams, one terminal: the first unfinished answer is printed live, the others wait their turn.

use std::collections::BTreeMap;
use std::io::Write;

/// Prints answers in the order of their prompts.
pub(super) struct Printer<W> {
    out: W,
    /// The prompt whose answer is printed as it comes.
    live: usize,
    waiting: BTreeMap<usize, Waiting>,
}

#[derive(Default)]
struct Waiting {
    text: String,
    finished: bool,
}

impl<W: Write> Printer<W> {
    /// A printer to `out`.
    pub(super) fn new(out: W) -> Self {
        Self { out, live: 0, waiting: BTreeMap::new() }
    }

    /// Text of the answer to prompt `index`.
    ///
    /// # Errors
    /// When `out` takes no more, for example a closed pipe.
    pub(super) fn print(&mut self, index: usize, text: &str) -> std::io::Result<()> {
        if index == self.live {
            self.out.write_all(text.as_bytes())?;
            self.out.flush()
        } else {
            self.waiting.entry(index).or_default().text.push_str(text);
            Ok(())
        }
    }

    /// The end of an answer: whoever waits next gets the terminal.
    ///
    /// # Errors
    /// As [`print`](Self::print).
    pub(super) fn finish(&mut self, index: usize) -> std::io::Result<()> {
        self.waiting.entry(index).or_default().finished = true;
        while let Some(answer) = self.waiting.remove(&self.live) {
            self.out.write_all(answer.text.as_bytes())?;
            if !answer.finished {
                break;
            }
            self.live += 1;
        }
        self.out.flush()
    }
}
