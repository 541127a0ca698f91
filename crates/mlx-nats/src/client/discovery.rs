//! What a client says of itself where services are listed.

use std::collections::BTreeMap;

use mlx_errors::{Error, ErrorKind, Result, Violation};

/// How a client presents itself in service discovery: what `nats micro ls`, `info` and `stats` show.
///
/// Everything in it, and each service's subject, counters and last error (its public message and code), is told to anyone
/// who may ask on `$SRV.>`. To keep that private, or where the server does not permit it, set
/// [`ClientOptions::discovery`](crate::ClientOptions::discovery) to `None`.
///
/// ```
/// use mlx_nats::{ClientOptions, Discovery};
///
/// # fn example() -> mlx_nats::Result<()> {
/// let discovery = Discovery::new("mlx-worker", "1.2.0")?.describe("serves llama-3").with("rack", "7");
/// let options = ClientOptions::default().discovery(discovery);
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: String,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// `mlx-node`, in the version of this crate.
impl Default for Discovery {
    fn default() -> Self {
        Self {
            name: "mlx-node".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: String::new(),
            metadata: BTreeMap::new(),
        }
    }
}

impl Discovery {
    /// A name for this kind of node, which all of its kind share (each process gets an id of its own besides), and the
    /// version of what runs there.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigValidation`] when the name has characters other than `A-Z`, `a-z`, `0-9`, `-` and `_`, or none,
    /// or when the version is not a semantic one such as `1.2.0`.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Result<Self> {
        let (name, version) = (name.into(), version.into());
        let mut violations = Vec::new();
        if name.is_empty() || !name.chars().all(is_name_char) {
            let message = "a service's name consists of A-Z, a-z, 0-9, - and _";
            violations.push(Violation::new("discovery.name", "format", message));
        }
        if let Err(error) = semver::Version::parse(&version) {
            let message = format!("not a semantic version such as 1.2.0: {error}");
            violations.push(Violation::new("discovery.version", "format", message));
        }
        if violations.is_empty() {
            return Ok(Self { name, version, ..Self::default() });
        }
        Err(Error::new(ErrorKind::ConfigValidation { violations: violations.into() }))
    }

    /// The same, with a description for people.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// The same, with a further fact about the node. Not a secret: it is told to anyone who asks.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

pub(crate) fn is_name_char(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_version_that_tools_would_refuse_is_an_error() {
        Discovery::new("mlx-worker_2", "1.2.0-rc.1+build.5").unwrap();
        let defaults = Discovery::default();
        assert_eq!(Discovery::new(&*defaults.name, &*defaults.version).unwrap(), defaults);
        for (name, version, wrong) in [
            ("", "1.0.0", "discovery.name"),
            ("my worker", "1.0.0", "discovery.name"),
            ("a.b", "1.0.0", "discovery.name"),
            ("ä", "1.0.0", "discovery.name"),
            ("a", "1.0", "discovery.version"),
            ("a", "v1.0.0", "discovery.version"),
            ("a", "", "discovery.version"),
        ] {
            let error = Discovery::new(name, version).unwrap_err();
            assert!(error.to_string().contains(wrong), "{name} {version}: {error}");
        }
    }
}
