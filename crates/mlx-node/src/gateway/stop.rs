//! Stop sequences: found wherever tokens cut them, and never shown, not even in part.

/// Watches a text for the sequences that end it.
#[derive(Debug)]
pub(super) struct StopSequences {
    sequences: Vec<String>,
    /// The end of the text so far, which may be the beginning of a sequence.
    held: String,
}

impl StopSequences {
    /// A watch for these; empty ones would end every text at once and are left out.
    pub(super) fn new(sequences: Vec<String>) -> Self {
        let sequences = sequences.into_iter().filter(|sequence| !sequence.is_empty()).collect();
        Self { sequences, held: String::new() }
    }

    /// Takes more text. What is returned may be shown; `true` says that the text ends there.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = self.sequences.iter().filter_map(|sequence| self.held.find(sequence)).min();
        if let Some(end) = first {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let kept = self.sequences.iter().map(|sequence| begun(&self.held, sequence)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text is over: what was held back belongs to it after all.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The length of the longest end of `text` that `sequence` begins with.
fn begun(text: &str, sequence: &str) -> usize {
    let lengths = sequence.char_indices().map(|(length, _)| length);
    lengths.filter(|length| text.ends_with(sequence.get(..*length).unwrap_or_default())).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sequence_is_found_across_tokens_and_not_shown() {
        let mut watch = StopSequences::new(vec!["</s>".to_owned(), "\n\n".to_owned()]);
        assert_eq!(watch.push("a < b <"), ("a < b ".to_owned(), false));
        assert_eq!(watch.push("/s"), (String::new(), false));
        assert_eq!(watch.push("x"), ("</sx".to_owned(), false));
        assert_eq!(watch.push("\n"), (String::new(), false));
        assert_eq!(watch.push("\nmore"), (String::new(), true));
    }

    #[test]
    fn what_only_began_like_a_sequence_is_shown_at_the_end() {
        let mut watch = StopSequences::new(vec!["STOP".to_owned(), String::new()]);
        assert_eq!(watch.push("ST"), (String::new(), false));
        assert_eq!(watch.finish(), "ST");
    }

    proptest! {
        /// However a text is cut into tokens, what is shown is what comes before the first sequence.
        #[test]
        fn the_cut_of_tokens_makes_no_difference(
            tokens in prop::collection::vec("[abé]{0,4}", 0..12),
            sequences in prop::collection::vec("[abé]{1,3}", 0..3),
        ) {
            let whole = tokens.concat();
            let end = sequences.iter().filter_map(|sequence| whole.find(sequence.as_str())).min();
            let mut watch = StopSequences::new(sequences);
            let (mut shown, mut stopped) = (String::new(), false);
            for token in &tokens {
                let (text, end) = watch.push(token);
                shown.push_str(&text);
                if end {
                    stopped = true;
                    break;
                }
            }
            if !stopped {
                shown.push_str(&watch.finish());
            }
            // A shorter sequence may complete before an earlier, longer one does: then the shorter one ends the text.
            prop_assert_eq!(stopped, end.is_some());
            let end = end.unwrap_or(whole.len());
            prop_assert!(shown.len() >= end && whole.starts_with(&shown));
        }
    }
}
