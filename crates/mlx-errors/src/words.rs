//! Parts of the sentences that errors consist of.

use std::time::Duration;

/// A subject has no spaces; what else was waited for is said in words.
pub(crate) fn timed_out(subject: &str, timeout: Duration) -> String {
    let millis = timeout.as_millis();
    if subject.contains(' ') {
        format!("waited {millis} ms for {subject} in vain")
    } else {
        format!("no reply on `{subject}` within {millis} ms")
    }
}

/// An answer of which nothing has been shown yet may be asked for again; one that has begun may not.
pub(crate) fn retry_advice(tokens: u64) -> &'static str {
    if tokens == 0 {
        "; the request may be retried elsewhere"
    } else {
        "; the answer was already under way and is not retried"
    }
}

pub(crate) fn no_worker(model: &str, known: &[String]) -> String {
    match known {
        [] => format!("no worker has the model `{model}`, nor any other"),
        known => format!("no worker has the model `{model}`; there are: `{}`", known.join("`, `")),
    }
}

pub(crate) fn listed(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(" and ")
}

pub(crate) fn and_hint(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("; {hint}") }
}

pub(crate) fn places(tried: &[impl ToString]) -> String {
    let places: Vec<String> = tried.iter().map(ToString::to_string).collect();
    places.join(", ")
}

pub(crate) fn indented(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!("\n  {}", lines.join("\n  ")) }
}
