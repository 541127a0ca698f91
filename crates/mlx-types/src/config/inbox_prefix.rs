//! The rule of `nats.inboxPrefix`, in two forms: for garde, and for the schema.

#![expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]

use schemars::{Schema, SchemaGenerator, json_schema};

/// What NATS clients use where nothing else is set.
pub(super) const DEFAULT_INBOX_PREFIX: &str = "_INBOX";

/// Bytes. The inbox itself follows, and the whole has to fit a subject of 1,024 bytes.
const MAX_LENGTH: usize = 256;

/// What a prefix has to be, for people.
const EXPECTED: &str = "must be a subject without wildcards, spaces and quotes, in ASCII and at most 256 bytes long, for \
                        example `_INBOX_alice`";

/// A prefix of subjects: tokens between dots, no wildcards. Quotes are left out because the server quotes subjects in its
/// refusals, which have to be recognised.
pub(super) fn inbox_prefix_rule(prefix: &str, _: &()) -> garde::Result {
    // Permissions are written with a wildcard at their end, and copied from there.
    let bare = prefix.trim_end_matches(['.', '>', '*']);
    if bare != prefix && is_prefix(bare) {
        return Err(garde::Error::new(format!(
            "is the prefix alone, without what stands behind it in a permission: write `{bare}`"
        )));
    }
    if is_prefix(prefix) { Ok(()) } else { Err(garde::Error::new(EXPECTED)) }
}

/// [`inbox_prefix_rule`], for the schema.
pub(super) fn inbox_prefix_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": MAX_LENGTH,
        "pattern": r"^[!#-&(-)+-\-/-=?-\[\]-~]+(\.[!#-&(-)+-\-/-=?-\[\]-~]+)*$",
        "errorMessage": EXPECTED,
    })
}

fn is_prefix(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'>' | b'"' | b'\'' | b'\\');
    text.len() <= MAX_LENGTH && text.split('.').all(|token| !token.is_empty() && token.bytes().all(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(prefix: &str) -> Option<String> {
        inbox_prefix_rule(prefix, &()).err().map(|error| error.message().to_owned())
    }

    #[test]
    fn an_inbox_prefix_is_a_subject_without_wildcards() {
        for good in ["_INBOX", "_INBOX_alice", "_INBOX.alice", "a.b.c", "$X-1/y:z=+~#@!&()", &"x".repeat(256)] {
            assert_eq!(complaint(good), None, "{good}");
        }
        for bad in ["", ".", ".a", "a..b", "a b", "a\n", "a*b", "*.a", ">.a", "a\"b", "a'b", "a\\b", "größe", "a\u{85}"]
        {
            assert_eq!(complaint(bad).as_deref(), Some(EXPECTED), "{bad:?}");
        }
        assert!(complaint(&"x".repeat(257)).is_some());
    }

    #[test]
    fn a_permission_in_place_of_the_prefix_is_told_what_to_write() {
        for permission in ["_INBOX_alice.>", "_INBOX_alice.", "_INBOX_alice.*", "_INBOX_alice.*.>", "_INBOX_alice>"] {
            assert!(complaint(permission).unwrap().contains("write `_INBOX_alice`"), "{permission}");
        }
    }
}
