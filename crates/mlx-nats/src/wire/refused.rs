//! What a server has said no to.

use std::sync::Arc;

use mlx_errors::{Error, ErrorKind};

/// A refusal by the server, for those who wait on its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What the server said.
    pub(crate) said: Arc<str>,
}

impl Refused {
    /// The error of a subscription.
    pub(crate) fn subscription(&self, subject: &str) -> Error {
        Error::new(ErrorKind::Subscription { subject: subject.to_owned(), reason: self.reason() })
    }

    /// The error of a publish.
    pub(crate) fn publish(&self, subject: &str) -> Error {
        Error::new(ErrorKind::Publish { subject: subject.to_owned(), reason: self.reason() })
    }

    /// What to tell a person.
    pub(crate) fn reason(&self) -> String {
        format!("the server says: {}", self.said)
    }
}
