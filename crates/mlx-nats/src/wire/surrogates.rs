//! Half characters: what JavaScript makes of an emoji that it cuts in two.
//!
//! A `\ud83d` alone is valid in JSON's grammar and no character, so that no decoder of ours takes it. Here each such half is
//! replaced by a character of its own from a private range that nobody else uses, and afterwards put together with the other
//! half, where that comes next, or replaced by U+FFFD.

/// The character that stands for the first half; the others follow it.
const STAND_IN: u32 = 0x10_F000;
const HIGH: std::ops::Range<u32> = 0xD800..0xDC00;
const LOW: std::ops::Range<u32> = 0xDC00..0xE000;

/// The JSON with stand-ins for the halves in it; nothing, where there are none.
#[cold]
pub(crate) fn replace_halves(json: &[u8]) -> Option<Vec<u8>> {
    let mut replaced = Vec::with_capacity(json.len());
    let (mut rest, mut any) = (json, false);
    while let Some((first, behind)) = rest.split_first() {
        if *first != b'\\' {
            replaced.push(*first);
            rest = behind;
            continue;
        }
        let Some(unit) = escaped_unit(rest) else {
            // Any other escape, of which the second character may be a backslash.
            let length = rest.len().min(2);
            let (escape, behind) = rest.split_at(length);
            replaced.extend_from_slice(escape);
            rest = behind;
            continue;
        };
        let (escape, behind) = rest.split_at(ESCAPE);
        let pair = HIGH.contains(&unit) && escaped_unit(behind).is_some_and(|next| LOW.contains(&next));
        if pair {
            let (both, behind) = rest.split_at(2 * ESCAPE);
            replaced.extend_from_slice(both);
            rest = behind;
            continue;
        }
        rest = behind;
        if char::from_u32(unit).is_some() {
            replaced.extend_from_slice(escape);
        } else {
            any = true;
            let stand_in = char::from_u32(STAND_IN + (unit - HIGH.start)).unwrap_or(char::REPLACEMENT_CHARACTER);
            replaced.extend_from_slice(stand_in.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    any.then_some(replaced)
}

/// The length of `\ud83d`.
const ESCAPE: usize = 6;

fn escaped_unit(json: &[u8]) -> Option<u32> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn half(character: char) -> Option<u32> {
    let unit = u32::from(character).checked_sub(STAND_IN)? + HIGH.start;
    (unit < LOW.end).then_some(unit)
}

/// Puts halves together over the borders of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Joiner {
    /// The first half at the end of the last token.
    open: Option<u32>,
}

impl Joiner {
    /// The text of a token. A first half at its end is kept for the next token, which brings the whole character.
    pub(crate) fn join(&mut self, token: &str) -> String {
        let mut text = String::with_capacity(token.len() + 4);
        for character in token.chars() {
            let unit = half(character);
            if let Some(high) = self.open.take() {
                if let Some(low) = unit.filter(|unit| LOW.contains(unit)) {
                    let joined = 0x1_0000 + ((high - HIGH.start) << 10) + (low - LOW.start);
                    text.push(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
                    continue;
                }
                text.push(char::REPLACEMENT_CHARACTER);
            }
            match unit {
                Some(high) if HIGH.contains(&high) => self.open = Some(high),
                Some(_) => text.push(char::REPLACEMENT_CHARACTER),
                None => text.push(character),
            }
        }
        text
    }

    /// The text of a token that has no halves: one that was kept is without its other.
    pub(crate) fn before(&mut self, token: String) -> String {
        if token.is_empty() {
            return token;
        }
        match self.finish() {
            Some(half) => format!("{half}{token}"),
            None => token,
        }
    }

    /// What is left at the end: a half whose other one never came.
    pub(crate) fn finish(&mut self) -> Option<char> {
        self.open.take().map(|_| char::REPLACEMENT_CHARACTER)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(json: &str) -> String {
        let replaced = replace_halves(json.as_bytes());
        serde_json::from_slice(replaced.as_deref().unwrap_or(json.as_bytes())).unwrap()
    }

    #[test]
    fn halves_are_joined_over_the_border_of_tokens() {
        let mut joiner = Joiner::default();
        assert_eq!(joiner.join(&text(r#""a\ud83d""#)), "a");
        assert_eq!(joiner.join(&text(r#""\ude00b""#)), "😀b");
        assert_eq!(joiner.finish(), None);
    }

    #[test]
    fn a_half_without_its_other_is_a_replacement_character() {
        let mut joiner = Joiner::default();
        assert_eq!(joiner.join(&text(r#""\ude00a\ud83d""#)), "\u{FFFD}a");
        assert_eq!(joiner.join("b"), "\u{FFFD}b");
        assert_eq!(joiner.join(&text(r#""\ud83d\ud83d""#)), "\u{FFFD}");
        assert_eq!(joiner.finish(), Some('\u{FFFD}'));
        assert_eq!(joiner.join(&text(r#""\ud83d""#)), "");
        assert_eq!(joiner.before(String::new()), "");
        // Such a character that was really meant stays what it is.
        assert_eq!(joiner.before("\u{10F03D}".to_owned()), "\u{FFFD}\u{10F03D}");
    }

    #[test]
    fn whole_characters_and_other_escapes_stay() {
        for json in [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\u00e9\n\"\\""#, "\"plain\"", r#""\\\\ud83d""#] {
            assert_eq!(replace_halves(json.as_bytes()), None, "{json}");
        }
        assert_eq!(text(r#""\\\ud83d""#).chars().count(), 2);
    }

    proptest! {
        #[test]
        fn nothing_panics_on_bytes_of_any_kind(json in prop::collection::vec(prop::sample::select(&b"\\ud83e0\"a"[..]), 0..40)) {
            let _ = replace_halves(&json);
        }

        #[test]
        fn a_text_cut_anywhere_is_whole_again(text in "[a😀é🦀]{0,12}", cut in 0usize..24) {
            let units: Vec<u16> = text.encode_utf16().collect();
            let (left, right) = units.split_at(cut.min(units.len()));
            let json = |units: &[u16]| {
                let escapes: Vec<String> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
                format!("\"{}\"", escapes.concat())
            };
            let mut joiner = Joiner::default();
            let mut whole = joiner.join(&self::text(&json(left)));
            whole.push_str(&joiner.join(&self::text(&json(right))));
            prop_assert_eq!(joiner.finish(), None);
            prop_assert_eq!(whole, text);
        }
    }
}
