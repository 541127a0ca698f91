//! The limit of the server for the first line of what is sent to it: subject, reply subject or queue group, and numbers.
//!
//! A line over it ends the connection, and with it whatever else is under way, so that none is sent. The server does not say
//! what its limit is; its documentation advises to leave `max_control_line` as it is.

use mlx_errors::{Error, ErrorKind, Result};

/// Bytes that a nats-server takes in one line, unless told otherwise (`max_control_line`).
const LIMIT: usize = 4096;

/// Room for the sizes of headers and payload, or for the number of a subscription, and the spaces between.
const NUMBERS: usize = 24;

/// Checks the line of a publish, before it is sent.
///
/// # Errors
/// [`ErrorKind::Publish`] where the server would end the connection.
#[inline]
pub(crate) fn check_publish(subject: &str, reply: Option<&str>) -> Result<()> {
    let length = subject.len() + reply.map_or(0, str::len) + NUMBERS;
    if length <= LIMIT { Ok(()) } else { Err(publish_too_long(subject, length)) }
}

/// Checks the line of a subscription, before it is sent.
///
/// # Errors
/// [`ErrorKind::Subscription`] where the server would end the connection.
pub(crate) fn check_subscribe(subject: &str, queue_group: Option<&str>) -> Result<()> {
    let length = subject.len() + queue_group.map_or(0, str::len) + NUMBERS;
    if length <= LIMIT {
        return Ok(());
    }
    let what = if queue_group.is_some() { "its subject and queue group are" } else { "its subject is" };
    Err(Error::new(ErrorKind::Subscription { subject: shown(subject), reason: reason(what, length) }))
}

#[cold]
fn publish_too_long(subject: &str, length: usize) -> Error {
    let reason = reason("its subject and reply subject are", length);
    Error::new(ErrorKind::Publish { subject: shown(subject), reason })
}

fn reason(what: &str, length: usize) -> String {
    format!("{what} too long: {length} bytes, of which a NATS server takes {LIMIT} (`max_control_line`)")
}

/// The beginning of what is too long to be read.
fn shown(subject: &str) -> String {
    const SHOWN: usize = 80;
    match subject.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", subject.get(..end).unwrap_or_default()),
        None => subject.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mlx_errors::ErrorCode;

    use super::*;

    #[test]
    fn what_would_end_the_connection_is_refused_before_it_is_sent() {
        let long = "é".repeat(2030); // 4,060 bytes
        assert!(check_publish(&long, None).is_ok() && check_subscribe(&long, None).is_ok());
        assert!(check_subscribe(&long, Some("a group")).is_ok());
        let error = check_publish(&long, Some("_INBOX.test.1")).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (ErrorCode::NatsPublish, false));
        assert!(error.to_string().len() < 400 && error.to_string().contains("4096"), "{error}");
        let error = check_subscribe("lab.test", Some(&"q".repeat(5000))).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (ErrorCode::NatsSubscription, false));
        assert!(error.to_string().contains("lab.test") && error.to_string().contains("queue group"), "{error}");
    }
}
