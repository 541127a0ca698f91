//! What a server says with `-ERR`, as values.

/// An `-ERR` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerSays {
    /// A subscription is not permitted: it was not made, or has been taken away.
    SubscriptionDenied {
        /// As it was subscribed to, wildcards and all.
        subject: String,
        /// Unset where there is none, or where the server does not say (when it takes one away).
        queue_group: Option<String>,
        /// Whether the group is known: a subscription without one is then one without a group.
        exact: bool,
    },
    /// A publish is not permitted; the message was dropped.
    PublishDenied {
        /// Where it was to go.
        subject: String,
    },
    /// A message may not have its reply subject; it was dropped.
    ReplyDenied {
        /// The reply subject.
        reply: String,
    },
    /// The user, its account or the server has as many subscriptions as it may; one was not made, and which is not said.
    TooManySubscriptions,
    /// A subscription is not made because its subject is malformed; what a marker is answered with.
    InvalidSubject,
    /// A publish was on a malformed subject, which is not said.
    InvalidPublishSubject,
    /// The connection ends because of a limit, or of what the credentials are (no longer) good for.
    Ends(Ending),
    /// Words that this version does not know; they are reported as they are.
    Unknown,
}

/// Why the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A payload over its limit.
    PayloadTooLarge,
    /// A line of the protocol over its limit.
    ControlLineTooLong,
    /// Credentials that are refused, expired or revoked.
    Credentials,
    /// More connections than the server, the account or the user may have.
    TooManyConnections,
    /// No sign of life, or one that reads too slowly.
    Stale,
    /// Something that it cannot read.
    Protocol,
}

/// Reads what a server says, in the words of nats-server, of which the case has changed over time.
pub(crate) fn parse(text: &str) -> ServerSays {
    let text = text.trim().trim_matches('\'');
    let lower = text.to_ascii_lowercase();
    if let Some(at) = lower.find(PERMISSIONS) {
        // Of the same length, since only ASCII was lowered.
        return text.get(at + PERMISSIONS.len()..).and_then(denied).unwrap_or(ServerSays::Unknown);
    }
    let has = |words: &str| lower.contains(words);
    match () {
        () if has("maximum subscriptions exceeded") || has("exceeded number of tokens") => {
            ServerSays::TooManySubscriptions
        }
        () if has("invalid publish subject") => ServerSays::InvalidPublishSubject,
        () if has("invalid subject") => ServerSays::InvalidSubject,
        () if has("maximum payload") => ServerSays::Ends(Ending::PayloadTooLarge),
        () if has("maximum control line") => ServerSays::Ends(Ending::ControlLineTooLong),
        // `maximum connections exceeded`, `maximum account active connections exceeded`, and the like.
        () if has("maximum") && has("connections exceeded") => ServerSays::Ends(Ending::TooManyConnections),
        () if has("authorization") || has("authentication") || has("revoked") => ServerSays::Ends(Ending::Credentials),
        () if has("stale connection") || has("slow consumer") => ServerSays::Ends(Ending::Stale),
        () if has("protocol") || has("parser error") => ServerSays::Ends(Ending::Protocol),
        () => ServerSays::Unknown,
    }
}

const PERMISSIONS: &str = "permissions violation for ";

/// What is denied, by the words behind `Permissions Violation for`.
fn denied(text: &str) -> Option<ServerSays> {
    let (name, behind) = quoted(text)?;
    let before = text.split('"').next().unwrap_or_default().to_ascii_lowercase();
    match before.trim_end() {
        "subscription to" => {
            let says_group = behind.trim_start().to_ascii_lowercase().starts_with("using queue");
            let queue_group = if says_group { Some(quoted(behind)?.0) } else { None };
            // When it takes one away it says `(sid "7")` instead, whether there is a group or not.
            let exact = !behind.contains("(sid ");
            Some(ServerSays::SubscriptionDenied { subject: name, queue_group, exact })
        }
        "publish to" => Some(ServerSays::PublishDenied { subject: name }),
        "publish with reply of" => Some(ServerSays::ReplyDenied { reply: name }),
        _ => None,
    }
}

/// The first text in quotation marks, as Go's `%q` writes it, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut characters = text.get(text.find('"')? + 1..)?.chars();
    let mut read = String::new();
    loop {
        match characters.next()? {
            '"' => return Some((read, characters.as_str())),
            '\\' => match characters.next()? {
                'u' => read.push(hex(&mut characters, 4)?),
                'U' => read.push(hex(&mut characters, 8)?),
                'x' => read.push(hex(&mut characters, 2)?),
                'a' => read.push('\u{7}'),
                'b' => read.push('\u{8}'),
                'f' => read.push('\u{c}'),
                'v' => read.push('\u{b}'),
                't' => read.push('\t'),
                'n' => read.push('\n'),
                'r' => read.push('\r'),
                other => read.push(other),
            },
            other => read.push(other),
        }
    }
}

fn hex(characters: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let text: String = characters.take(digits).collect();
    u32::from_str_radix(&text, 16).ok().and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subscription(subject: &str, group: Option<&str>, exact: bool) -> ServerSays {
        ServerSays::SubscriptionDenied { subject: subject.to_owned(), queue_group: group.map(str::to_owned), exact }
    }

    fn publish(subject: &str) -> ServerSays {
        ServerSays::PublishDenied { subject: subject.to_owned() }
    }

    #[test]
    fn the_words_of_a_server_are_understood() {
        let ends = ServerSays::Ends;
        for (said, meant) in [
            (r#"Permissions Violation for Subscription to "lab.>""#, subscription("lab.>", None, true)),
            (
                r#"permissions violation for subscription to "lab.*" using queue "q""#,
                subscription("lab.*", Some("q"), true),
            ),
            (r#"Permissions Violation for Subscription to "lab.a" (sid "7")"#, subscription("lab.a", None, false)),
            (
                r#"Permissions Violation for Subscription to "a.b.c", too many tokens"#,
                subscription("a.b.c", None, true),
            ),
            (r#"Permissions Violation for Publish to "lab.secret""#, publish("lab.secret")),
            (r#"Permissions Violation for Publish to "a\"b\\c\u00e9""#, publish("a\"b\\cé")),
            (
                r#"Permissions Violation for Publish to "a\U0001f600\x01\a\b\f\v\t""#,
                publish("a😀\u{1}\u{7}\u{8}\u{c}\u{b}\t"),
            ),
            (
                r#"Permissions Violation for Publish with Reply of "_R_.x""#,
                ServerSays::ReplyDenied { reply: "_R_.x".into() },
            ),
            ("maximum subscriptions exceeded", ServerSays::TooManySubscriptions),
            ("subject has exceeded number of tokens limit", ServerSays::TooManySubscriptions),
            ("Invalid Subject", ServerSays::InvalidSubject),
            ("Invalid Publish Subject", ServerSays::InvalidPublishSubject),
            ("Maximum Payload Violation", ends(Ending::PayloadTooLarge)),
            ("maximum payload exceeded", ends(Ending::PayloadTooLarge)),
            ("maximum control line exceeded", ends(Ending::ControlLineTooLong)),
            ("Maximum Control Line Exceeded", ends(Ending::ControlLineTooLong)),
            ("Authorization Violation", ends(Ending::Credentials)),
            ("Authorization Timeout", ends(Ending::Credentials)),
            ("Authentication Timeout", ends(Ending::Credentials)),
            ("User Authentication Expired", ends(Ending::Credentials)),
            ("User Authentication Revoked", ends(Ending::Credentials)),
            ("Account Authentication Expired", ends(Ending::Credentials)),
            ("Credentials Revoked", ends(Ending::Credentials)),
            ("maximum connections exceeded", ends(Ending::TooManyConnections)),
            ("maximum account active connections exceeded", ends(Ending::TooManyConnections)),
            ("Stale Connection", ends(Ending::Stale)),
            ("Slow Consumer", ends(Ending::Stale)),
            ("Unknown Protocol Operation", ends(Ending::Protocol)),
            ("Permissions Violation for Subscription to lab", ServerSays::Unknown),
            ("Permissions Violation for Dancing to \"lab\"", ServerSays::Unknown),
            (r#"Permissions Violation for Publish to "unterminated"#, ServerSays::Unknown),
            ("something new", ServerSays::Unknown),
            ("", ServerSays::Unknown),
        ] {
            assert_eq!(parse(said), meant, "{said}");
            assert_eq!(parse(&format!("'{said}'")), meant, "{said}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_is_read_without_a_panic(text in ".{0,200}") {
            let _ = parse(&text);
            let _ = parse(&format!("Permissions Violation for {text}"));
            let _ = parse(&format!("Permissions Violation for Subscription to \"{text}"));
        }

        #[test]
        fn a_subject_is_read_back_as_it_was_written(subject in "[^\\x00-\\x20\\x7f]{1,60}") {
            // As Go quotes what is printable.
            let quoted = subject.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(parse(&format!("Permissions Violation for Publish to \"{quoted}\"")), publish(&subject));
        }
    }
}
