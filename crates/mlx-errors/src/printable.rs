//! Text from elsewhere, made safe to print.

use std::fmt;

use crate::redact;

/// Text that somebody else chose, made safe to print: on one line, with what steers a terminal or reorders text spelt out,
/// credentials of URLs hidden, and cut where it is very long.
///
/// ```
/// assert_eq!(mlx_errors::one_line("a\nb nats://me:secret@host"), "a\\nb nats://[redacted]@host");
/// ```
pub fn one_line(text: &str) -> String {
    Printable(&redact(text)).to_string()
}

/// Shows text that a peer or a document chose: on one line, with what steers a terminal or reorders text spelt out, and
/// cut where it is very long.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 2000;
        for (index, char) in self.0.chars().enumerate() {
            if index == LONGEST {
                return write!(f, "... ({} bytes)", self.0.len());
            }
            if char.is_control()
                || matches!(char, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
            {
                write!(f, "{}", char.escape_default())?;
            } else {
                fmt::Write::write_char(f, char)?;
            }
        }
        Ok(())
    }
}
