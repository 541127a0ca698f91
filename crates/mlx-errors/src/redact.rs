//! Keeping secrets out of what people read.

use std::borrow::Cow;

/// What stands where a secret stood.
pub const REDACTED: &str = "[redacted]";

/// `text` without the credentials of the URLs in it: `nats://user:password@host` reads `nats://[redacted]@host`.
///
/// Secrets have types that do not show them; this is the net below, for text that comes from elsewhere, such as other
/// crates' errors and a server's own output. Where a text is ambiguous it hides too much: everything from `://` up to
/// the last `@` before whitespace or a double quote is taken for credentials.
///
/// ```
/// assert_eq!(mlx_errors::redact("no route to nats://me:hunter2@10.0.0.7:4222"), "no route to nats://[redacted]@10.0.0.7:4222");
/// ```
pub fn redact(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(SCHEME_END) {
        let (before, after) = rest.split_at(at + SCHEME_END.len());
        let url = after.split(|char: char| char.is_whitespace() || char == '"');
        let url = url.into_iter().next().unwrap_or_default();
        // In escaped text, such as a line of JSON, these are whitespace.
        let url = ["\\n", "\\t", "\\r"]
            .iter()
            .filter_map(|end| url.split_once(end))
            .fold(url, |url, (head, _)| if head.len() < url.len() { head } else { url });
        shown.push_str(before);
        rest = match url.rfind('@') {
            Some(at) => {
                shown.push_str(REDACTED);
                after.get(at..).unwrap_or_default()
            }
            None => after,
        };
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// Whether a field, key or variable of this name holds a secret: `password`, `authToken`, `NATS_API_KEY`.
///
/// The name's last word decides, in any case; `tokens` and `firstTokenTimeoutMs` are none.
pub fn is_secret_name(name: &str) -> bool {
    const TRAILING_WORDS: [&[u8]; 11] = [
        b"password",
        b"passwd",
        b"passphrase",
        b"secret",
        b"token",
        b"authorization",
        b"credentials",
        b"apikey",
        b"api_key",
        b"privatekey",
        b"private_key",
    ];
    let name = name.as_bytes();
    // Most names end in another letter, which settles it.
    matches!(name.last().map(u8::to_ascii_lowercase), Some(b'd' | b'e' | b't' | b'n' | b's' | b'y'))
        && TRAILING_WORDS.iter().any(|word| {
            name.len()
                .checked_sub(word.len())
                .and_then(|at| name.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(word))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x1_credentials_in_urls_are_hidden_wherever_they_stand() {
        for (text, shown) in [
            ("nats://user:canary@host:4222", "nats://[redacted]@host:4222"),
            ("nats://canary@host", "nats://[redacted]@host"),
            ("tls://user:can/ary#1@host, retry", "tls://[redacted]@host, retry"),
            ("a://u:canary@h b://u:canary@i", "a://[redacted]@h b://[redacted]@i"),
            ("\"nats://u:canary@h\\nx://u:canary@i\"", "\"nats://[redacted]@h\\nx://[redacted]@i\""),
            ("nats://h:4222 mail@example.org", "nats://h:4222 mail@example.org"),
            ("nats://a,nats://u:canary@b", "nats://[redacted]@b"),
            ("nats://u:can'a`r<y>@h", "nats://[redacted]@h"),
            ("://", "://"),
            ("no URL: user@host", "no URL: user@host"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }

    #[test]
    fn x1_names_of_secrets_are_known_by_their_last_word() {
        for name in ["password", "natsPassword", "NATS_TOKEN", "api_key", "apiKey", "clientSecret", "credentials"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["tokens", "firstTokenTimeoutMs", "seed", "passwordFile", "credentialsFile", "key", "monkey", ""] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
