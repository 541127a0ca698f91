//! A client without a configuration file.

use std::path::PathBuf;

use mlx_errors::{Error, ErrorKind, Result, Violation};
use mlx_types::config::{NatsConfig, NatsMode};
use mlx_types::{NatsUrl, Secret};

use super::{Client, ClientOptions};

/// Makes a client from what is said in code; see [`Client::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "it connects with `connect`"]
pub struct ClientBuilder {
    nats: NatsConfig,
    urls: Vec<String>,
    options: ClientOptions,
}

impl Client {
    /// Makes a client from code alone, without a configuration file.
    ///
    /// ```no_run
    /// # async fn example() -> mlx_nats::Result<()> {
    /// let client = mlx_nats::Client::builder().url("nats://10.0.0.5:4222").name("lab").connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }
}

impl ClientBuilder {
    /// A server, as `nats://HOST:PORT` or `tls://HOST:PORT`. Given several times: the servers of a cluster.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// The user to connect as.
    pub fn user(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.nats.user = Some(user.into());
        self.nats.password = Some(Secret::new(password.into()));
        self
    }

    /// A token to connect with, instead of a user.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.nats.token = Some(Secret::new(token.into()));
        self
    }

    /// A file of credentials (JWT and seed) to connect with.
    pub fn credentials_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.nats.credentials_file = Some(file.into());
        self
    }

    /// The name shown by the server's monitoring.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// All that a client does beyond its connection, in place of the defaults. A [`name`](Self::name) given before stays.
    pub fn options(mut self, options: ClientOptions) -> Self {
        let name = self.options.name.take();
        self.options = ClientOptions { name: options.name.clone().or(name), ..options };
        self
    }

    /// Connects; see [`Client::connect`].
    ///
    /// # Errors
    /// [`ErrorKind::ConfigValidation`] for an invalid URL, and those of [`Client::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the attempt up and leaves nothing behind.
    pub async fn connect(self) -> Result<Client> {
        let (mut urls, mut violations) = (Vec::new(), Vec::new());
        for url in &self.urls {
            match url.parse::<NatsUrl>() {
                Ok(url) => urls.push(url),
                Err(error) => violations.push(Violation::new("url", "url", error.to_string())),
            }
        }
        if !violations.is_empty() {
            return Err(Error::new(ErrorKind::ConfigValidation { violations: violations.into() }));
        }
        let nats = self.nats.mode(NatsMode::External).servers(urls);
        Client::connect_with(&nats, self.options).await
    }
}
