//! Broken rules: where, which, what was found and what to write instead.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::printable::Printable;
use crate::redact;

/// A rule that a document breaks.
///
/// ```
/// use mlx_errors::{Location, Violation};
///
/// let violation = Violation::new("nats.embedded.port", "range", "is not a port")
///     .found("99".to_owned())
///     .expected("1024 to 65535".to_owned())
///     .location(Location::new("cluster.yaml", 4, 11));
/// assert_eq!(
///     violation.to_string(),
///     "cluster.yaml:4:11: nats.embedded.port: is not a port; found 99, expected 1024 to 65535"
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Violation {
    /// The member's path, for example `nats.embedded.port` or `skills.availableModels[2]`; empty for the whole document.
    pub path: String,
    /// The rule's name, for example `range`, `required`, `unknownKey`, `type`.
    pub rule: String,
    /// The message for people.
    pub message: String,
    /// What was found; never the value of a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What would have been right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Where it stands, for documents that come from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// What to write instead, for example ``did you mean `port`?``.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

crate::setters! {
    Violation {
        found: option String,
        expected: option String,
        location: option Location,
        suggestion: option String,
    }
}

impl Violation {
    /// A violation of `rule` at `path`.
    pub fn new(path: impl Into<String>, rule: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), rule: rule.into(), message: message.into(), ..Self::default() }
    }

    /// `found 99, expected 1024 to 65535`, as far as known.
    pub fn details(&self) -> Option<String> {
        match (&self.found, &self.expected) {
            (Some(found), Some(expected)) => Some(format!("found {found}, expected {expected}")),
            (Some(found), None) => Some(format!("found {found}")),
            (None, Some(expected)) => Some(format!("expected {expected}")),
            (None, None) => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", Printable(&self.path))?;
        }
        write!(f, "{}", Printable(&self.message))?;
        if let Some(details) = self.details() {
            write!(f, "; {}", Printable(&details))?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, " ({})", Printable(suggestion))?;
        }
        Ok(())
    }
}

impl Violation {
    /// The same, of a document whose member `section` is the one that it is of: `port` becomes `nats.port`.
    #[must_use]
    pub fn within(self, section: &str) -> Self {
        let path = if self.path.is_empty() { section.to_owned() } else { format!("{section}.{}", self.path) };
        Self { path, ..self }
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Location {
    /// The file, as it was named by the caller.
    #[serde(serialize_with = "crate::json::lossy_path")]
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Location {
    /// A place; `line` and `column` count from 1, the column in characters.
    pub fn new(file: impl Into<PathBuf>, line: usize, column: usize) -> Self {
        Self { file: file.into(), line, column }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", Printable(&self.file.to_string_lossy()), self.line, self.column)
    }
}

/// All the rules that one document breaks, in the order of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// The violations, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same, of a document whose member `section` is the one that they are of: `port` becomes `nats.port`.
    #[must_use]
    pub fn within(self, section: &str) -> Self {
        self.0.into_iter().map(|violation| violation.within(section)).collect()
    }

    /// Adds one at the end.
    pub fn push(&mut self, violation: Violation) {
        self.0.push(violation);
    }
}

impl From<Vec<Violation>> for Violations {
    fn from(violations: Vec<Violation>) -> Self {
        Self(violations)
    }
}

impl FromIterator<Violation> for Violations {
    fn from_iter<I: IntoIterator<Item = Violation>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fmt::Display::fmt(violation, f)?;
        }
        Ok(())
    }
}

impl Violations {
    /// One line for each, as `file:line:column: path: message; found X, expected Y (suggestion)`.
    ///
    /// ```
    /// # use mlx_errors::{Violation, Violations};
    /// let mut violation = Violation::new("nats.embedded.port", "range", "is out of range");
    /// violation.found = Some("99".into());
    /// violation.expected = Some("1024 to 65535".into());
    /// assert_eq!(
    ///     Violations::from(vec![violation]).render_plain(),
    ///     "nats.embedded.port: is out of range; found 99, expected 1024 to 65535\n"
    /// );
    /// ```
    pub fn render_plain(&self) -> String {
        let mut text = String::new();
        for violation in self {
            text.push_str(&redact(&violation.to_string()));
            text.push('\n');
        }
        text
    }
}
